import math

import numpy as np
import pytest
import torch
from tiny_learners import MODELS, assert_equal, make_learner, make_samples

from ifa_ray.errors import RankerError
from ifa_ray.metrics import auc, gauc
from ifa_ray.schema import OBJECTIVES
from ifa_ray.training.learner import BatchResult, LearnerArrays, batches, summarise


@pytest.mark.parametrize("name", MODELS)
def test_equal_seeds_and_samples_give_equal_bits(name: str) -> None:
    samples = make_samples(22)
    first, second = make_learner(name), make_learner(name)
    assert first.train(samples).to_dict() == second.train(samples).to_dict()
    assert_equal(first.arrays(), second.arrays())


@pytest.mark.parametrize("name", MODELS)
def test_every_dense_weight_and_every_table_learns(name: str) -> None:
    learner = make_learner(name)
    before = learner.arrays().model
    learner.train(make_samples(24))
    after = learner.arrays().model
    trained = dict(learner.model.named_parameters())
    still = [key for key in trained if torch.equal(before[key], after[key])]
    assert still == []


def test_a_batch_is_predicted_before_it_is_learned_from() -> None:
    samples = make_samples(4)
    first = make_learner().step(samples)
    # Another learning rate: the same prediction, though not the same weights afterwards.
    again = make_learner(rate=0.5)
    result = again.step(samples)
    assert np.array_equal(first.log_probs_XL, result.log_probs_XL)
    assert not np.array_equal(again.step(samples).log_probs_XL, result.log_probs_XL)


def test_what_can_be_learned_is_learned() -> None:
    samples = make_samples(400)
    metrics = make_learner().train(samples)
    after = make_learner()
    after.train(samples)
    late = summarise([after.step(batch) for batch in batches(make_samples(80, seed=2), 4)])
    assert metrics.auc["impression"] is not None
    assert late.auc["impression"] is not None
    assert late.auc["impression"] > 0.95 > 0.6 > abs(metrics.auc["impression"] - 0.5)
    assert late.calibration["impression"] == pytest.approx(1.0, abs=0.15)


def test_metrics_are_those_of_the_predictions_request_by_request() -> None:
    samples = make_samples(10)
    learner = make_learner()
    results = [learner.step(batch) for batch in batches(samples, 4)]
    metrics = make_learner().train(samples)
    assert metrics.to_dict() == summarise(results).to_dict()
    p = np.concatenate([r.log_probs_XL for r in results])
    y = np.concatenate([s.labels_CL for s in samples])
    sizes = [len(s.labels_CL) for s in samples]
    assert p.shape == y.shape == (sum(sizes), len(OBJECTIVES))
    for i, name in enumerate(OBJECTIVES):
        assert metrics.auc[name] == auc(p[:, i], y[:, i])
        alone = [
            auc(a, b)
            for a, b in zip(
                np.split(p[:, i], np.cumsum(sizes)),
                np.split(y[:, i], np.cumsum(sizes)),
                strict=True,
            )
        ]
        assert metrics.gauc[name] == pytest.approx(np.mean([v for v in alone if v is not None]))
    assert (metrics.steps, metrics.samples, metrics.candidates) == (3, 10, sum(sizes))
    assert metrics.seconds == 3.0, "the clock of this test ticks once a reading"
    assert "seconds" not in metrics.to_dict()


def test_a_request_that_comes_twice_is_two_groups() -> None:
    def result(p: float, q: float) -> BatchResult:
        log_probs = np.repeat(np.array([[p], [q]], np.float32), len(OBJECTIVES), axis=1)
        labels = np.array([[1] * len(OBJECTIVES), [0] * len(OBJECTIVES)], np.uint8)
        return BatchResult(
            loss=1.0,
            sizes_B=np.array([2]),
            log_probs_XL=log_probs,
            labels_XL=labels,
            seconds=0.0,
        )

    metrics = summarise([result(-1.0, -2.0), result(-3.0, -4.0)])
    assert metrics.gauc["impression"] == 1.0
    assert metrics.auc["impression"] == 0.75
    pooled = gauc([-1.0, -2.0, -3.0, -4.0], [1, 0, 1, 0], [0, 0, 0, 0])
    assert pooled == 0.75


def test_no_samples_is_no_step_and_no_metric() -> None:
    metrics = make_learner().train([])
    assert (metrics.steps, metrics.loss, metrics.auc["is_click"]) == (0, None, None)


def test_a_loss_that_is_not_finite_names_step_and_requests_and_changes_nothing() -> None:
    learner = make_learner()
    samples = make_samples(8)
    learner.step(samples[:4])
    with torch.no_grad():
        for parameter in learner.model.dense_parameters():
            parameter.fill_(math.nan)
    before = learner.arrays()
    with pytest.raises(
        RankerError, match=r"loss == nan of avg_pooling at step 1 on requests \[1004, 1005"
    ):
        learner.step(samples[4:])
    assert learner.steps == 1
    after = learner.arrays()
    for name, value in before.model.items():
        assert torch.equal(torch.nan_to_num(value), torch.nan_to_num(after.model[name]))


def test_arrays_of_another_model_are_refused() -> None:
    learner = make_learner()
    learner.train(make_samples(4))
    arrays = learner.arrays()
    with pytest.raises(RuntimeError):
        make_learner().load_arrays(LearnerArrays({}, arrays.optimizer, 1))
    with pytest.raises(KeyError):
        make_learner().load_arrays(LearnerArrays(arrays.model, {"nobody:step": torch.tensor(1)}, 1))
