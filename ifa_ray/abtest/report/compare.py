"""One page over several results: what each run said, side by side; measures nothing itself.

A pure function of the results' own numbers. Runs of different configs are shown, and said to be so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ifa_ray.abtest.report import svg
from ifa_ray.abtest.report.compare_text import comparison_markdown
from ifa_ray.abtest.report.exports import decisive
from ifa_ray.abtest.report.numbers import name_text, number, p_text, percent_or_none, range_text
from ifa_ray.abtest.report.render import check_result, environment, read_result
from ifa_ray.abtest.verdict import Decision
from ifa_ray.config import require
from ifa_ray.data.run_folder import write_atomically

__all__ = ["COMPARED", "render_comparison", "write_comparison"]

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
