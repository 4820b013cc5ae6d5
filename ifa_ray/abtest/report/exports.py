"""The result's table as Markdown and CSV, for other documents; measures nothing itself."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ifa_ray.abtest.report.numbers import (
    NONE,
    name_text,
    number,
    own_units,
    p_text,
    percent,
    range_text,
)
from ifa_ray.data.run_folder import write_atomically

__all__ = ["CSV_COLUMNS", "effect_cells", "to_csv", "to_markdown", "write_exports"]

CSV_COLUMNS = (
    "arm", "control", "metric", "label", "unit", "group", "level_control", "level_arm", "scale",
    "effect", "low", "high", "basis", "p", "p_adjusted", "significant", "decision",
)  # fmt: skip


def effect_cells(ab: Mapping[str, Any], arm: str, metric: Mapping[str, Any]) -> list[str]:
    """Label, both levels, effect, interval and p of one metric, as text."""
    name, effect = metric["name"], ab["effects"][arm][metric["name"]]
    levels = [number(ab["levels"][which][name]["mean"]) for which in (ab["control"], arm)]
    label = metric["label"].replace("first k", f"first {ab['fixed_k']}")
    label = f"{label}, {metric['unit']}"
    if effect["undefined"]:
        return [label, *levels, NONE, NONE, NONE]
    absolute = metric["group"] == "absolute"
    interval = decisive(effect)["interval"]
    if absolute:
        bounds = (
            NONE if interval is None else f"{own_units(interval[0])} to {own_units(interval[1])}"
        )
        return [label, *levels, own_units(effect["difference"]), bounds,
                p_text(effect["p_adjusted"])]  # fmt: skip
    return [label, *levels, percent(effect["relative"]), range_text(interval),
            p_text(effect["p_adjusted"])]  # fmt: skip


def decisive(effect: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where interval and p are read: over replicates, or else over users."""
    return effect if effect["interval"] is not None else effect["checkpoint"]


def to_markdown(result: Mapping[str, Any]) -> str:
    """Verdicts and one table for each treatment."""
    ab, run = result["ab"], result["run"]
    lines = [f"# {', '.join(ab['treatments'])} against {ab['control']}", ""]
    lines += [f"- {ab['verdicts'][arm]['line']}" for arm in ab["treatments"]]
    lines += [f"- FAILED {check['name']}: {check['detail']}"
              for check in [*ab["health"], *result["health"]] if not check["ok"]]  # fmt: skip
    basis = (
        f"over {ab['replicates']} replicates" if ab["replicates"] >= 3 else "over users, as trained"
    )
    lines += [
        "",
        f"Preset {run['preset']}, seed {name_text(run['seed'])}, config {run['config_hash']}, "
        f"{ab['replicates']} replicates, {number(run['users'])} users each, {ab['days']} days of "
        f"which {ab['burn_in_days']} burn-in, {run['started']}. Intervals {basis}.",
    ]
    for arm in ab["treatments"]:
        lines += [
            "",
            f"| {arm} against {ab['control']} | {ab['control']} | {arm} | effect | "
            f"{1 - ab['alpha']:.0%} interval | p, adjusted |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for metric in ab["metrics"]:
            cells = [cell.replace("|", "\\|") for cell in effect_cells(ab, arm, metric)]
            if ab["effects"][arm][metric["name"]]["significant"]:
                cells[3] = f"**{cells[3]}**"
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- {text}" for text in result["limits"]), ""]
    return "\n".join(lines)


def to_csv(result: Mapping[str, Any]) -> str:
    """One row for each treatment and metric, in full precision; empty where there is no number."""
    ab = result["ab"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for arm in ab["treatments"]:
        for metric in ab["metrics"]:
            name = metric["name"]
            effect = ab["effects"][arm][name]
            source = decisive(effect)
            absolute = metric["group"] == "absolute"
            low, high = source["interval"] or (None, None)
            writer.writerow(
                [
                    arm, ab["control"], name, metric["label"], metric["unit"], metric["group"],
                    ab["levels"][ab["control"]][name]["mean"], ab["levels"][arm][name]["mean"],
                    "absolute" if absolute else "relative",
                    effect["difference"] if absolute else effect["relative"], low, high,
                    "replicates" if source is effect else "users", source["p"],
                    effect["p_adjusted"], effect["significant"], ab["verdicts"][arm]["decision"],
                ]
            )  # fmt: skip
    return text.getvalue()


def write_exports(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes `report.md` and `report.csv` beside a result."""
    written = []
    for name, text in (("report.md", to_markdown(result)), ("report.csv", to_csv(result))):
        path = folder / name
        write_atomically(path, text.encode())
        written.append(path)
    return written
