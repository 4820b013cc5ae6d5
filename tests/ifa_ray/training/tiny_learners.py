"""Small catalogues, samples and learners that the tests of training share."""

import dataclasses
import itertools

import numpy as np
import torch

from ifa_ray.config import ModelConfig, TrainingConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.schema import OBJECTIVES, History, RankRequest, TrainingSample
from ifa_ray.training.learner import Learner, LearnerArrays

NUM_ITEMS = 60
MODELS = ("avg_pooling", "sim_soft", "twin", "ifa", "ifa_plus")


def make_items() -> ItemTable:
    rng = np.random.default_rng(0)
    return ItemTable(
        video_id_N=np.arange(NUM_ITEMS, dtype=np.int32) * 3,
        author_id_N=rng.integers(0, 9, NUM_ITEMS).astype(np.int32),
        category_N=(np.arange(NUM_ITEMS) % 5).astype(np.int32),
        duration_ms_N=np.full(NUM_ITEMS, 9_000, np.int32),
        upload_ms_N=np.zeros(NUM_ITEMS, np.int64),
        content_ND=rng.normal(size=(NUM_ITEMS, 3)).astype(np.float32),
    )


def make_samples(count: int, seed: int = 1) -> list[TrainingSample]:
    """Requests of 8 to 12 candidates; the shown ones are those of even places in the catalogue."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(count):
        size, length = int(rng.integers(8, 13)), int(rng.integers(0, 20))
        places = rng.choice(NUM_ITEMS, size, replace=False)
        shown = places % 2 == 0
        labels = np.zeros((size, len(OBJECTIVES)), np.uint8)
        labels[:, 0] = shown
        labels[:, 1:] = shown[:, None] & (rng.random((size, 3)) < 0.5)
        request = RankRequest(
            request_id=1000 + i,
            user_id=int(rng.integers(0, 7)),
            time_ms=10_000_000 + i,
            candidates_C=(places * 3).astype(np.int32),
            history=History(
                ids_T=(rng.integers(0, NUM_ITEMS, length) * 3).astype(np.int32),
                actions_T=rng.integers(0, 128, length).astype(np.uint8),
                times_ms_T=np.sort(rng.integers(0, 10_000_000, length)),
            ),
            k=5,
        )
        samples.append(TrainingSample(request=request, labels_CL=labels))
    return samples


def make_learner(
    name: str = "avg_pooling", seed: int = 3, rate: float = 1e-2, **changes: object
) -> Learner:
    """A learner of small tables; `changes` are of the model's or the training's settings."""
    values = {"width": 8, "num_heads": 2, "top_k": 4, "max_history": 16, "tower_widths": (8,)}
    values |= {"id_buckets": 128, "author_buckets": 16, "user_buckets": 8}
    ours = {key: changes.pop(key) for key in list(changes) if key.startswith("set_")}
    training = TrainingConfig(batch_size=4, learning_rate=rate, **changes)
    ticks = itertools.count()
    return Learner(
        ModelConfig(name=name, **values, **ours),
        training,
        make_items(),
        seed,
        clock=lambda: float(next(ticks)),
    )


def with_request(sample: TrainingSample, **changes: object) -> TrainingSample:
    return dataclasses.replace(sample, request=dataclasses.replace(sample.request, **changes))


def assert_equal(one: LearnerArrays, other: LearnerArrays) -> None:
    for mine, theirs in ((one.model, other.model), (one.optimizer, other.optimizer)):
        assert mine.keys() == theirs.keys()
        for name in mine:
            assert torch.equal(mine[name], theirs[name]), name
    assert one.steps == other.steps
