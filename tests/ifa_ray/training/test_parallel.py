"""Two real processes over gloo learn what one learns of both their batches."""

import dataclasses
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny_learners import make_items, make_learner, make_samples

from ifa_ray.training.loop import Learner
from ifa_ray.training.parallel import average_gradients, part_of_rank

BATCH, STEPS = 4, 3


def same_sizes(count):
    """Samples of eight candidates each, so that a mean over ranks is the mean over candidates."""
    cut = []
    for sample in make_samples(count):
        request = dataclasses.replace(
            sample.request, candidates_C=np.ascontiguousarray(sample.request.candidates_C[:8])
        )
        cut.append(dataclasses.replace(sample, request=request, labels_CL=sample.labels_CL[:8]))
    return cut


def work(rank, rendezvous, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    base = make_learner("ifa_plus")
    learner = Learner(
        base.model_config, base.training_config, make_items(), base.seed,
        after_backward=average_gradients,
    )  # fmt: skip
    samples = same_sizes(BATCH * STEPS)
    for start in range(0, len(samples), BATCH):
        learner.step(part_of_rank(samples[start : start + BATCH], rank, 2))
    torch.save(learner.arrays().model, f"{out}/{rank}.pt")
    # gloo aborts a process whose peer leaves while a message is on its way.
    while not all(Path(out, f"{other}.pt").exists() for other in range(2)):
        time.sleep(0.01)
    dist.destroy_process_group()


def test_two_workers_learn_what_one_does_and_stay_equal(tmp_path):
    mp.spawn(work, args=(tmp_path / "rendezvous", tmp_path), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    alone = make_learner("ifa_plus")
    samples = same_sizes(BATCH * STEPS)
    for start in range(0, len(samples), BATCH):
        alone.step(samples[start : start + BATCH])
    expected = alone.arrays().model
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), f"{name} differs between ranks"
        torch.testing.assert_close(tensor, expected[name], atol=2e-4, rtol=1e-3, msg=name)


def test_parts_hold_every_sample_once():
    samples = make_samples(7)
    parts = [part_of_rank(samples, rank, 3) for rank in range(3)]
    assert [len(part) for part in parts] == [3, 2, 2]
    ids = sorted(s.request.request_id for part in parts for s in part)
    assert ids == [s.request.request_id for s in samples]
