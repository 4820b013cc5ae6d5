"""Turns a run's result into rows of text and figures for the template; estimates nothing.

Every number is taken from the result; what is absent is printed as a dash, never made up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ifa_ray.abtest.checks import Decision
from ifa_ray.abtest.report import sections, svg
from ifa_ray.abtest.report.exports import table_4
from ifa_ray.abtest.report.sections import (
    NONE,
    duration,
    name_text,
    number,
    own_units,
    p_text,
    percent_or_none,
    range_text,
)

Row = dict[str, Any]

FIRST_LIMIT = "The user model decides who wins"

FIRST_COLUMNS = ("steps", "samples", "candidates", "versions")
"""Of the training table: what must be equal."""

SIGNS = {"better": "▲", "worse": "▼", "not distinguishable": "≈", "no verdict": "?"}


def page(result: Mapping[str, Any]) -> Row:
    """Everything that the template prints."""
    ab, run = result["ab"], result["run"]
    health = _health(result)
    metrics = {metric["name"]: metric for metric in ab["metrics"]}
    return {
        "title": f"{', '.join(ab['treatments'])} against {ab['control']}",
        "run": run,
        "ab": ab,
        "level": f"{1 - ab['alpha']:.0%}",
        "verdicts": [_verdict(ab, arm, health["failed"]) for arm in ab["treatments"]],
        "facts": _facts(run, ab),
        "health": health,
        "table_4": [table_4(ab, arm) for arm in ab["treatments"]],
        "forest": [_strips(ab, metrics, arm, ("user", "ratio")) for arm in ab["treatments"]],
        "dots": [_dots(ab, arm) for arm in ab["treatments"]],
        "absolute": _absolute(ab, metrics),
        "diversity": [
            block
            for arm in ab["treatments"]
            if (block := _strips(ab, metrics, arm, ("diversity", "world")))["rows"]
        ],
        "floor": sections.floor(ab),
        "days": [figure for arm in ab["treatments"] for figure in sections.days(ab, arm)],
        "guardrails": [(arm, sections.guardrails(ab, arm)) for arm in ab["treatments"]],
        "segments": [(arm, sections.segments(ab, arm)) for arm in ab["treatments"]],
        "platform": [sections.platform(ab, arm) for arm in ab["treatments"]],
        "planning": [sections.planning(ab, arm) for arm in ab["treatments"]],
        "skipped": ab["skipped"],
        "cost": _cost(result["cost"], ab["control"]),
        "training": _grid_of(result["training"]),
        "calibration": [_calibration(row) for row in result["calibration"]],
        # The template opens with this one.
        "limits": [text for text in result["limits"] if not text.startswith(FIRST_LIMIT)],
        "first_limit": FIRST_LIMIT,
        "provenance": _provenance(run),
        "config": json.dumps(run["config"], indent=1, sort_keys=True),
    }


def _verdict(ab: Mapping[str, Any], arm: str, failed: Sequence[str]) -> Row:
    verdict, effect = ab["verdicts"][arm], ab["effects"][arm][ab["primary"]]
    decision, line = verdict["decision"], verdict["line"]
    if failed and decision != Decision.NO_VERDICT:
        # A check that was made after the analysis failed: nothing may look decided then.
        decision, line = Decision.NO_VERDICT.value, f"No verdict on {arm}: failed {failed[0]}."
    decided = decision != Decision.NO_VERDICT
    return {
        "arm": arm,
        "decision": decision,
        "sign": SIGNS.get(decision, ""),
        "kind": decision.replace(" ", "-"),
        "line": line,
        "effect": percent_or_none(effect["relative"]),
        "p": p_text(effect["p_adjusted"]) if decided else None,
    }


def _facts(run: Mapping[str, Any], ab: Mapping[str, Any]) -> list[tuple[str, str]]:
    counted = ab["days"] - ab["burn_in_days"]
    return [
        ("Replicates", number(ab["replicates"])),
        ("Users per world", number(run["users"])),
        ("Days", f"{ab['burn_in_days']} burn-in + {counted} counted"),
        ("Seed", name_text(run["seed"])),
        ("Config", str(run["config_hash"])[:12]),
        ("Run time", duration(run["wall_s"])),
    ]


def _health(result: Mapping[str, Any]) -> Row:
    """The run's checks and the analysis' own, each name once; a failure wins over a pass."""
    checks: dict[str, Row] = {}
    for check in [*result["ab"]["health"], *result["health"]]:
        if check["name"] not in checks or not check["ok"]:
            checks[check["name"]] = dict(check)
    failed = [name for name, check in checks.items() if not check["ok"]]
    return {"checks": list(checks.values()), "failed": failed}


def _strips(
    ab: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, Any]],
    arm: str,
    groups: Sequence[str],
) -> Row:
    names = [name for name, metric in metrics.items() if metric["group"] in groups]
    effects = {name: ab["effects"][arm][name] for name in names}
    first = _extent(effects[names[0]]) if names else 0.0
    scale = svg.Scale.around([_extent(effect) for effect in effects.values()], first)
    rows = []
    for name, effect in effects.items():
        label = metrics[name]["label"].replace("first k", f"first {ab['fixed_k']} of the day")
        levels = [ab["levels"][which][name]["mean"] for which in (ab["control"], arm)]
        rows.append(
            {
                "label": label,
                "unit": metrics[name]["unit"],
                "levels": " → ".join(number(level) for level in levels),
                "figure": svg.strip(scale, effect),
                "tone": _tone(effect, metrics[name]["good"]),
                **_effect_text(effect),
            }
        )
    return {
        "arm": arm, "axis": svg.axis(scale), "tick": f"{scale.tick_offset:.1f}", "rows": rows
    }  # fmt: skip


def _absolute(ab: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Metrics whose zero is not "nothing": differences in their own units."""
    rows = []
    for arm in ab["treatments"]:
        for name, metric in metrics.items():
            if metric["group"] != "absolute":
                continue
            effect = ab["effects"][arm][name]
            source = effect if effect["interval"] is not None else effect["checkpoint"]
            bounds = source["interval"]
            levels = [ab["levels"][which][name]["mean"] for which in (ab["control"], arm)]
            rows.append(
                {
                    "arm": arm,
                    "label": f"{metric['label']}, {metric['unit']}",
                    "levels": " \N{RIGHTWARDS ARROW} ".join(number(level) for level in levels),
                    "difference": own_units(effect["difference"]),
                    "interval": NONE
                    if bounds is None
                    else f"{own_units(bounds[0])} to {own_units(bounds[1])}",
                    "p": p_text(effect["p_adjusted"]),
                }
            )
    return rows


def _effect_text(effect: Mapping[str, Any]) -> Row:
    return {
        "effect": percent_or_none(effect["relative"]),
        "interval": range_text(effect["interval"]),
        "checkpoint": range_text(effect["checkpoint"]["interval"]),
        "p": p_text(effect["p_adjusted"]),
        "undefined": effect["undefined"],
    }


def _tone(effect: Mapping[str, Any], good: int) -> str:
    """A further class that colours significant changes of metrics that have a good direction."""
    if not effect["significant"] or not good:
        return " strong" if effect["significant"] else ""
    return " good" if effect["log_lift"] * good > 0 else " bad"


def _extent(effect: Mapping[str, Any]) -> float:
    """How far an effect's intervals reach from zero."""
    bounds = [*(effect["interval"] or ()), *(effect["checkpoint"]["interval"] or ())]
    bounds.append(effect["relative"] or 0.0)
    return max(abs(bound) for bound in bounds)


def _dots(ab: Mapping[str, Any], arm: str) -> Row:
    effect = ab["effects"][arm][ab["primary"]]
    own = [
        max(map(abs, [row["relative"] or 0.0, *(row["interval"] or ())]))
        for row in effect["replicates"]
    ]
    widest = max([*own, _extent(effect)])
    scale = svg.Scale.around([widest], widest)
    return {
        "arm": arm,
        "axis": svg.axis(scale),
        "figure": svg.dots(scale, effect, arm),
        "rows": [
            {
                "replicate": row["replicate"],
                "effect": percent_or_none(row["relative"]),
                "interval": range_text(row["interval"]),
            }
            for row in effect["replicates"]
        ],
        "noise": effect["noise"]
        and {key: f"{value * 100:.2f}%" for key, value in effect["noise"].items()},
        **_effect_text(effect),
    }


def _cost(cost: Mapping[str, Mapping[str, Any]], control: str) -> Row:
    """The cost table, with the mean time of a request as a multiple of control's."""
    table = _grid_of(
        {
            arm: {key: value for key, value in row.items() if key != "replicates_mean_ms"}
            for arm, row in cost.items()
        }
    )
    base = cost.get(control, {}).get("mean_ms")
    if base:
        table["columns"].append(f"mean, of {control}'s")
        for row in table["rows"]:
            mean = cost[row["name"]].get("mean_ms")
            row["cells"].append(
                NONE if mean is None else f"{mean / base:.2f}\N{MULTIPLICATION SIGN}"
            )
    return table


def _grid_of(rows: Mapping[str, Mapping[str, Any]]) -> Row:
    """A table of arms with whatever columns they have; nested values get columns of their own."""
    flat = {name: _flat(row) for name, row in rows.items()}
    columns = list(dict.fromkeys(key for row in flat.values() for key in row))
    columns.sort(key=lambda column: column not in FIRST_COLUMNS)  # stable: the rest as they come
    return {
        "columns": [
            column.replace("_", " ").replace("gauc ", "GAUC ").replace("auc ", "AUC ")
            for column in columns
        ],
        "rows": [
            {"name": name, "cells": [_cell(row.get(column)) for column in columns]}
            for name, row in flat.items()
        ],
    }


def _flat(row: Mapping[str, Any], prefix: str = "") -> Row:
    flat: Row = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key} ")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _cell(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(number(part) for part in value) or NONE
    return number(value)


def _calibration(row: Mapping[str, Any]) -> Row:
    verdict = str(row["verdict"])
    return {
        **{key: _cell(row[key]) for key in ("name", "source", "tier", "target", "achieved")},
        "distance": _cell(row["distance"]),
        "verdict": verdict,
        "missed": "miss" in verdict.lower() or "fail" in verdict.lower(),
    }


def _provenance(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    memory = run["peak_memory_gib"]
    changed = " with local changes" if run.get("git_dirty") else ""
    rows = [
        ("Run", str(run["name"])),
        ("Preset", str(run["preset"])),
        ("Arms", ", ".join(run["arms"])),
        ("Started", str(run["started"])),
        ("Git commit", number(run["git_commit"]) + changed),
        ("Config hash", str(run["config_hash"])),
        ("Peak memory", NONE if memory is None else f"{number(memory)} GiB"),
    ]
    for key in ("hardware", "versions"):
        values = run[key] if isinstance(run[key], Mapping) else {key: run[key]}
        rows += [_named(name, value) for name, value in values.items()]
    return rows


def _named(name: str, value: object) -> tuple[str, str]:
    if name.endswith("_bytes") and isinstance(value, int):
        name, value = name.removesuffix("_bytes"), f"{number(value / 2**30)} GiB"
    return name.replace("_", " ").capitalize(), _cell(value)
