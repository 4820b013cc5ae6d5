"""A run's `result.json` as HTML, Markdown and CSV, and several side by side; measures nothing.

All are pure functions of the result, whose numbers the templates take as they are.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jinja2

from ifa_ray.abtest import text
from ifa_ray.abtest.checks import Decision
from ifa_ray.abtest.report import svg
from ifa_ray.config import require
from ifa_ray.data.run_folder import write_atomically
from ifa_ray.errors import LogError

Result = Mapping[str, Any]

RESULT_VERSION = 2
"""The schema of `result.json`, apart from that of the log."""

PARTS = {
    "run": dict,
    "ab": dict,
    "training": dict,
    "cost": dict,
    "calibration": list,
    "health": list,
    "limits": list,
}
"""Fields of a result and their types."""

COMPARED = (
    "watch_time",
    "impressions",
    "active_days",
    "long_view_rate",
    "d2q",
    "categories_k",
    "entropy_k",
    "distance_k",
)
"""Metrics that get a figure of their own in a comparison, where all runs have them."""

COMPARED_IN_TABLE = (
    "click_rate",
    "long_view_rate",
    "d2q",
    "categories_k",
    "entropy_k",
    "distance_k",
)
"""Metrics beside watch time: what the watching was worth, and how diverse equally many are."""

CSV_COLUMNS = (
    "arm",
    "control",
    "metric",
    "label",
    "unit",
    "group",
    "level_control",
    "level_arm",
    "scale",
    "effect",
    "low",
    "high",
    "basis",
    "p",
    "p_adjusted",
    "significant",
    "decision",
)


def write_report(run_dir: str | os.PathLike[str]) -> Path:
    """Writes `report.html`, `.md` and `.csv` beside a run's `result.json`; returns the first.

    Raises:
        LogError: if the result is missing, isn't JSON, holds NaN, or lacks a part.
    """
    report = Path(run_dir) / "report.html"
    result = read_result(report.with_name("result.json"))
    renders = {".html": render_report, ".md": render_markdown, ".csv": render_csv}
    texts = {suffix: render(result) for suffix, render in renders.items()}
    for suffix, rendered in texts.items():
        write_atomically(report.with_suffix(suffix), rendered.encode())
    return report


def write_comparison(folders: Sequence[Path], target: Path) -> Path:
    """Writes `comparison.html` and `comparison.md` of several runs; returns the first.

    Raises:
        LogError: if a result can't be read, lacks a part or is of another schema version.
        ConfigError: if there are no runs, or two of one name.
    """
    names = [folder.name for folder in folders]
    require(len(set(names)) == len(names) >= 1, "compare", names, "folders of different names")
    results = {folder.name: read_result(folder / "result.json") for folder in folders}
    path = target / "comparison.html"
    write_atomically(path, render_comparison(results).encode())
    write_atomically(path.with_suffix(".md"), render_comparison(results, "md").encode())
    return path


def read_result(source: Path) -> dict[str, Any]:
    """Reads a `result.json`.

    Raises:
        LogError: if it is missing, isn't JSON, holds NaN, is of another schema, or lacks a part.
    """
    try:
        result = json.loads(source.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (OSError, ValueError) as error:
        raise LogError(f"{source}: {error}") from error
    version = result.get("schema_version") if isinstance(result, dict) else None
    if version != RESULT_VERSION:
        raise LogError(f"{source}: schema_version == {version!r}, must be {RESULT_VERSION}.")
    for name, kind in PARTS.items():
        if not isinstance(result.get(name), kind):
            raise LogError(f"{source}: {name} is no {kind.__name__}, or missing.")
    return result


def render_report(result: Result) -> str:
    """The whole report as one HTML document without scripts or outside resources.

    Raises:
        LogError: if a value is missing or of another kind.
    """
    return _render("report.html.j2", result=result)


def render_markdown(result: Result) -> str:
    """Verdicts and one table for each treatment."""
    return _render("report.md.j2", result=result)


def render_comparison(results: Mapping[str, Result], kind: str = "html") -> str:
    """Several results, by the name of each, on one page; `kind` is `html` or `md`."""
    return _render(f"compare.{kind}.j2", results=results, columns=COMPARED_IN_TABLE)


def render_csv(result: Result) -> str:
    """One row for each treatment and metric, in full precision; empty where there is no number."""
    ab, rendered = result["ab"], io.StringIO()
    writer = csv.writer(rendered, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for arm in ab["treatments"]:
        for metric in ab["metrics"]:
            effect = ab["effects"][arm][metric["name"]]
            source = decisive(effect)
            scale = (
                ("absolute", "difference") if metric["group"] == "absolute" else ("relative",) * 2
            )
            writer.writerow(
                [
                    arm,
                    ab["control"],
                    *(metric[key] for key in ("name", "label", "unit", "group")),
                    *(
                        ab["levels"][which][metric["name"]]["mean"]
                        for which in (ab["control"], arm)
                    ),
                    scale[0],
                    effect[scale[1]],
                    *(source["interval"] or (None, None)),
                    "replicates" if source is effect else "users",
                    source["p"],
                    effect["p_adjusted"],
                    effect["significant"],
                    ab["verdicts"][arm]["decision"],
                ]
            )
    return rendered.getvalue()


def effect_cells(ab: Mapping[str, Any], arm: str, metric: Mapping[str, Any]) -> list[str]:
    """Label, both levels, effect, interval and p of one metric, as text."""
    effect = ab["effects"][arm][metric["name"]]
    label = metric["label"].replace("first k", f"first {ab['fixed_k']}")
    levels = [ab["levels"][which][metric["name"]]["mean"] for which in (ab["control"], arm)]
    cells = [f"{label}, {metric['unit']}", *map(text.number, levels)]
    if effect["undefined"]:
        return [*cells, text.NONE, text.NONE, text.NONE]
    bounds, p = decisive(effect)["interval"], text.p_value(effect["p_adjusted"])
    if metric["group"] == "absolute":
        return [*cells, text.difference(effect["difference"]), text.differences(bounds), p]
    return [*cells, text.percent(effect["relative"]), text.interval(bounds), p]


def decisive(effect: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where interval and p are read: over replicates, or else over users."""
    return effect if effect["interval"] is not None else effect["checkpoint"]


def checks_of(result: Result) -> list[Mapping[str, Any]]:
    """The run's checks and the analysis' own, each name once; a failure wins over a pass."""
    checks: dict[str, Mapping[str, Any]] = {}
    for check in [*result["ab"]["health"], *result["health"]]:
        if check["name"] not in checks or not check["ok"]:
            checks[check["name"]] = check
    return list(checks.values())


def _effects_of(
    ab: Mapping[str, Any], arm: str, groups: Collection[str]
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Each metric of some groups with its effect."""
    metrics = [metric for metric in ab["metrics"] if metric["group"] in groups]
    return [(metric, ab["effects"][arm][metric["name"]]) for metric in metrics]


def _verdict(result: Result, arm: str) -> Mapping[str, Any]:
    """As decided; of a check that failed after the analysis, nothing may look decided."""
    verdict: Mapping[str, Any] = result["ab"]["verdicts"][arm]
    failed = [check["name"] for check in checks_of(result) if not check["ok"]]
    if not failed or verdict["decision"] == Decision.NO_VERDICT:
        return verdict
    line = f"No verdict on {arm}: failed {failed[0]}."
    return {"decision": Decision.NO_VERDICT.value, "line": line}


def _compared(results: Mapping[str, Result]) -> Iterator[tuple[Any, ...]]:
    """Of each metric itself, the scale, and (run, arm, effect) of every treatment."""
    for name in COMPARED:
        rows = [
            (run, arm, result["ab"]["effects"][arm][name])
            for run, result in results.items()
            for arm in result["ab"]["treatments"]
            if name in result["ab"]["effects"][arm]
        ]
        if len({run for run, _, _ in rows}) < len(results):
            continue
        shown = [{**effect, **decisive(effect), "checkpoint": None} for _, _, effect in rows]
        essential = max(abs(effect["relative"] or 0.0) for effect in shown)
        metrics = {metric["name"]: metric for metric in results[rows[0][0]]["ab"]["metrics"]}
        yield metrics[name], svg.Scale.around(map(svg.extent, shown), essential), rows


def _table(rows: Mapping[str, Mapping[str, Any]], control: str | None = None) -> Mapping[str, Any]:
    """Arms down and whatever columns they have across; nested values get columns of their own.

    With `control`, `mean_ms` is shown as a multiple of control's too.
    """
    flat = {arm: _flat(row) for arm, row in rows.items()}
    base = control and flat.get(control, {}).get("mean_ms")
    if base:
        for row in flat.values():
            mean = row.get("mean_ms")
            row[f"mean, of {control}'s"] = (
                None if mean is None else f"{mean / base:.2f}\N{MULTIPLICATION SIGN}"
            )
    columns = list(dict.fromkeys(key for row in flat.values() for key in row))
    # What must be equal comes first; the sort is stable.
    first = ("steps", "samples", "candidates", "versions")
    columns.sort(key=lambda column: column not in first)
    return {
        "columns": [
            column.replace("_", " ").replace("gauc ", "GAUC ").replace("auc ", "AUC ")
            for column in columns
        ],
        "rows": {arm: [row.get(column) for column in columns] for arm, row in flat.items()},
    }


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key} ")
        elif key != "replicates_mean_ms":
            flat[f"{prefix}{key}"] = value
    return flat


def _machine(run: Mapping[str, Any]) -> dict[str, Any]:
    """Hardware and versions, one row each."""
    rows: dict[str, Any] = {}
    for key in ("hardware", "versions"):
        rows |= run[key] if isinstance(run[key], Mapping) else {key: run[key]}
    return {
        name.removesuffix("_bytes")
        .replace("_", " ")
        .capitalize(): f"{text.number(value / 2**30)} GiB"
        if name.endswith("_bytes") and isinstance(value, int)
        else text.number(value)
        for name, value in rows.items()
    }


def _render(template: str, **values: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(("html.j2",)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (
        text.number,
        text.plain,
        text.percent,
        text.difference,
        text.differences,
        text.interval,
        text.region,
        text.p_value,
        text.duration,
        text.whole,
        svg.extent,
    ):
        environment.filters[function.__name__] = function
    environment.globals |= {
        "around": svg.Scale.around,
        "axis": svg.axis,
        "strip": svg.strip,
        "dots": svg.dots,
        "daily": svg.daily,
        "decisive": decisive,
        "effect_cells": effect_cells,
        "verdict_of": _verdict,
        "checks_of": checks_of,
        "table": _table,
        "machine": _machine,
        "compared": _compared,
        "effects_of": _effects_of,
        "dumps": json.dumps,
    }
    try:
        return environment.get_template(template).render(values)
    except (KeyError, AttributeError, TypeError, ValueError, jinja2.UndefinedError) as error:
        raise LogError(f"result lacks what is printed, or holds another kind: {error}.") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number that a report can print.")
