"""Guardrails: what a better watch time must not be paid with. One-sided; vetoes nothing by itself.

A guardrail has a direction of harm and a margin that would be put up with. It is *held* where harm
beyond the margin is ruled out, *breached* where there is harm for certain and more of it than the
margin, and *open* where this test can't tell.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

from ifa_ray.abtest.effects import Effect
from ifa_ray.abtest.estimate import Estimate
from ifa_ray.abtest.replicates import over_replicates

__all__ = ["COST", "GUARDRAILS", "Guardrail", "guard", "guardrail_rows"]

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
