"""One page over several results: what each run said, side by side; measures nothing itself.

A pure function of the results' own numbers. Runs of different configs are shown, and said to be so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ifa_ray.abtest.checks import Decision, percent
from ifa_ray.abtest.report import svg
from ifa_ray.abtest.report.exports import decisive
from ifa_ray.abtest.report.render import check_result, environment, read_result
from ifa_ray.abtest.report.sections import (
    NONE,
    name_text,
    number,
    p_text,
    percent_or_none,
    range_text,
)
from ifa_ray.config import require
from ifa_ray.data.run_folder import write_atomically

Row = dict[str, Any]

COMPARED = ("watch_time", "impressions", "active_days", "long_view_rate", "d2q", "categories_k",
            "entropy_k", "distance_k")  # fmt: skip
"""Metrics that get a figure of their own, where all runs have them."""


def render_comparison(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Renders results, by the name of each, as one HTML document without outside resources.

    Raises:
        LogError: if a result lacks a part or is of another schema version.
        ConfigError: if there are no results.
    """
    require(bool(results), "compare", [], "at least one run")
    for result in results.values():
        check_result(result)
    hashes = {result["run"]["config_hash"] for result in results.values()}
    return (
        environment()
        .get_template("compare.html.j2")
        .render(
            runs=[_run(name, result) for name, result in results.items()],
            blocks=_blocks(results),
            same_config=len(hashes) == 1,
        )
    )


def write_comparison(folders: Sequence[Path], target: Path) -> Path:
    """Reads `result.json` of each run; writes `comparison.html` and `comparison.md` into a folder.

    Returns:
        The page's path.

    Raises:
        LogError: as `render_comparison`, or if a result can't be read.
    """
    names = [folder.name for folder in folders]
    require(len(set(names)) == len(names), "compare", names, "folders of different names")
    results = {folder.name: read_result(folder / "result.json") for folder in folders}
    path = target / "comparison.html"
    write_atomically(path, render_comparison(results).encode())
    write_atomically(target / "comparison.md", comparison_markdown(results).encode())
    return path


def _run(name: str, result: Mapping[str, Any]) -> Row:
    ab, run = result["ab"], result["run"]
    failed = [check["name"] for check in [*ab["health"], *result["health"]] if not check["ok"]]
    return {
        "name": name,
        "preset": str(run["preset"]),
        "seed": name_text(run["seed"]),
        "config": str(run["config_hash"])[:12],
        "replicates": number(ab["replicates"]),
        "users": number(run["users"]),
        "days": number(ab["days"]),
        "health": f"failed {', '.join(failed)}" if failed else "passed",
        "failed": bool(failed),
        "started": str(run["started"]),
    }


def _blocks(results: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """One block per metric: a strip for each run and treatment, all on one scale."""
    blocks = []
    for metric in COMPARED:
        rows = [
            (name, arm, result)
            for name, result in results.items()
            for arm in result["ab"]["treatments"]
            if metric in result["ab"]["effects"][arm]
        ]
        if len({name for name, _, _ in rows}) < len(results):
            continue
        effects = [result["ab"]["effects"][arm][metric] for _, arm, result in rows]
        extents = [
            max(abs(v) for v in (effect["relative"] or 0.0, *(decisive(effect)["interval"] or ())))
            for effect in effects
        ]
        scale = svg.Scale.around(extents, max(abs(e["relative"] or 0.0) for e in effects))
        labels = {m["name"]: m["label"] for m in rows[0][2]["ab"]["metrics"]}
        blocks.append(
            {
                "metric": labels[metric],
                "axis": svg.axis(scale),
                "tick": f"{scale.tick_offset:.1f}",
                "rows": [_strip(name, arm, result, metric, scale) for name, arm, result in rows],
            }
        )
    return blocks


def _strip(name: str, arm: str, result: Mapping[str, Any], metric: str, scale: svg.Scale) -> Row:
    ab = result["ab"]
    effect = ab["effects"][arm][metric]
    verdict = ab["verdicts"][arm]["decision"]
    failed = any(not check["ok"] for check in [*ab["health"], *result["health"]])
    decision = Decision.NO_VERDICT.value if failed else verdict
    return {
        "run": name,
        "arm": arm,
        "control": ab["control"],
        "decision": decision if metric == ab["primary"] else None,
        "kind": decision.replace(" ", "-"),
        "figure": svg.strip(scale, effect),
        "effect": percent_or_none(effect["relative"]),
        "interval": range_text(decisive(effect)["interval"]),
        "p": p_text(effect["p_adjusted"]),
        "basis": "replicates" if effect["interval"] is not None else "users",
        "undefined": effect["undefined"],
    }


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
