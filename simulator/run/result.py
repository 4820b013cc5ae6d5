"""From a finished run's folder to result.json and report.html: a function of what lies there.

Knows the folder and the A/B analysis; no Ray. Every number of the report is in
result.json, and `python -m simulator report` renders it again.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from ifa_ray.abtest.analyze import analyze
from ifa_ray.abtest.checks import training_equal
from ifa_ray.abtest.logs import run_logs
from ifa_ray.abtest.report.render import write_report
from ifa_ray.checkpoints.format import load_metrics, version_folder
from ifa_ray.data.log import read_items, read_timings
from ifa_ray.data.run_folder import RunFolder, ShardDay, write_atomically
from ifa_ray.provenance import provenance
from ifa_ray.schema import OBJECTIVES
from simulator.run.opening import run_facts
from simulator.run.presets import AA_ARM, RunConfig

RESULT_VERSION = 2

SECTIONS = {"calibration": "simulator.calibration.table:calibration_of_run"}
"""Parts of the result that optional packages add: a function of the run's folder and config."""

_SHOWN = ("preset", "seed", "replicates", "users", "days", "burn_in_days", "regime")
LIMITS = (
    "The user model decides who wins: this is a simulation with calibrated rates, not a platform.",
    "Models are small and see few requests; orderings are about sample efficiency as much as "
    "about what a model can represent.",
    "Cost per request is CPU time of one ranking thread, without transport; arms share the "
    "machine's caches and memory bandwidth.",
)


def write_result(folder: RunFolder, config: RunConfig) -> dict[str, Any]:
    """Analyses the run's log, writes result.json and the reports, and returns the result."""
    result = build_result(folder, config)
    text = json.dumps(result, indent=1, sort_keys=True, allow_nan=False)
    write_atomically(folder.result, text.encode())
    write_report(folder.root)
    return result


def build_result(folder: RunFolder, config: RunConfig) -> dict[str, Any]:
    """Every number of a finished run, as plain JSON values."""
    facts = run_facts(folder)
    arms = [arm.name for arm in config.parsed_arms]
    items = {r: read_items(folder.items(r)) for r in range(config.replicates)}
    training = {
        arm.name: _training(folder, config, arm.name)
        for arm in config.parsed_arms
        if arm.ranker is None
    }
    cost = {arm: _cost(folder, config, arm, training.get(arm)) for arm in arms}
    analysis = analyze(
        run_logs(
            folder.log,
            items=items,
            user_ids={r: np.arange(config.users, dtype=np.int32) for r in range(config.replicates)},
            arms=tuple(arms),
            control=arms[0],
            aa_arm=AA_ARM if AA_ARM in arms else None,
            replicates=config.replicates,
            days=config.days,
            burn_in_days=config.burn_in_days,
            # Two slates, which most users see on a day that they come.
            fixed_k=2 * config.world.slate_size,
        ),
        checks=[training_equal(_budgets(config, training))],
        cost_ms={arm: row["replicates_mean_ms"] for arm, row in cost.items()},
    )
    return {
        "schema_version": RESULT_VERSION,
        "run": {
            "name": folder.root.name,
            **{name: getattr(config, name) for name in _SHOWN},
            "arms": arms,
            "control": arms[0],
            "candidates": {arm: config.candidates_of(arm) for arm in arms},
            "config_hash": config.config_hash,
            "config": config.to_dict(),
            **{name: facts[name] for name in ("started", "parts", "wall_s", "peak_memory_gib")},
            **provenance(),
        },
        "ab": analysis,
        "training": training,
        "cost": cost,
        **{name: _section(place, folder, config) for name, place in SECTIONS.items()},
        "health": [],  # the analysis has them all, the training budgets included
        "limits": list(_limits_of(config, facts)),
    }


def _section(place: str, folder: RunFolder, config: RunConfig) -> Any:
    module, _, function = place.partition(":")
    return getattr(importlib.import_module(module), function)(folder, config)


def _budgets(config: RunConfig, training: dict[str, Any]) -> dict[str, Any]:
    """Training budgets that must be equal: with an equal time for all, candidates are not."""
    if config.regime == "quality":
        return training
    fields = ("steps", "samples")
    return {arm: {field: row[field] for field in fields} for arm, row in training.items()}


def _training(folder: RunFolder, config: RunConfig, arm: str) -> dict[str, Any]:
    """Steps and progressive metrics of an arm, summed or averaged over its versions."""
    versions = [(r, v) for r in range(config.replicates) for v in range(config.days + 1)]
    metrics = [load_metrics(version_folder(folder.models(arm, r), v)) for r, v in versions]
    seconds = [json.loads(folder.training_time(arm, *v).read_bytes())["seconds"] for v in versions]
    days = [each for each in metrics if each["samples"]]
    counts = ("steps", "samples", "candidates")
    return {
        **{field: sum(each[field] for each in metrics) for field in counts},
        "versions": config.days + 1,
        "seconds": round(sum(seconds), 2),
        "auc": {name: _mean([each["auc"][name] for each in days]) for name in OBJECTIVES},
        "gauc": {name: _mean([each["gauc"][name] for each in days]) for name in OBJECTIVES},
    }


def _cost(
    folder: RunFolder, config: RunConfig, arm: str, training: dict[str, Any] | None
) -> dict[str, Any]:
    """Milliseconds of CPU per ranked request, over the measured days."""
    by_replicate = [
        np.concatenate(
            [
                read_timings(folder.table("timings", ShardDay(arm, r, day, shard)))["rank_ms"]
                for day in range(config.burn_in_days, config.days)
                for shard in range(config.shards)
            ]
        )
        for r in range(config.replicates)
    ]
    rank_ms = np.concatenate(by_replicate)
    p50, p95 = np.percentile(rank_ms, [50, 95]) if len(rank_ms) else (0.0, 0.0)
    per_sample = training and 1e3 * training["seconds"] / training["samples"]
    return {
        "requests": len(rank_ms),
        "p50_ms": round(float(p50), 3),
        "p95_ms": round(float(p95), 3),
        "mean_ms": round(float(rank_ms.mean()), 3) if len(rank_ms) else 0.0,
        "replicates_mean_ms": [
            round(float(part.mean()), 4) if len(part) else 0.0 for part in by_replicate
        ],
        "train_ms_per_sample": round(per_sample, 3) if per_sample else None,
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 5) if known else None


def _limits_of(config: RunConfig, facts: dict[str, Any]) -> Iterator[str]:
    """Sentences that a reader of this run's numbers must know."""
    if config.regime == "equal_latency":
        counts = ", ".join(
            f"{arm.name} {config.candidates_of(arm.name):,}" for arm in config.parsed_arms
        )
        yield (
            f"Regime equal_latency: every arm had {config.budget_ms:.2f} ms of CPU per request, as "
            f"measured when the run began, and was given of {config.world.num_candidates:,} "
            f"candidates: {counts}. It was also trained on no others."
        )
    yield from LIMITS
    top_k, max_history = config.model.top_k, config.model.max_history
    yield (
        f"Top-k models look at k = {top_k} of up to {max_history} impressions "
        f"({top_k / max_history:.1%}; the paper's ratio is 1%). The ratio moves the verdict."
    )
    parts = facts["parts"]
    if facts["killed"]:
        yield (
            f"The run was resumed; {facts['killed']} of its {parts} parts were killed, and "
            "their time is not in the run time."
        )
    if facts["programs"] > 1:
        yield (
            f"The {parts} parts of the run were simulated by {facts['programs']} different "
            "programs (commits or library versions); parts.json has them."
        )
