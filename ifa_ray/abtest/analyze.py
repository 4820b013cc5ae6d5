"""The story of an analysis: measure each world, check, estimate, adjust, decide.

Knows no statistics of its own; each step is a function of a module beside it. The answer is plain
values, ready for JSON, and holds every number that the report prints.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ifa_ray.abtest.checks import (
    Check,
    aa_silent,
    decide,
    guardrail_rows,
    no_lost_partitions,
    numbers_finite,
    sample_ratio,
    users_equal,
)
from ifa_ray.abtest.effects import Effect, adjust, effect_of, effect_row
from ifa_ray.abtest.estimates import noise_split
from ifa_ray.abtest.logs import Logs
from ifa_ray.abtest.measure import World, available, measure, past_and_norms
from ifa_ray.abtest.metrics import METRICS, PRIMARY, Metric, answerable
from ifa_ray.abtest.planning import plan
from ifa_ray.abtest.platform import platform_view
from ifa_ray.abtest.segments import segment_effects
from ifa_ray.abtest.series import series

Worlds = Mapping[str, Sequence[World]]
Effects = Mapping[str, Mapping[str, Effect]]


def analyze(
    logs: Logs,
    checks: Sequence[Check] = (),
    cost_ms: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, Any]:
    """Compares the arms of a test with its control.

    Args:
        logs: what to read.
        checks: the caller's own health checks (see `training_equal`); like those made here, one
            that failed forbids every verdict.
        cost_ms: of each arm, what a request cost in each replicate; makes the cost a guardrail.

    Returns:
        Plain values: the settings, `levels` per arm and metric, `effects` per arm and metric,
        `daily` and `cumulative` effects, `segments`, `guardrails`, `platform`, `planning`, `aa`,
        `health`, `verdicts`, and `skipped` metrics with what they lack.

    Raises:
        LogError: if a log breaks its contract (nulls, foreign users or items, unreadable files).
    """
    worlds, metrics, skipped = _measure_all(logs)
    compared = [arm for arm in logs.arms if arm != logs.control]
    effects = {
        arm: {
            metric.name: effect_of(metric, worlds[arm], worlds[logs.control], (arm, logs.control),
                                   paired=logs.paired)
            for metric in metrics
        }
        for arm in compared
    }  # fmt: skip
    adjusted = adjust({arm: effects[arm] for arm in logs.treatments},
                      users_decide=logs.users_decide)  # fmt: skip
    health = [*checks, *_health(logs, worlds, effects)]
    guardrails = {arm: _guardrails(logs, arm, effects[arm], cost_ms) for arm in logs.treatments}
    control = worlds[logs.control]
    by_day = {arm: series(logs, worlds[arm], control) for arm in logs.treatments}
    primary = next(metric for metric in metrics if metric.name == PRIMARY)
    return {
        **_settings(logs, metrics, skipped),
        "levels": {arm: _levels(metrics, worlds[arm]) for arm in logs.arms},
        "came": {arm: _came(worlds[arm]) for arm in logs.arms},
        "effects": {
            arm: {
                name: effect_row(effect, adjusted.get(arm, {}).get(name), logs.alpha)
                for name, effect in effects[arm].items()
            }
            for arm in logs.treatments
        },
        "daily": {arm: rows["daily"] for arm, rows in by_day.items()},
        "cumulative": {arm: rows["cumulative"] for arm, rows in by_day.items()},
        "segments": {
            arm: segment_effects(logs, primary, worlds[arm], control, (arm, logs.control))
            for arm in logs.treatments
        },
        "guardrails": guardrails,
        "platform": {
            arm: platform_view(logs, metrics, worlds[arm], control, effects[arm])
            for arm in logs.treatments
        },
        "planning": {arm: _plan(logs, effects[arm][PRIMARY]) for arm in logs.treatments},
        "aa": _aa(logs, effects),
        "health": [dataclasses.asdict(check) for check in health],
        "verdicts": _verdicts(logs, effects, adjusted, health, guardrails),
    }


def _measure_all(logs: Logs) -> tuple[Worlds, tuple[Metric, ...], dict[str, tuple[str, ...]]]:
    before = [past_and_norms(logs, replicate) for replicate in range(logs.replicates)]
    metrics, skipped = answerable(available(logs, [norms for _, norms in before]))
    worlds = {
        arm: [
            measure(logs, arm, r, past[arm] if past else None, norms)
            for r, (past, norms) in enumerate(before)
        ]
        for arm in logs.arms
    }
    return worlds, metrics, skipped


def _settings(
    logs: Logs, metrics: Sequence[Metric], skipped: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    labels = {metric.name: metric.label for metric in METRICS}
    return {
        "control": logs.control,
        "arms": list(logs.arms),
        "treatments": list(logs.treatments),
        "aa_arm": logs.aa_arm,
        "alpha": logs.alpha,
        "paired": logs.paired,
        "users_decide": logs.users_decide,
        "replicates": logs.replicates,
        "days": logs.days,
        "burn_in_days": logs.burn_in_days,
        "fixed_k": logs.fixed_k,
        "users": [len(logs.users(logs.control, r)) for r in range(logs.replicates)],
        "primary": PRIMARY,
        "metrics": [_metric_row(metric) for metric in metrics],
        "skipped": [
            {"name": name, "label": labels[name], "lacks": list(lacks)}
            for name, lacks in skipped.items()
        ],
    }


def _health(logs: Logs, worlds: Worlds, effects: Effects) -> list[Check]:
    checks = []
    if logs.paired:
        seen = {arm: [world.first_day_U for world in own] for arm, own in worlds.items()}
        checks.append(users_equal(seen, logs.control))
    else:
        counts = {arm: sum(len(world.first_day_U) for world in own) for arm, own in worlds.items()}
        checks.append(sample_ratio(counts, logs.control))
    checks.append(no_lost_partitions(logs.lost_partitions()))
    checks.append(
        numbers_finite(
            {f"{arm}, replicate {r}": world.columns
             for arm, own in worlds.items() for r, world in enumerate(own)}
        )
    )  # fmt: skip
    if logs.aa_arm is not None:
        effect = effects[logs.aa_arm][PRIMARY]
        checks.append(aa_silent(logs.aa_arm, effect.decisive(users_decide=logs.users_decide)))
    return checks


def _guardrails(
    logs: Logs,
    arm: str,
    effects: Mapping[str, Effect],
    cost_ms: Mapping[str, Sequence[float]] | None,
) -> list[dict[str, Any]]:
    known = cost_ms is not None and arm in cost_ms and logs.control in cost_ms
    cost = (cost_ms[arm], cost_ms[logs.control]) if known and cost_ms else None
    return guardrail_rows(effects, cost, logs.alpha, users_decide=logs.users_decide)


def _verdicts(
    logs: Logs,
    effects: Effects,
    adjusted: Mapping[str, Mapping[str, float]],
    health: Sequence[Check],
    guardrails: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, dict[str, str]]:
    failed = [check.name for check in health if not check.ok]
    verdicts = {
        arm: decide(
            arm=arm,
            control=logs.control,
            effect=effects[arm][PRIMARY].decisive(users_decide=logs.users_decide),
            p_adjusted=adjusted[arm].get(PRIMARY),
            alpha=logs.alpha,
            replicates=logs.replicates,
            arms_tested=len(logs.treatments),
            failed_checks=failed,
            users_decide=logs.users_decide,
            breached=[row["label"] for row in guardrails[arm] if row["status"] == "breached"],
        )
        for arm in logs.treatments
    }
    return {
        arm: {"decision": verdict.decision.value, "line": verdict.line}
        for arm, verdict in verdicts.items()
    }


def _metric_row(metric: Metric) -> dict[str, Any]:
    fields = dataclasses.asdict(metric)
    return {key: fields[key] for key in ("name", "label", "unit", "group", "good")}


def _levels(metrics: Sequence[Metric], worlds: Sequence[World]) -> dict[str, dict[str, Any]]:
    """For each metric its level, mean over replicates, and that of each replicate."""
    levels = {}
    for metric in metrics:
        values = [world.totals(metric).value for world in worlds]
        known = [value for value in values if value is not None]
        mean = float(np.mean(known)) if len(known) == len(values) else None
        levels[metric.name] = {"mean": mean, "replicates": values}
    return levels


def _came(worlds: Sequence[World]) -> float:
    """The share of users who came on a counted day: the others can show no effect."""
    came = sum(int((world.columns["active_days"] > 0).sum()) for world in worlds)
    return came / sum(len(world.first_day_U) for world in worlds)


def _plan(logs: Logs, effect: Effect) -> dict[str, Any]:
    pooled = effect.pooled
    return plan(
        noise_split(effect.checkpoints) if pooled else None,
        replicates=logs.replicates,
        users=round(np.mean([len(logs.users(logs.control, r)) for r in range(logs.replicates)])),
        pooled_se=pooled.se if pooled else None,
        alpha=logs.alpha,
    )


def _aa(logs: Logs, effects: Effects) -> dict[str, Any] | None:
    """Control against its own retrained copy: what is seen of an architecture that is no other."""
    if logs.aa_arm is None:
        return None
    row = effect_row(effects[logs.aa_arm][PRIMARY], None, logs.alpha)
    lifts = [each["log_lift"] for each in row["replicates"]]
    known = [lift for lift in lifts if lift is not None]
    return {
        "arm": logs.aa_arm,
        # The spread that one pair of checkpoints of the same architecture shows.
        "floor_sd": float(np.sqrt(np.mean(np.square(known)))) if known else None,
        **row,
    }
