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
from ifa_ray.abtest.effects import Effect, Versus, adjust, effect_of, effect_row, segment_effects
from ifa_ray.abtest.estimates import noise_split
from ifa_ray.abtest.logs import Logs
from ifa_ray.abtest.measure import World, available, measure, past_of
from ifa_ray.abtest.metrics import PRIMARY, WATCH_TIME, Metric, answerable
from ifa_ray.abtest.planning import plan
from ifa_ray.abtest.platform import platform_view
from ifa_ray.abtest.series import series

Worlds = Mapping[str, Sequence[World]]

PARTS = (
    "effects",
    "daily",
    "cumulative",
    "segments",
    "guardrails",
    "platform",
    "planning",
    "verdicts",
)
"""Of the answer, those that each treatment has."""


def analyze(
    logs: Logs,
    checks: Sequence[Check] = (),
    cost_ms: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, Any]:
    """Compares the arms of a test with its control.

    Args:
        logs: see `run_logs` and `open_own_logs` of `ifa_ray.abtest.logs`.
        checks: the caller's own health checks (see `training_equal`); like those made here, one
            that failed forbids every verdict.
        cost_ms: of each arm, what a request cost in each replicate; makes the cost a guardrail.

    Returns:
        Plain values: the settings, `levels` per arm and metric, `effects` per arm and metric,
        `daily` and `cumulative` effects, `segments`, `guardrails`, `platform`, `planning`, `aa`,
        `health`, `verdicts`, and `skipped` metrics with what they lack.

    Raises:
        LogError: if a log breaks its contract (foreign users or items, unreadable files).
    """
    pasts = [past_of(logs, replicate) for replicate in range(logs.replicates)]
    metrics, skipped = answerable(available(logs, pasts))
    worlds = {
        arm: [measure(logs, arm, r, past) for r, past in enumerate(pasts)] for arm in logs.arms
    }
    versus = {
        arm: Versus(
            names=(arm, logs.control),
            pairs=list(zip(worlds[arm], worlds[logs.control], strict=True)),
            paired=logs.paired,
            users_decide=logs.users_decide,
            alpha=logs.alpha,
        )
        for arm in logs.arms
        if arm != logs.control
    }
    effects = {
        arm: {metric.name: effect_of(metric, pair) for metric in metrics}
        for arm, pair in versus.items()
    }
    adjusted = adjust({arm: effects[arm] for arm in logs.treatments})
    health = [*checks, *_health(logs, worlds, effects)]
    by_arm = {}
    for arm in logs.treatments:
        costs = [(cost_ms or {}).get(name) for name in (arm, logs.control)]
        guardrails = guardrail_rows(effects[arm], costs[0], costs[1], logs.alpha)
        decision, line = decide(
            effects[arm][PRIMARY],
            adjusted[arm].get(PRIMARY),
            arms_tested=len(logs.treatments),
            failed_checks=[check.name for check in health if not check.ok],
            breached=[row["label"] for row in guardrails if row["status"] == "breached"],
        )
        by_arm[arm] = {
            "effects": {
                name: effect_row(effect, adjusted[arm].get(name))
                for name, effect in effects[arm].items()
            },
            **series(logs, versus[arm]),
            "segments": segment_effects(WATCH_TIME, versus[arm]),
            "guardrails": guardrails,
            "platform": platform_view(logs, metrics, versus[arm], effects[arm]),
            "planning": _plan(logs, effects[arm][PRIMARY]),
            "verdicts": {"decision": decision.value, "line": line},
        }
    return {
        **_settings(logs, metrics, skipped),
        "levels": {arm: _levels(metrics, own) for arm, own in worlds.items()},
        "came": {arm: _came(own) for arm, own in worlds.items()},
        "aa": _aa(effects[logs.aa_arm][PRIMARY], logs.aa_arm) if logs.aa_arm else None,
        "health": [dataclasses.asdict(check) for check in health],
        **{part: {arm: parts[part] for arm, parts in by_arm.items()} for part in PARTS},
    }


def _settings(
    logs: Logs, metrics: Sequence[Metric], skipped: Mapping[Metric, Sequence[str]]
) -> dict[str, Any]:
    names = (
        "control",
        "aa_arm",
        "alpha",
        "paired",
        "users_decide",
        "replicates",
        "days",
        "burn_in_days",
        "fixed_k",
    )
    of_metric = ("name", "label", "unit", "group", "good")
    return {
        **{name: getattr(logs, name) for name in names},
        "arms": list(logs.arms),
        "treatments": list(logs.treatments),
        "users": [len(logs.users[logs.control, r]) for r in range(logs.replicates)],
        "primary": PRIMARY,
        "metrics": [{key: getattr(metric, key) for key in of_metric} for metric in metrics],
        "skipped": [
            {"name": metric.name, "label": metric.label, "lacks": list(lacks)}
            for metric, lacks in skipped.items()
        ],
    }


def _health(logs: Logs, worlds: Worlds, effects: Mapping[str, Mapping[str, Effect]]) -> list[Check]:
    seen = {arm: [world.first_day_U for world in own] for arm, own in worlds.items()}
    if logs.paired:
        users = users_equal(seen, logs.control)
    else:
        counts = {arm: sum(map(len, masks)) for arm, masks in seen.items()}
        users = sample_ratio(counts, logs.control)
    columns = {
        f"{arm}, replicate {r}": world.columns
        for arm, own in worlds.items()
        for r, world in enumerate(own)
    }
    checks = [users, no_lost_partitions(logs.lost), numbers_finite(columns)]
    if logs.aa_arm is not None:
        checks.append(aa_silent(logs.aa_arm, effects[logs.aa_arm][PRIMARY].decisive))
    return checks


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
        users=round(np.mean([len(logs.users[logs.control, r]) for r in range(logs.replicates)])),
        pooled_se=pooled.se if pooled else None,
        alpha=logs.alpha,
    )


def _aa(effect: Effect, arm: str) -> dict[str, Any]:
    """Control against its own retrained copy: what is seen of an architecture that is no other."""
    # The spread that one pair of checkpoints of the same architecture shows.
    floor = float(np.sqrt(np.mean(np.square(effect.known)))) if effect.known else None
    return {"arm": arm, "floor_sd": floor, **effect_row(effect)}
