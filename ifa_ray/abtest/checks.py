"""Health checks, guardrails and the verdict by rule: values and plain sentences.

Knows effects, not where they are from.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from ifa_ray.abtest.effects import Effect
from ifa_ray.abtest.estimates import MIN_REPLICATES, Estimate, over_replicates
from ifa_ray.abtest.text import percent

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


COST = "cost"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guardrail:
    """One thing that must not get worse.

    Attributes:
        name: a metric's name, or `COST`.
        label: for people.
        harm: +1 where more is harm, -1 where less is.
        margin: the relative change for the worse that is put up with.
    """

    name: str
    label: str
    harm: int
    margin: float


GUARDRAILS = (
    Guardrail(name=COST, label="Cost per request", harm=1, margin=0.10),
    Guardrail(name="hate_rate", label="Hates per impression", harm=1, margin=0.05),
    Guardrail(name="active_days", label="Returning (active days per user)", harm=-1, margin=0.005),
)


def guard(estimate: Estimate, harm: int, margin: float, alpha: float) -> dict[str, Any]:
    """Judges one estimate.

    Returns:
        `status`; `worst`, the one-sided 1 - alpha bound in the direction of harm, relative;
        `p_harm`, of no harm against harm.
    """
    t = float(stats.t.isf(alpha, estimate.df))
    toward = estimate.log_lift * harm  # positive is harm
    if estimate.se == 0:
        p_harm = 0.0 if toward > 0 else 1.0
    else:
        p_harm = float(stats.t.sf(toward / estimate.se, estimate.df))
    allowed = math.log1p(margin) if harm > 0 else -math.log1p(-margin)
    if toward + t * estimate.se <= allowed:
        status = "held"
    elif p_harm < alpha and toward > allowed:
        status = "breached"
    else:
        status = "open"
    worst = math.expm1(harm * (toward + t * estimate.se))
    return {"status": status, "worst": worst, "p_harm": p_harm}


def guardrail_rows(
    effects: Mapping[str, Effect],
    cost: tuple[Sequence[float], Sequence[float]] | None,
    alpha: float,
    *,
    users_decide: bool,
) -> list[dict[str, Any]]:
    """One row per guardrail that this log can answer.

    Args:
        effects: of one treatment, by metric.
        cost: of treatment and of control, one number per replicate; None where it was not measured.
        alpha: one-sided level.
        users_decide: whether users alone may answer, without replicates.
    """
    rows = []
    for rail in GUARDRAILS:
        estimate = (
            _cost_estimate(cost) if rail.name == COST
            else rail.name in effects
            and effects[rail.name].decisive(users_decide=users_decide)
        )  # fmt: skip
        if not isinstance(estimate, Estimate):
            continue
        rows.append(
            {
                "name": rail.name,
                "label": rail.label,
                "harm": rail.harm,
                "margin": rail.margin,
                "relative": estimate.relative,
                **guard(estimate, rail.harm, rail.margin, alpha),
            }
        )
    return rows


def _cost_estimate(cost: tuple[Sequence[float], Sequence[float]] | None) -> Estimate | None:
    if cost is None or len(cost[0]) != len(cost[1]) or min([*cost[0], *cost[1], 0.0]) < 0:
        return None
    if not all([*cost[0], *cost[1]]):
        return None
    return over_replicates(
        [math.log(own) - math.log(other) for own, other in zip(*cost, strict=True)]
    )


class Decision(enum.StrEnum):
    """What the test says of one treatment arm against control."""

    BETTER = "better"
    WORSE = "worse"
    NOT_DISTINGUISHABLE = "not distinguishable"
    NO_VERDICT = "no verdict"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """A decision with the sentence that goes on top of the report."""

    decision: Decision
    line: str


def decide(
    *,
    arm: str,
    control: str,
    effect: Estimate | None,
    p_adjusted: float | None,
    alpha: float,
    replicates: int,
    arms_tested: int,
    failed_checks: Sequence[str],
    users_decide: bool = False,
    breached: Sequence[str] = (),
) -> Verdict:
    """The rule, in this order: no verdict on bad data, on too few replicates, on no effect to test.

    Then better or worse exactly where the p of the primary metric, adjusted by Holm over the
    treatment arms, is under alpha; else not distinguishable.

    Args:
        arm: the treatment.
        control: what it is compared with.
        effect: the headline over replicates of the primary metric; None where there is none.
        p_adjusted: its p after Holm; None with `effect`.
        alpha: the level of the test.
        replicates: R.
        arms_tested: how many treatment arms share the level.
        failed_checks: names of health checks that failed; any forbids a verdict.
        users_decide: `effect` is over users alone where there are too few replicates: the verdict
            is then one of these rankers as trained, and says so.
        breached: labels of the guardrails that were breached, which the line names.
    """
    no_verdict = f"No verdict on {arm}: "
    if failed_checks:
        line = f"{no_verdict}failed {', '.join(failed_checks)}; the numbers below can't be trusted."
        return Verdict(decision=Decision.NO_VERDICT, line=line)
    if replicates < MIN_REPLICATES and not users_decide:
        noun = "replicate" if replicates == 1 else "replicates"
        line = f"{no_verdict}{replicates} {noun}, at least {MIN_REPLICATES} are needed."
        return Verdict(decision=Decision.NO_VERDICT, line=line)
    if effect is None or p_adjusted is None:
        line = f"{no_verdict}an arm has no watch time, so there is no relative effect."
        return Verdict(decision=Decision.NO_VERDICT, line=line)
    low, high = (percent(bound) for bound in effect.interval(alpha))
    numbers = (
        f"{percent(effect.relative)} watch time per user, {1 - alpha:.0%} interval {low} to {high}"
    )
    as_trained = " As these rankers were trained: another training of them may differ."
    note = as_trained if replicates < MIN_REPLICATES else ""
    if p_adjusted >= alpha:
        alone = effect.p_value < alpha
        why = f", but {arms_tested} arms were tested, and it is gone after Holm." if alone else "."
        line = f"{arm} and {control} can't be told apart: {numbers}{why}{note}"
        return Verdict(decision=Decision.NOT_DISTINGUISHABLE, line=line)
    better = effect.log_lift > 0
    line = f"{arm} is {'better' if better else 'worse'} than {control}: {numbers}.{note}"
    if breached:
        noun = "guardrail" if len(breached) == 1 else "guardrails"
        line += f" Breached {noun}: {', '.join(breached)}."
    return Verdict(decision=Decision.BETTER if better else Decision.WORSE, line=line)
