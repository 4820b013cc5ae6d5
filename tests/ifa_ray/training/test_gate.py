"""What the quality gate lets pass, and what it refuses, in words."""

import pytest
import torch

from ifa_ray.schema import OBJECTIVES
from ifa_ray.training.driver import GateConfig, judge
from ifa_ray.training.learner import LearnerArrays


def arrays(weight=1.0, state=1.0):
    return LearnerArrays(
        model={"a.weight": torch.tensor([0.5, weight])},
        optimizer={"a.weight:exp_avg": torch.tensor([state]), "a.weight:step": torch.tensor(3)},
        steps=1,
    )


def metrics(auc=0.8, loss=0.1):
    return {"auc": dict.fromkeys(OBJECTIVES, auc), "loss": loss}


def ask(auc=0.8, loss=0.1, previous=None, positives=1000, found=None, **gate):
    return judge(GateConfig(**gate), 4, found or arrays(), metrics(auc, loss), previous, positives)


def test_a_healthy_version_passes():
    decision = ask(auc=0.75, previous=metrics(0.8))
    assert decision.passed
    assert decision.reasons == decision.notes == ()
    assert (decision.auc, decision.previous_auc) == (0.75, 0.8)


def test_the_first_version_has_nothing_to_compare_with():
    decision = ask()
    assert decision.passed
    assert decision.notes == ("no earlier AUC of impression to compare with",)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_and_states_that_are_not_finite_are_refused_and_named(bad):
    assert ask(found=arrays(weight=bad)).reasons == (
        "weights a.weight: 1 of 2 values are not finite",
    )
    assert ask(found=arrays(state=bad)).reasons == (
        "optimiser state a.weight:exp_avg: 1 of 1 values are not finite",
    )


def test_an_auc_that_fell_too_far_is_refused():
    decision = ask(auc=0.69, previous=metrics(0.8))
    assert not decision.passed
    assert decision.reasons == (
        "progressive AUC of impression == 0.6900, must be >= 0.8000 - 0.1 (max_auc_drop)",
    )
    assert ask(auc=0.69, previous=metrics(0.8), max_auc_drop=0.2).passed
    assert ask(auc=0.69, previous=metrics(0.8), max_auc_drop=None).passed


def test_an_auc_of_few_positives_is_not_judged_and_that_is_said():
    decision = ask(auc=0.2, previous=metrics(0.8), positives=199)
    assert decision.passed
    assert decision.notes == ("AUC of impression not judged: 199 positives, min_positives == 200",)
    assert ask(auc=None, previous=metrics(0.8)).passed


def test_an_exploding_loss_is_refused():
    decision = ask(loss=1.2, previous=metrics(loss=0.1))
    assert decision.reasons == (
        "loss == 1.2, must be <= 10 (max_loss_ratio) times the previous version's 0.1",
    )
    assert ask(loss=1.2, previous=metrics(loss=0.1), max_loss_ratio=None).passed
