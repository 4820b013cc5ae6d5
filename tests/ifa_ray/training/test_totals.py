"""Sums over a stream: as the exact metrics, whatever the batches, and through a checkpoint."""

import numpy as np
import pytest
import torch
from test_windows import batch

from ifa_ray.schema import OBJECTIVES
from ifa_ray.training.learner import summarise
from ifa_ray.training.progressive import StreamTotals


def make(count=40):
    rng = np.random.default_rng(3)
    return [batch(rng, list(rng.integers(3, 30, 4))) for _ in range(count)]


def test_totals_are_the_exact_metrics_but_for_ties_within_a_bin():
    results, totals = make(), StreamTotals()
    for result in results:
        totals.add(result)
    found, exact = totals.metrics(), summarise(results)
    assert (found["steps"], found["requests"]) == (40, 160)
    assert found["candidates"] == exact.candidates
    for name in OBJECTIVES:
        assert found["auc"][name] == pytest.approx(exact.auc[name], abs=2e-4)
        assert found["gauc"][name] == pytest.approx(exact.gauc[name], abs=1e-12)
        assert found["log_loss"][name] == pytest.approx(exact.log_loss[name], rel=1e-9)
        assert found["calibration"][name] == pytest.approx(exact.calibration[name], rel=1e-9)


def test_totals_go_on_from_a_copy_bit_for_bit():
    straight, first = StreamTotals(), StreamTotals()
    results = make(10)
    for result in results:
        straight.add(result)
    for result in results[:5]:
        first.add(result)
    second = StreamTotals(first.tensors())
    for result in results[5:]:
        second.add(result)
    for name, value in straight.tensors().items():
        assert torch.equal(value, second.tensors()[name])


def test_nothing_is_nan_before_the_first_positive():
    rng = np.random.default_rng(0)
    totals = StreamTotals()
    assert totals.metrics()["auc"]["impression"] is None
    totals.add(batch(rng, [4], np.zeros((4, len(OBJECTIVES)), bool)))
    found = totals.metrics()
    assert found["auc"]["is_click"] is None
    assert found["calibration"]["is_click"] is None
    assert found["log_loss"]["is_click"] > 0
