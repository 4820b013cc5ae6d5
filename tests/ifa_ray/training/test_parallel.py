"""Two real processes over gloo learn what one learns of both their batches."""

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny_learners import make_learner, make_samples

from ifa_ray.training.parallel import Ranks, part_of_rank

BATCH, STEPS = 3, 3


def same_sizes(count):
    """Samples of eight candidates each, so that a mean over ranks is the mean over candidates."""
    cut = []
    for sample in make_samples(count):
        request = dataclasses.replace(
            sample.request, candidates_C=np.ascontiguousarray(sample.request.candidates_C[:8])
        )
        cut.append(dataclasses.replace(sample, request=request, labels_CL=sample.labels_CL[:8]))
    return cut


def work(rank, rendezvous, out, samples):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    learner = make_learner("ifa_plus")
    learner.share(Ranks.here())
    results = [
        learner.step(samples[start : start + BATCH]) for start in range(0, len(samples), BATCH)
    ]
    torch.save((learner.arrays().model, results), f"{out}/{rank}.pt")
    # gloo aborts a process whose peer leaves while a message is on its way.
    while not all(Path(out, f"{other}.pt").exists() for other in range(2)):
        time.sleep(0.01)
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=["same sizes", "uneven parts and a tail of one"])
def learned(request, tmp_path_factory):
    """What two ranks and one worker made of the same samples."""
    same = request.param == "same sizes"
    # Three a batch: parts of two and of one, of 8 to 12 candidates each; the last batch is of one.
    samples = same_sizes(BATCH * STEPS) if same else make_samples(BATCH * STEPS + 1)
    out = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, args=(out / "rendezvous", out, samples), nprocs=2)
    ranks = [torch.load(out / f"{rank}.pt", weights_only=False) for rank in range(2)]
    alone = make_learner("ifa_plus")
    results = [
        alone.step(samples[start : start + BATCH]) for start in range(0, len(samples), BATCH)
    ]
    return ranks, (alone.arrays().model, results)


def test_two_workers_learn_what_one_does_and_stay_equal(learned):
    ((one, _), (other, _)), (expected, _) = learned
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), f"{name} differs between ranks"
        torch.testing.assert_close(tensor, expected[name], atol=2e-4, rtol=1e-3, msg=name)


def test_every_rank_knows_what_was_said_of_the_whole_batch_in_its_order(learned):
    ((_, one), (_, other)), (_, expected) = learned
    for mine, theirs, alone in zip(one, other, expected, strict=True):
        assert mine.loss == theirs.loss == pytest.approx(alone.loss, rel=1e-4)
        assert np.array_equal(mine.log_probs_XL, theirs.log_probs_XL)
        assert np.array_equal(mine.labels_XL, alone.labels_XL)
        assert np.array_equal(mine.sizes_B, alone.sizes_B)
        np.testing.assert_allclose(mine.log_probs_XL, alone.log_probs_XL, rtol=1e-3, atol=1e-3)


def test_parts_count_by_their_candidates_and_no_rank_is_without_one():
    samples = make_samples(3)
    ranks = [Ranks(rank, 2) for rank in range(2)]
    sizes = [len(sample.labels_CL) for sample in samples]
    weights = [rank.weight(samples) for rank in ranks]
    assert weights[0] / weights[1] == pytest.approx((sizes[0] + sizes[2]) / sizes[1])
    assert sum(weights) == pytest.approx(2)
    assert [rank.part(samples[:1]) for rank in ranks] == [samples[:1]] * 2
    assert [rank.weight(samples[:1]) for rank in ranks] == [1.0, 1.0]


def test_parts_hold_every_sample_once():
    samples = make_samples(7)
    parts = [part_of_rank(samples, rank, 3) for rank in range(3)]
    assert [len(part) for part in parts] == [3, 2, 2]
    ids = sorted(s.request.request_id for part in parts for s in part)
    assert ids == [s.request.request_id for s in samples]
