"""The story of an analysis: measure each world, check, estimate, adjust, decide.

Knows no statistics of its own; each step is a function of a module beside it. The answer is plain
values, ready for JSON, and holds every number that the report prints.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ifa_ray.abtest.checks import Check, no_lost_partitions, users_equal
from ifa_ray.abtest.estimate import Estimate
from ifa_ray.abtest.logs import RunLogs
from ifa_ray.abtest.metrics import METRICS, PRIMARY, Metric, World, measure
from ifa_ray.abtest.paired import Totals, log_lift, paired_effect
from ifa_ray.abtest.replicates import (
    benjamini_hochberg,
    holm,
    noise_split,
    over_replicates,
    pool,
)
from ifa_ray.abtest.verdict import decide

__all__ = ["analyze"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Effect:
    """One metric of one treatment arm against control.

    Attributes:
        lifts: the log-lift of each replicate; None where it has none.
        checkpoints: the paired user-level estimate of each replicate; empty for `world` metrics.
        headline: over replicates; None below three of them or where a lift is None.
        undefined: why there is no effect at all; None where there is one.
    """

    lifts: tuple[float | None, ...]
    checkpoints: tuple[Estimate, ...]
    headline: Estimate | None
    undefined: str | None


def analyze(logs: RunLogs, checks: Sequence[Check] = ()) -> dict[str, Any]:
    """Compares the arms of a run with its control.

    Args:
        logs: what to read.
        checks: the caller's own health checks (see `training_equal`); like those made here, one
            that failed forbids every verdict.

    Returns:
        Plain values: the settings, `levels` per arm and metric, `effects` per treatment and
        metric, `daily` effects on the primary metric, `health` and `verdicts`.

    Raises:
        LogError: if a log breaks its contract (nulls, foreign users or items, unreadable files).
    """
    worlds = {arm: [measure(logs, arm, r) for r in range(logs.replicates)] for arm in logs.arms}
    health = [*checks, *_health(logs, worlds)]
    effects = {arm: _effects(worlds[arm], worlds[logs.control], arm, logs.control)
               for arm in logs.treatments}  # fmt: skip
    adjusted = _adjust(effects)
    failed = [check.name for check in health if not check.ok]
    verdicts = {
        arm: decide(
            arm=arm,
            control=logs.control,
            effect=effects[arm][PRIMARY].headline,
            p_adjusted=adjusted[arm].get(PRIMARY),
            alpha=logs.alpha,
            replicates=logs.replicates,
            arms_tested=len(logs.treatments),
            failed_checks=failed,
        )
        for arm in logs.treatments
    }
    return {
        "control": logs.control,
        "arms": list(logs.arms),
        "treatments": list(logs.treatments),
        "alpha": logs.alpha,
        "replicates": logs.replicates,
        "days": logs.days,
        "burn_in_days": logs.burn_in_days,
        "fixed_k": logs.fixed_k,
        "users": [len(logs.user_ids[r]) for r in range(logs.replicates)],
        "primary": PRIMARY,
        "metrics": [_metric_row(metric) for metric in METRICS],
        "levels": {arm: _levels(worlds[arm]) for arm in logs.arms},
        "effects": {
            arm: {
                name: _effect_row(effect, adjusted[arm].get(name), logs.alpha)
                for name, effect in effects[arm].items()
            }
            for arm in logs.treatments
        },
        "daily": {arm: _daily(logs, worlds[arm], worlds[logs.control]) for arm in logs.treatments},
        "health": [dataclasses.asdict(check) for check in health],
        "verdicts": {
            arm: {"decision": verdict.decision.value, "line": verdict.line}
            for arm, verdict in verdicts.items()
        },
    }


def _health(logs: RunLogs, worlds: Mapping[str, Sequence[World]]) -> list[Check]:
    seen = {arm: [world.first_day_U for world in own] for arm, own in worlds.items()}
    return [users_equal(seen, logs.control), no_lost_partitions(logs.lost_partitions())]


def _effects(
    own: Sequence[World], other: Sequence[World], arm: str, control: str
) -> dict[str, _Effect]:
    effects = {}
    for metric in METRICS:
        pairs = [(b.totals(metric), a.totals(metric)) for b, a in zip(own, other, strict=True)]
        lifts = tuple(log_lift(b, a) for b, a in pairs)
        known = [lift for lift in lifts if lift is not None]
        whole = len(known) == len(lifts)
        users = [] if metric.group == "world" else [paired_effect(b, a) for b, a in pairs]
        effects[metric.name] = _Effect(
            lifts=lifts,
            checkpoints=tuple(estimate for estimate in users if estimate is not None),
            headline=over_replicates(known) if whole else None,
            undefined=None if whole else _why_undefined(pairs, arm, control),
        )
    return effects


def _why_undefined(pairs: Sequence[tuple[Totals, Totals]], arm: str, control: str) -> str:
    for replicate, (b, a) in enumerate(pairs):
        for name, totals in ((arm, b), (control, a)):
            # <= 0 and not == 0: a sum of differences may round below what it stands for.
            if totals.value is None or totals.value <= 0:
                return f"nothing to count in replicate {replicate} of {name}"
    raise AssertionError("every lift is defined")


def _adjust(effects: Mapping[str, Mapping[str, _Effect]]) -> dict[str, dict[str, float]]:
    """Adjusted p for each arm and metric that has a headline.

    Holm over arms for the primary metric. Benjamini-Hochberg over the other metrics of one arm,
    not over all arms at once: an arm like `random`, where everything differs, would loosen the
    threshold for all the others.
    """
    p_values = {
        arm: {name: row.headline.p_value for name, row in rows.items() if row.headline is not None}
        for arm, rows in effects.items()
    }
    primary = holm({arm: row[PRIMARY] for arm, row in p_values.items() if PRIMARY in row})
    adjusted = {}
    for arm, row in p_values.items():
        adjusted[arm] = benjamini_hochberg({k: p for k, p in row.items() if k != PRIMARY})
        if arm in primary:
            adjusted[arm][PRIMARY] = primary[arm]
    return adjusted


def _metric_row(metric: Metric) -> dict[str, Any]:
    fields = dataclasses.asdict(metric)
    return {key: fields[key] for key in ("name", "label", "unit", "group", "good")}


def _levels(worlds: Sequence[World]) -> dict[str, dict[str, Any]]:
    """For each metric its level, mean over replicates, and that of each replicate."""
    levels = {}
    for metric in METRICS:
        values = [world.totals(metric).value for world in worlds]
        known = [value for value in values if value is not None]
        mean = float(np.mean(known)) if len(known) == len(values) else None
        levels[metric.name] = {"mean": mean, "replicates": values}
    return levels


def _effect_row(effect: _Effect, p_adjusted: float | None, alpha: float) -> dict[str, Any]:
    complete = effect.undefined is None
    lifts = [lift for lift in effect.lifts if lift is not None]
    mean = float(np.mean(lifts)) if complete else None
    pooled = pool(effect.checkpoints) if complete and effect.checkpoints else None
    split = noise_split(effect.checkpoints) if pooled else None
    own = iter(effect.checkpoints)
    return {
        "undefined": effect.undefined,
        "log_lift": mean,
        "relative": None if mean is None else float(np.expm1(mean)),
        **_interval_row(effect.headline, alpha),
        "p_adjusted": p_adjusted,
        "significant": None if p_adjusted is None else p_adjusted < alpha,
        "checkpoint": _interval_row(pooled, alpha),
        "noise": dataclasses.asdict(split) if split else None,
        "replicates": [
            {
                "replicate": replicate,
                "log_lift": lift,
                "relative": None if lift is None else float(np.expm1(lift)),
                **_interval_row(next(own, None) if lift is not None else None, alpha),
            }
            for replicate, lift in enumerate(effect.lifts)
        ],
    }


def _interval_row(estimate: Estimate | None, alpha: float) -> dict[str, Any]:
    if estimate is None:
        return {"se": None, "df": None, "interval": None, "acceptance_region": None, "p": None}
    return {
        "se": estimate.se,
        "df": estimate.df,
        "interval": list(estimate.interval(alpha)),
        "acceptance_region": list(estimate.acceptance_region(alpha)),
        "p": estimate.p_value,
    }


def _daily(logs: RunLogs, own: Sequence[World], other: Sequence[World]) -> list[dict[str, Any]]:
    """The effect on watch time of each day; intervals are pointwise, one day at a time."""
    rows = []
    for day in range(logs.days):
        with np.errstate(divide="ignore", invalid="ignore"):
            lifts_R = np.array(
                [np.log(b.day_watch_s[day]) - np.log(a.day_watch_s[day])
                 for b, a in zip(own, other, strict=True)]
            )  # fmt: skip
        defined = bool(np.isfinite(lifts_R).all())
        headline = over_replicates(lifts_R.tolist()) if defined else None
        rows.append(
            {
                "day": day,
                "counted": day >= logs.burn_in_days,
                "relative": float(np.expm1(lifts_R.mean())) if defined else None,
                "interval": list(headline.interval(logs.alpha)) if headline else None,
            }
        )
    return rows
