import dataclasses

import numpy as np
import pytest
import torch
from tiny_learners import assert_equal, make_items, make_learner, make_samples

from ifa_ray.checkpoints.format import load_model, save_checkpoint
from ifa_ray.ranking.ranker import ModelRanker
from ifa_ray.schema import TrainingSample, validate_response
from ifa_ray.training.learner import Learner
from ifa_ray.training.versions import load_learner


def in_order(samples: list[TrainingSample]) -> list[TrainingSample]:
    """The samples with the positions in which their shown candidates were shown."""
    made = []
    for sample in samples:
        shown = sample.labels_CL[:, 0] == 1
        positions_C = np.where(shown, np.cumsum(shown) - 1, -1).astype(np.int16)
        made.append(dataclasses.replace(sample, positions_C=positions_C))
    return made


def set_learner(**changes: object) -> Learner:
    return make_learner("ifa", set_step="learned", **changes)


SAMPLES = in_order(make_samples(24))


def test_the_step_learns_and_leaves_every_other_weight_bit_equal() -> None:
    plain, with_step = make_learner("ifa"), set_learner()
    plain.train(SAMPLES)
    with_step.train(SAMPLES)
    assert with_step.model.set_response is not None
    assert with_step.model.set_response.repetition_weights().any()
    mine, theirs = plain.arrays(), with_step.arrays()
    extra = {name for name in theirs.model if name.startswith("set_response.")}
    assert extra
    assert theirs.model.keys() - extra == mine.model.keys()
    for name in mine.model:
        assert torch.equal(mine.model[name], theirs.model[name]), name
    assert theirs.optimizer.keys() == mine.optimizer.keys()


def test_a_restored_learner_goes_on_bit_for_bit(tmp_path) -> None:
    through, restored = set_learner(), set_learner()
    through.train(SAMPLES)
    restored.train(SAMPLES[:12])
    folder = tmp_path / "version"
    save_checkpoint(folder, restored, version=0, log_watermark={}, metrics={})
    restored = load_learner(folder, make_items())
    restored.train(SAMPLES[12:])
    assert_equal(through.arrays(), restored.arrays())


def test_what_was_learned_is_served_from_a_checkpoint(tmp_path) -> None:
    learner = set_learner(set_strength=50.0)
    learner.train(SAMPLES)
    save_checkpoint(tmp_path / "v", learner, version=0, log_watermark={}, metrics={})
    model = load_model(tmp_path / "v", make_items())
    off = dataclasses.replace(model.config, set_step="off")
    ranker = ModelRanker(model, make_items(), version=0)
    asked = [sample.request for sample in SAMPLES]
    slates = ranker.rank(asked)
    for request, response in zip(asked, slates, strict=True):
        validate_response(request, response)
    model.config = off
    greedy = ModelRanker(model, make_items(), version=0).rank(asked)
    assert [s.ids_K.tolist() for s in slates] != [s.ids_K.tolist() for s in greedy]
    model.config = dataclasses.replace(off, set_step="learned", set_strength=0.0)
    same = ModelRanker(model, make_items(), version=0).rank(asked)
    assert [s.ids_K.tolist() for s in same] == [s.ids_K.tolist() for s in greedy]
    assert [s.scores_K.tolist() for s in same] == [s.scores_K.tolist() for s in greedy]


def test_a_log_without_an_order_teaches_nothing_and_says_so() -> None:
    learner = set_learner()
    with pytest.warns(UserWarning, match="the log has no positions"):
        learner.train(make_samples(4))
    assert learner.model.set_response is not None
    assert not learner.model.set_response.repetition_weights().any()
