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
from ifa_ray.abtest.text import interval, percent

SRM_ALPHA = 0.001
"""Sample-ratio checks use a stricter level than effects: a false alarm throws a whole run away."""


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


def users_equal(seen: Mapping[str, Sequence[npt.NDArray[np.bool_]]], control: str) -> Check:
    """Compares whom each arm's log saw on the first day, when no ranker can have moved it yet.

    A sign test on the users that one arm saw and the other did not, all replicates together: who
    comes on the first day is drawn alike in every arm, so losses on one side mean a broken log.
    `seen` holds each arm's mask over the users, for each replicate.
    """
    name, same = "equal users", True
    for arm, masks in seen.items():
        pairs = list(zip(masks, seen[control], strict=True))
        extra = sum(int((own & ~other).sum()) for own, other in pairs)
        lacking = sum(int((other & ~own).sum()) for own, other in pairs)
        if extra + lacking == 0:
            continue
        same = False
        p = float(stats.binomtest(extra, extra + lacking).pvalue)
        if p < SRM_ALPHA:
            detail = (
                f"On the first day {arm} lacks {lacking:,} users that {control} saw and has "
                f"{extra:,} that it did not (sign test p = {p:.1e})."
            )
            return Check(name=name, ok=False, detail=detail)
    counts = [sum(int(mask.sum()) for mask in masks) for masks in seen.values()]
    number = f"the same {min(counts):,}" if same else f"{min(counts):,} to {max(counts):,}"
    return Check(name=name, ok=True, detail=f"Each arm saw {number} users on the first day.")


def sample_ratio(users: Mapping[str, int], control: str) -> Check:
    """Compares how many users each arm of an unpaired test has with an equal share for all.

    A sample-ratio mismatch: users were lost or sent on by more than chance, and those that are left
    are not alike. A binomial test of each arm against control.
    """
    name = "sample ratio"
    for arm, count in users.items():
        p = float(stats.binomtest(count, count + users[control]).pvalue) if arm != control else 1.0
        if p < SRM_ALPHA:
            detail = (
                f"{arm} has {count:,} users and {control} {users[control]:,}, which a fair split "
                f"hardly gives (p = {p:.1e})."
            )
            return Check(name=name, ok=False, detail=detail)
    listed = ", ".join(f"{arm} {count:,}" for arm, count in users.items())
    return Check(name=name, ok=True, detail=f"Users per arm: {listed}.")


def numbers_finite(columns: Mapping[str, Mapping[str, npt.NDArray[np.float64]]]) -> Check:
    """Fails where a user's total of any arm is NaN or infinite."""
    name, count = "finite numbers", 0
    for arm, totals in columns.items():
        for column, values_U in totals.items():
            bad = int((~np.isfinite(values_U)).sum())
            if bad:
                detail = f"{column} of {bad:,} users of {arm} is not a finite number."
                return Check(name=name, ok=False, detail=detail)
            count += values_U.size
    return Check(name=name, ok=True, detail=f"All {count:,} totals of users are finite numbers.")


def aa_silent(arm: str, estimate: Estimate | None) -> Check:
    """Fails where control and its own retrained copy differ by more than chance."""
    if estimate is None:
        return Check(name="A/A", ok=True, detail=f"{arm} gave too few replicates to tell.")
    p = estimate.p_value
    detail = f"Control and its copy {arm} differ by {100 * estimate.relative:+.2f}%, p = {p:.2g}."
    return Check(name="A/A", ok=p >= SRM_ALPHA, detail=detail)


def no_lost_partitions(lost: Sequence[str]) -> Check:
    """Fails where any file that every other arm and day has is not there."""
    detail = "Every arm has every replicate, day and shard."
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        detail = f"Missing: {', '.join(lost[:3])}{more}."
    return Check(name="complete logs", ok=not lost, detail=detail)


def training_equal(training: Mapping[str, Mapping[str, Any]]) -> Check:
    """Compares the training budgets of the arms that learn: steps, batches and samples.

    Unequal budgets would measure the budget, not the architecture. Fields that no arm reports are
    not compared.
    """
    name, budget = "equal training", []
    for field in ("steps", "batches", "samples"):
        values = {arm: row[field] for arm, row in training.items() if field in row}
        if values and (len(set(values.values())) > 1 or len(values) < len(training)):
            listed = ", ".join(f"{arm} {values.get(arm, 'none')}" for arm in training)
            return Check(name=name, ok=False, detail=f"{field} differ: {listed}.")
        budget += [f"{value:,} {field}" for value in list(values.values())[:1]]
    detail = f"Every learning arm: {', '.join(budget)}." if budget else "No arm learns."
    return Check(name=name, ok=True, detail=detail)


@dataclasses.dataclass(frozen=True)
class Guardrail:
    """One thing that must not get worse: a metric, or the cost of a request.

    Attributes:
        name: a metric's name, or `cost`.
        label: for people.
        harm: +1 where more is harm, -1 where less is.
        margin: the relative change for the worse that is put up with.
    """

    name: str
    label: str
    harm: int
    margin: float


GUARDRAILS = (
    Guardrail("cost", "Cost per request", +1, 0.10),
    Guardrail("hate_rate", "Hates per impression", +1, 0.05),
    Guardrail("active_days", "Returning (active days per user)", -1, 0.005),
)


def guard(estimate: Estimate, harm: int, margin: float, alpha: float) -> dict[str, Any]:
    """Judges one estimate.

    Returns:
        `status`; `worst`, the one-sided 1 - alpha bound in the direction of harm, relative;
        `p_harm`, of no harm against harm.
    """
    toward = estimate.log_lift * harm  # positive is harm
    p_harm = 0.0 if toward > 0 else 1.0
    if estimate.se > 0:
        p_harm = float(stats.t.sf(toward / estimate.se, estimate.df))
    worst = toward + float(stats.t.isf(alpha, estimate.df)) * estimate.se
    allowed = math.log1p(margin) if harm > 0 else -math.log1p(-margin)
    breached = p_harm < alpha and toward > allowed
    status = "held" if worst <= allowed else "breached" if breached else "open"
    return {"status": status, "worst": math.expm1(harm * worst), "p_harm": p_harm}


def guardrail_rows(
    effects: Mapping[str, Effect],
    cost: Sequence[float] | None,
    control_cost: Sequence[float] | None,
    alpha: float,
) -> list[dict[str, Any]]:
    """One row per guardrail that this log can answer, one-sided.

    `effects` are of one treatment, by metric; costs of each replicate, None where not measured.
    """
    estimates = {name: effect.decisive for name, effect in effects.items()}
    if cost and control_cost and min(*cost, *control_cost) > 0:
        pairs = zip(cost, control_cost, strict=True)
        estimates["cost"] = over_replicates([math.log(own) - math.log(ref) for own, ref in pairs])
    return [
        {
            **dataclasses.asdict(rail),
            "relative": estimate.relative,
            **guard(estimate, rail.harm, rail.margin, alpha),
        }
        for rail in GUARDRAILS
        if (estimate := estimates.get(rail.name)) is not None
    ]


class Decision(enum.StrEnum):
    """The outcome of one treatment arm against control."""

    BETTER = "better"
    WORSE = "worse"
    NOT_DISTINGUISHABLE = "not distinguishable"
    NO_VERDICT = "no verdict"


def decide(
    effect: Effect,
    p_adjusted: float | None,
    *,
    arms_tested: int = 1,
    failed_checks: Sequence[str] = (),
    breached: Sequence[str] = (),
) -> tuple[Decision, str]:
    """The rule, with its sentence: no verdict on bad data, too few replicates, or no effect.

    Then better or worse exactly where the p of the primary metric, adjusted by Holm over the
    treatment arms, is under alpha; else not distinguishable. A verdict of users alone, where they
    may decide, is one of these rankers as trained, and says so.

    Args:
        effect: on the primary metric.
        p_adjusted: its p after Holm; None where nothing could be tested.
        arms_tested: how many treatment arms share the level.
        failed_checks: names of health checks that failed; any forbids a verdict.
        breached: labels of the guardrails that were breached, which the line names.
    """
    (arm, control), alpha = effect.versus.names, effect.versus.alpha
    tested, replicates = effect.decisive, len(effect.lifts)
    few = replicates < MIN_REPLICATES
    reason = None
    if failed_checks:
        reason = f"failed {', '.join(failed_checks)}; the numbers below can't be trusted"
    elif few and not effect.versus.users_decide:
        noun = "replicate" if replicates == 1 else "replicates"
        reason = f"{replicates} {noun}, at least {MIN_REPLICATES} are needed"
    elif tested is None or p_adjusted is None:
        reason = "an arm has no watch time, so there is no relative effect"
    if reason or tested is None or p_adjusted is None:
        return Decision.NO_VERDICT, f"No verdict on {arm}: {reason}."
    numbers = (
        f"{percent(tested.relative)} watch time per user, {1 - alpha:.0%} interval "
        f"{interval(tested.interval(alpha))}"
    )
    note = " As these rankers were trained: another training of them may differ." if few else ""
    if p_adjusted >= alpha:
        alone = tested.p_value < alpha
        why = f", but {arms_tested} arms were tested, and it is gone after Holm." if alone else "."
        line = f"{arm} and {control} can't be told apart: {numbers}{why}{note}"
        return Decision.NOT_DISTINGUISHABLE, line
    decision = Decision.BETTER if tested.log_lift > 0 else Decision.WORSE
    line = f"{arm} is {decision.value} than {control}: {numbers}.{note}"
    if breached:
        noun = "guardrail" if len(breached) == 1 else "guardrails"
        line += f" Breached {noun}: {', '.join(breached)}."
    return decision, line
