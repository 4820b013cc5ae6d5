"""Several results as one Markdown page, a table each; measures nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ifa_ray.abtest.report.exports import decisive
from ifa_ray.abtest.report.numbers import NONE, name_text, number, p_text, percent, range_text
from ifa_ray.abtest.report.render import check_result

__all__ = ["SHOWN", "comparison_markdown"]

SHOWN = ("click_rate", "long_view_rate", "d2q", "categories_k", "entropy_k", "distance_k")
"""Metrics beside watch time: what the watching was worth, and how diverse equally many are."""


def comparison_markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One section for each result, by its name: arms down, effects against the control across.

    Bold is significant: watch time by itself, all others after adjustment for their number.

    Raises:
        LogError: if a result lacks a part or is of another schema version.
    """
    lines = ["# What the runs said", ""]
    for name, result in results.items():
        check_result(result)
        lines += _section(name, result)
    return "\n".join(lines)


def _section(name: str, result: Mapping[str, Any]) -> list[str]:
    ab, run = result["ab"], result["run"]
    metrics = [metric for metric in ab["metrics"] if metric["name"] in SHOWN]
    basis = "replicates" if ab["replicates"] >= 3 else "users, as trained"
    facts = [f"{ab['replicates']} replicates", f"intervals over {basis}"]
    if "config_hash" in run:
        facts = [f"seed {name_text(run['seed'])}", f"config {run['config_hash']}",
                 f"commit {str(run['git_commit'])[:7]}", *facts]  # fmt: skip
    lines = [f"## {name}", "", f"Against {ab['control']}. {', '.join(facts)}.", ""]
    lines += [f"- FAILED {check['name']}: {check['detail']}"
              for check in [*ab["health"], *result["health"]] if not check["ok"]]  # fmt: skip
    heads = ["Arm", "Candidates", "CPU ms", "Watch, s per user", "Watch time",
             f"{1 - ab['alpha']:.0%} interval", "p",
             *(_head(metric, ab["fixed_k"]) for metric in metrics)]  # fmt: skip
    lines += [f"| {' | '.join(heads)} |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    lines += [f"| {' | '.join(_row(arm, result, metrics))} |" for arm in ab["arms"]]
    return [*lines, ""]


def _head(metric: Mapping[str, Any], fixed_k: int) -> str:
    return str(metric["label"]).replace("first k", f"first {fixed_k}")


def _row(arm: str, result: Mapping[str, Any], metrics: list[Mapping[str, Any]]) -> list[str]:
    ab, cost = result["ab"], result["cost"].get(arm)
    level = ab["levels"][arm][ab["primary"]]["mean"]
    candidates = result["run"].get("candidates", {}).get(arm)
    cells = [
        f"`{arm}`",
        number(candidates),
        NONE if cost is None else f"{cost['mean_ms']:.2f}",
        f"{level:,.0f}",
    ]
    if arm == ab["control"]:
        return [*cells, *[NONE] * (3 + len(metrics))]
    # The control trained again is a noise floor: watch time alone is asked of it.
    again = ab["aa"] if arm == ab["aa_arm"] else None
    watch = again or ab["effects"][arm][ab["primary"]]
    effect = NONE if watch["relative"] is None else percent(watch["relative"])
    p = decisive(watch)["p"]
    significant = p is not None and p < ab["alpha"]
    cells += [f"**{effect}**" if significant else effect,
              range_text(decisive(watch)["interval"]), p_text(p)]  # fmt: skip
    if again:
        return [*cells, *[NONE] * len(metrics)]
    for metric in metrics:
        row = ab["effects"][arm][metric["name"]]
        text = NONE if row["relative"] is None else percent(row["relative"])
        cells.append(f"**{text}**" if row["significant"] else text)
    return cells
