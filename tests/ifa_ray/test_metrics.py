import itertools
import math

import numpy as np
import pytest

from ifa_ray.errors import RankerError
from ifa_ray.metrics import auc, calibration, gauc, group_aucs, log_loss


def brute_force_auc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Counts every pair of a positive and a negative."""
    pairs = list(itertools.product(scores[labels == 1], scores[labels == 0]))
    wins = sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs)
    return wins / len(pairs) if pairs else None


@pytest.mark.parametrize("num_values", [1, 2, 5, 1000])
def test_auc_counts_pairs_and_halves_ties(num_values: int) -> None:
    rng = np.random.default_rng(num_values)
    scores = rng.integers(0, num_values, 120) / 7.0
    labels = rng.integers(0, 2, 120)
    assert auc(scores, labels) == pytest.approx(brute_force_auc(scores, labels), abs=1e-12)


def test_auc_of_known_orders() -> None:
    assert auc([1.0, 2.0, 3.0], [0, 0, 1]) == 1.0
    assert auc([3.0, 2.0, 1.0], [0, 0, 1]) == 0.0
    assert auc([1.0, 1.0], [0, 1]) == 0.5
    assert auc([1.0, 2.0, 3.0, 4.0], [0, 1, 0, 1]) == 0.75


def test_auc_of_one_class_or_nothing_is_none() -> None:
    assert auc([1.0, 2.0], [1, 1]) is None
    assert auc([1.0, 2.0], [0, 0]) is None
    assert auc([], []) is None
    assert gauc([1.0, 2.0], [1, 0], [0, 1]) is None


def test_auc_does_not_depend_on_row_order_or_on_the_scale_of_scores() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=500), rng.integers(0, 2, 500)
    order = rng.permutation(500)
    assert auc(scores, labels) == auc(scores[order], labels[order])
    assert auc(scores, labels) == auc(np.exp(scores), labels)


def test_auc_tells_float64_neighbours_and_large_negatives_apart() -> None:
    assert auc([-1000.0, np.nextafter(-1000.0, 0)], [0, 1]) == 1.0


def test_group_aucs_are_those_of_each_group_alone() -> None:
    rng = np.random.default_rng(3)
    groups = rng.integers(0, 40, 600) * 1_000_003
    scores, labels = rng.integers(0, 6, 600) / 3.0, rng.random(600) < 0.15
    alone = {g: brute_force_auc(scores[groups == g], labels[groups == g]) for g in set(groups)}
    expected = {g: value for g, value in alone.items() if value is not None}
    assert 0 < len(expected) < len(alone), "the draw must hold groups of one class"
    ids, values = group_aucs(scores, labels, groups)
    assert ids.tolist() == sorted(expected)
    assert values == pytest.approx([expected[g] for g in sorted(expected)], abs=1e-12)
    assert gauc(scores, labels, groups) == pytest.approx(np.mean(list(expected.values())))


def test_ties_do_not_reach_across_groups() -> None:
    _, values = group_aucs([1.0] * 5, [0, 1, 1, 0, 0], [0, 0, 1, 1, 1])
    assert values.tolist() == [0.5, 0.5]


def test_gauc_counts_a_small_group_as_much_as_a_large_one() -> None:
    scores = np.array([1.0, 0.0, *np.arange(10)])
    labels = np.array([0, 1, *([0] * 9), 1])
    assert gauc(scores, labels, [0, 0, *([1] * 10)]) == 0.5


def test_scores_between_groups_do_not_matter_to_gauc() -> None:
    scores, labels, groups = np.array([1.0, 2.0, 1.0, 2.0]), [0, 1, 0, 1], [0, 0, 1, 1]
    assert gauc(scores + np.array([0, 0, 9, 9]), labels, groups) == 1.0


def test_log_loss_is_the_mean_cross_entropy() -> None:
    p, y = np.array([0.9, 0.2, 0.5]), np.array([1, 0, 0])
    expected = -(math.log(0.9) + math.log(0.8) + math.log(0.5)) / 3
    assert log_loss(np.log(p), y) == pytest.approx(expected)
    assert log_loss([], []) is None


def test_log_loss_of_rare_and_of_certain_predictions_is_finite_and_exact() -> None:
    assert log_loss([-1e-30], [0]) == pytest.approx(53 * math.log(2))
    assert log_loss([-500.0], [1]) == 500.0
    assert log_loss([-40.0], [0]) == pytest.approx(math.exp(-40.0), rel=1e-9)


def test_calibration_is_promised_over_observed() -> None:
    assert calibration(np.log([0.5, 0.5, 0.5, 0.5]), [1, 0, 0, 0]) == pytest.approx(2.0)
    assert calibration(np.log([0.5]), [0]) is None


def test_nan_scores_are_refused_and_located() -> None:
    with pytest.raises(RankerError, match=r"scores\[1\] == nan, must be finite"):
        auc([0.0, math.nan], [0, 1])
