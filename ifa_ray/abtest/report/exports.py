"""The result's table as Markdown and CSV, for other documents; measures nothing itself."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ifa_ray.abtest.checks import percent
from ifa_ray.abtest.report.sections import (
    NONE,
    name_text,
    number,
    own_units,
    p_text,
    percent_or_none,
    range_text,
)
from ifa_ray.data.run_folder import write_atomically

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


Row = dict[str, Any]

PAPER_TABLE_4 = (
    ("Watch time", "watch_time", "+0.803%", "-0.10%, 0.10%"),
    ("Impression", "impressions", "+0.291%", "-0.14%, 0.14%"),
    ("Like", "likes", "+0.984%", "-0.36%, 0.37%"),
    ("Comment", "comments", "+1.329%", "-0.56%, 0.56%"),
    ("Follow", "follows", "+1.781%", "-0.49%, 0.49%"),
    ("Share", "forwards", "+0.780%", "-0.86%, 0.86%"),
    ("Diversity", "categories_k", "+0.821%", "-0.05%, 0.05%"),
)
"""The paper's Table 4: objective, our metric for it, improvement, acceptance region.

The paper does not define its diversity; ours is the nearest that longer watching cannot fake.
"""

_NOTHING = dict.fromkeys(("interval", "acceptance_region", "p"))
NOT_IN_LOG: Row = {
    **_NOTHING, "relative": None, "checkpoint": _NOTHING, "p_adjusted": None, "significant": None,
    "undefined": "the log does not have it",
}  # fmt: skip


def table_4(ab: Mapping[str, Any], arm: str) -> Row:
    """One block: each objective's improvement and regions, with the paper's beside them."""
    rows = []
    for objective, metric, improvement, region in PAPER_TABLE_4:
        effect = ab["effects"][arm].get(metric, NOT_IN_LOG)
        rows.append(
            {
                "objective": objective,
                "effect": percent_or_none(effect["relative"]),
                "region": range_text(effect["acceptance_region"], brackets=True),
                "checkpoint": range_text(effect["checkpoint"]["acceptance_region"], brackets=True),
                "p": p_text(effect["p_adjusted"]),
                "significant": effect["significant"],
                "undefined": effect["undefined"],
                "paper_effect": improvement,
                "paper_region": f"[{region}]".replace("-", "\N{MINUS SIGN}"),
            }
        )
    return {"arm": arm, "rows": rows}
