"""Means, paired differences and tests over seeds, against hand computations and scipy."""

import dataclasses
import math

import numpy as np
import pytest
from films import fake_run
from scipy import stats

from ifa_ray.evaluation.result import compare, difference, estimate, model_estimate, part_means
from ifa_ray.schema import OBJECTIVES


def test_an_estimate_is_mean_standard_error_and_t_interval() -> None:
    found = estimate([0.5, 0.6, 0.7])
    assert found.mean == pytest.approx(0.6)
    assert found.standard_error == pytest.approx(0.1 / math.sqrt(3))
    # The 97.5% quantile of t with 2 degrees of freedom is 4.302653.
    assert found.half_width == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)
    alone = estimate([0.5])
    assert (alone.mean, alone.standard_error, alone.half_width, alone.p) == (0.5, None, None, None)
    assert estimate([0.5, None]).mean is None


def test_the_paired_test_is_scipys() -> None:
    rng = np.random.default_rng(3)
    ours, theirs = 0.7 + 0.01 * rng.normal(size=(2, 6))
    runs = [fake_run("ifa", s, float(v)) for s, v in enumerate(ours)]
    runs += [fake_run("twin", s, float(v)) for s, v in enumerate(theirs)]
    found = difference(runs, "ifa", "twin", "auc", "is_click")
    expected = stats.ttest_rel(ours, theirs)
    low, high = expected.confidence_interval(0.95)
    assert found.mean is not None
    assert found.half_width is not None
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(
        (low, high)
    )
    assert found.standard_error == pytest.approx(stats.sem(ours - theirs))


def test_differences_are_paired_by_seed_whatever_the_order_of_runs() -> None:
    runs = [
        fake_run("ifa", 1, 0.75),
        fake_run("twin", 0, 0.50),
        fake_run("ifa", 0, 0.625),
        fake_run("twin", 1, 0.625),
    ]
    found = difference(runs, "ifa", "twin", "auc", "is_click")
    assert (found.mean, found.standard_error, found.p) == (0.125, 0.0, 0.0)
    error = model_estimate(runs, "ifa", "auc", "is_click").standard_error
    assert error == pytest.approx(0.0625)
    same = difference([*runs, *runs[:0]], "ifa", "ifa", "auc", "is_click")
    assert (same.mean, same.p) == (0.0, 1.0)


def test_what_is_not_defined_says_why_and_of_which_seed() -> None:
    fine = [fake_run("ifa", 0, 0.6), fake_run("twin", 0, 0.5)]
    empty = [fake_run("ifa", 1, None, calibration=None), fake_run("twin", 1, None, None)]
    full = [fake_run("ifa", 1, None), fake_run("twin", 1, None)]
    for second, reason in ((empty, "no positives (seed 1)"), (full, "no negatives (seed 1)")):
        for found in (
            model_estimate([*fine, *second], "ifa", "auc", "is_like"),
            difference([*fine, *second], "ifa", "twin", "auc", "is_like"),
        ):
            assert (found.mean, found.p, found.undefined) == (None, None, reason)


def test_p_values_are_adjusted_over_all_models_and_objectives_of_a_table() -> None:
    runs = [fake_run("twin", s, 0.5) for s in range(4)]
    runs += [fake_run("ifa", s, 0.5 + 0.01 * (1 + s)) for s in range(4)]
    runs += [fake_run("din", s, 0.5 + 0.01 * (s % 2)) for s in range(4)]
    found = compare(runs, ("twin", "din", "ifa"), "twin", "auc")
    assert len(found) == 2 * len(OBJECTIVES)
    small = float(stats.ttest_1samp([0.01, 0.02, 0.03, 0.04], 0.0).pvalue)
    large = float(stats.ttest_1samp([0.0, 0.01, 0.0, 0.01], 0.0).pvalue)
    # Holm by hand: four equal small ones of eight, then four equal large ones of four.
    by_model = {each.model: each for each in found}
    assert by_model["ifa"].p_holm == pytest.approx(8 * small)
    assert by_model["din"].p_holm == pytest.approx(min(1.0, max(8 * small, 4 * large)))


def test_means_along_the_stream_are_not_defined_where_one_seeds_is_not() -> None:
    curves = [[0.5, 0.6, None], [0.7, 0.7, 0.9]]
    runs = [
        dataclasses.replace(
            fake_run("twin", seed, 0.5),
            curve=tuple(fake_run("", 0, value).whole for value in curve),
        )
        for seed, curve in enumerate(curves)
    ]
    assert part_means(runs, "twin") == [pytest.approx(0.6), pytest.approx(0.65), None]
