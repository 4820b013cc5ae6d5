"""Health checks as values: what must hold before a verdict is given. Decides nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from ifa_ray.abtest.estimate import Estimate

__all__ = [
    "Check",
    "aa_silent",
    "no_lost_partitions",
    "numbers_finite",
    "sample_ratio",
    "training_equal",
    "users_equal",
]

SRM_ALPHA = 0.001
"""Sample-ratio checks use a stricter level than effects: a false alarm throws a whole run away."""

BUDGET = ("steps", "batches", "samples")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One health check.

    Attributes:
        name: short, a phrase that reads after "failed".
        ok: False forbids every verdict of the run.
        detail: the numbers behind it, one sentence.
    """

    name: str
    ok: bool
    detail: str


def users_equal(
    seen: Mapping[str, Sequence[npt.NDArray[np.bool_]]], control: str, alpha: float = SRM_ALPHA
) -> Check:
    """Compares whom each arm's log saw on the first day, when no ranker can have moved it yet.

    A sign test on the users that one arm saw and the other did not, all replicates together: who
    comes on the first day is drawn alike in every arm, so losses on one side mean a broken log.

    Args:
        seen: for each arm, one boolean mask over the users for each replicate.
        control: the arm that the others are compared with.
        alpha: the check fails below it.
    """
    name = "equal users"
    same = True
    for arm, masks in seen.items():
        pairs = list(zip(masks, seen[control], strict=True))
        extra = sum(int((own & ~other).sum()) for own, other in pairs)
        lacking = sum(int((other & ~own).sum()) for own, other in pairs)
        if extra + lacking == 0:
            continue
        same = False
        p = float(stats.binomtest(extra, extra + lacking).pvalue)
        if p < alpha:
            detail = (
                f"On the first day {arm} lacks {lacking:,} users that {control} saw and has "
                f"{extra:,} that it did not (sign test p = {p:.1e})."
            )
            return Check(name=name, ok=False, detail=detail)
    counts = {arm: sum(int(mask.sum()) for mask in masks) for arm, masks in seen.items()}
    low, high = min(counts.values()), max(counts.values())
    number = f"the same {low:,} users" if same else f"{low:,} to {high:,} users"
    return Check(name=name, ok=True, detail=f"Each arm saw {number} on the first day.")


def sample_ratio(users: Mapping[str, int], control: str, alpha: float = SRM_ALPHA) -> Check:
    """Compares how many users each arm of an unpaired test has with an equal share for all.

    A sample-ratio mismatch: users were lost or sent on by more than chance, and those that are left
    are not alike. A binomial test of each arm against control.
    """
    name = "sample ratio"
    for arm, count in users.items():
        both = count + users[control]
        p = float(stats.binomtest(count, both).pvalue) if arm != control and both else 1.0
        if p < alpha:
            detail = (
                f"{arm} has {count:,} users and {control} {users[control]:,}, which a fair split "
                f"hardly gives (p = {p:.1e})."
            )
            return Check(name=name, ok=False, detail=detail)
    listed = ", ".join(f"{arm} {count:,}" for arm, count in users.items())
    return Check(name=name, ok=True, detail=f"Users per arm: {listed}.")


def numbers_finite(columns: Mapping[str, Mapping[str, npt.NDArray[np.float64]]]) -> Check:
    """Fails where a user's total of any arm is NaN or infinite."""
    name = "finite numbers"
    count = 0
    for arm, totals in columns.items():
        for column, values_U in totals.items():
            bad = int((~np.isfinite(values_U)).sum())
            if bad:
                detail = f"{column} of {bad:,} users of {arm} is not a finite number."
                return Check(name=name, ok=False, detail=detail)
            count += values_U.size
    return Check(name=name, ok=True, detail=f"All {count:,} totals of users are finite numbers.")


def aa_silent(arm: str, estimate: Estimate | None, alpha: float = SRM_ALPHA) -> Check:
    """Fails where control and its own retrained copy differ by more than chance."""
    name = "A/A"
    if estimate is None:
        return Check(name=name, ok=True, detail=f"{arm} gave too few replicates to tell.")
    p = estimate.p_value
    detail = f"Control and its copy {arm} differ by {100 * estimate.relative:+.2f}%, p = {p:.2g}."
    return Check(name=name, ok=p >= alpha, detail=detail)


def no_lost_partitions(lost: Sequence[str]) -> Check:
    """Fails where any file that every other arm and day has is not there."""
    name = "complete logs"
    if not lost:
        return Check(name=name, ok=True, detail="Every arm has every replicate, day and shard.")
    more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
    return Check(name=name, ok=False, detail=f"Missing: {', '.join(lost[:3])}{more}.")


def training_equal(training: Mapping[str, Mapping[str, Any]]) -> Check:
    """Compares the training budgets of the arms that learn: steps, batches and samples.

    Unequal budgets would measure the budget, not the architecture. Fields that no arm reports are
    not compared.
    """
    name = "equal training"
    for field in BUDGET:
        values = {arm: row[field] for arm, row in training.items() if field in row}
        if values and (len(set(values.values())) > 1 or len(values) < len(training)):
            listed = ", ".join(f"{arm} {values.get(arm, 'none')}" for arm in training)
            return Check(name=name, ok=False, detail=f"{field} differ: {listed}.")
    first = next(iter(training.values()), {})
    budget = ", ".join(f"{first[field]:,} {field}" for field in BUDGET if field in first)
    detail = f"Every learning arm: {budget}." if budget else "No arm learns."
    return Check(name=name, ok=True, detail=detail)
