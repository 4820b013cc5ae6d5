"""Exact metrics of ranked predictions: AUC, GAUC, log loss, calibration.

Knows numpy only: scores, labels and whom they belong to. Nothing is NaN: a metric that is not
defined (no positives, no negatives) is None. All are O(X log X) and vectorised.

Letters: X scored candidates, of any number of requests.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ifa_ray.errors import RankerError


def auc(scores_X: npt.ArrayLike, labels_X: npt.ArrayLike) -> float | None:
    """The probability that a positive outscores a negative; a tie counts one half.

    Returns:
        None where one of the classes is absent.
    """
    scores, labels = _checked(scores_X, labels_X)
    return gauc(scores, labels, np.zeros(len(scores), np.int64))


def gauc(scores_X: npt.ArrayLike, labels_X: npt.ArrayLike, groups_X: npt.ArrayLike) -> float | None:
    """The mean AUC of the groups that have both classes, every group counting once.

    With request ids as groups it is the metric of ranking one candidate set. With user ids it is
    per user, over all of a user's requests. Unweighted: weights by impressions, as in the DIN
    paper, would let the most active users decide.

    Returns:
        None where no group has both classes.
    """
    _, aucs_G = group_aucs(scores_X, labels_X, groups_X)
    return float(aucs_G.mean()) if len(aucs_G) else None


def group_aucs(
    scores_X: npt.ArrayLike, labels_X: npt.ArrayLike, groups_X: npt.ArrayLike
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The AUC of each group that has both classes: group ids (increasing) and AUCs, [G] each."""
    scores, labels = _checked(scores_X, labels_X)
    ids_G, groups = np.unique(np.asarray(groups_X), return_inverse=True)
    if not len(scores):
        return ids_G, np.empty(0)
    order = np.lexsort((scores, groups))
    scores, labels, groups = scores[order], labels[order], groups[order]
    ranks_X = _mid_ranks(scores, groups)
    sizes_G = np.bincount(groups)
    positives_G = np.bincount(groups, weights=labels)
    negatives_G = sizes_G - positives_G
    # Mann and Whitney's U from the ranks within each group, which start at 1.
    starts_G = np.cumsum(sizes_G) - sizes_G
    rank_sums_G = np.bincount(groups, weights=labels * (ranks_X - starts_G[groups]))
    wins_G = rank_sums_G - positives_G * (positives_G + 1) / 2
    both = (positives_G > 0) & (negatives_G > 0)
    return ids_G[both], wins_G[both] / (positives_G[both] * negatives_G[both])


def log_loss(log_probs_X: npt.ArrayLike, labels_X: npt.ArrayLike) -> float | None:
    """Mean cross entropy of log-probabilities, in nats; None where there is nothing to score.

    A probability that float64 cannot tell from 1 costs a negative label as much as one that is
    2^-53 below 1, instead of infinity.
    """
    log_probs, labels = _checked(log_probs_X, labels_X)
    if not len(log_probs):
        return None
    log_not = np.log(np.maximum(-np.expm1(log_probs), 2.0**-53))
    return float(-np.where(labels > 0, log_probs, log_not).mean())


def calibration(log_probs_X: npt.ArrayLike, labels_X: npt.ArrayLike) -> float | None:
    """Predicted over observed positives: 1 is calibrated, 2 promises twice too many.

    Returns:
        None where there are no positives.
    """
    log_probs, labels = _checked(log_probs_X, labels_X)
    observed = labels.sum()
    return float(np.exp(log_probs).sum() / observed) if observed else None


def _mid_ranks(scores: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """1-based ranks of rows sorted by (group, score); ties share their mean rank."""
    new_run = np.ones(len(scores), bool)
    new_run[1:] = (scores[1:] != scores[:-1]) | (groups[1:] != groups[:-1])
    starts = np.flatnonzero(new_run)
    stops = np.append(starts[1:], len(scores))
    return ((starts + 1 + stops) / 2)[np.cumsum(new_run) - 1]


def _checked(scores_X: npt.ArrayLike, labels_X: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = np.asarray(scores_X, np.float64), np.asarray(labels_X, np.float64)
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise RankerError(f"scores[{bad}] == {scores[bad]}, must be finite.")
    assert scores.shape == labels.shape
    return scores, labels
