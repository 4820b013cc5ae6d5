"""Towers that learn in bfloat16: near the exact step, and exact again when they rank."""

import dataclasses

import pytest
import torch
from tiny_learners import make_items, make_learner, make_samples

from ifa_ray.config import TrainingConfig
from ifa_ray.data.features import build_batch
from ifa_ray.errors import ConfigError
from ifa_ray.training.loop import Learner


def make(name, precision):
    base = make_learner(name)
    training = dataclasses.replace(base.training_config, tower_precision=precision)
    return Learner(base.model_config, training, make_items(), base.seed)


@pytest.mark.parametrize("name", ["ifa", "ifa_plus", "twin"])
def test_a_step_is_near_the_exact_one_and_keeps_float32_weights(name):
    samples = make_samples(24)
    exact, rough = make(name, "float32"), make(name, "bfloat16")
    ours, theirs = rough.train(samples), exact.train(samples)
    assert ours.loss == pytest.approx(theirs.loss, rel=0.02)
    assert ours.loss != theirs.loss, "bfloat16 was used"
    assert {t.dtype for t in rough.arrays().model.values() if t.is_floating_point()} == {
        torch.float32
    }


def test_without_gradients_the_towers_are_exact():
    exact, rough = make("ifa", "float32"), make("ifa", "bfloat16")
    rough.load_arrays(exact.arrays())
    batch = build_batch([make_samples(1)[0].request], make_items(), exact.model_config)
    with torch.inference_mode():
        assert torch.equal(exact.model(batch), rough.model(batch))
    assert not torch.equal(exact.model(batch), rough.model(batch))


def test_names_of_weights_stay_as_they_are():
    assert (
        make("ifa", "bfloat16").arrays().model.keys() == make_learner("ifa").arrays().model.keys()
    )


def test_unknown_precisions_are_refused():
    with pytest.raises(ConfigError, match="Did you mean 'bfloat16'"):
        TrainingConfig(tower_precision="bfloat")
