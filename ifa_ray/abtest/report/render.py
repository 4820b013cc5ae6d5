"""Renders the report and writes it beside its result; knows the template, no statistics."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import jinja2

from ifa_ray.abtest.report.view import page
from ifa_ray.data.run_folder import write_atomically
from ifa_ray.errors import LogError

RESULT_VERSION = 2
"""The schema of `result.json`, apart from that of the log."""

TOP = {
    "run": dict,
    "ab": dict,
    "training": dict,
    "cost": dict,
    "calibration": list,
    "health": list,
    "limits": list,
}
"""What a result holds, and as what."""


def render_report(result: Mapping[str, Any]) -> str:
    """Renders the whole report as one HTML document without scripts or outside resources.

    A pure function: the same result gives the same bytes.

    Raises:
        LogError: if the result lacks a part or is of another schema version.
    """
    check_result(result)
    try:
        return environment().get_template("report.html.j2").render(page(result))
    except KeyError as error:
        raise LogError(f"result lacks the key {error}, which the report prints.") from error
    except (AttributeError, TypeError, ValueError, jinja2.UndefinedError) as error:
        raise LogError(f"result holds a value of another kind than expected: {error}.") from error


def check_result(result: Mapping[str, Any]) -> None:
    """Refuses another schema, and a result without one of its parts.

    Raises:
        LogError: naming it.
    """
    version = result.get("schema_version")
    if version != RESULT_VERSION:
        raise LogError(f"result.schema_version == {version!r}, must be {RESULT_VERSION}.")
    for name, kind in TOP.items():
        if not isinstance(result.get(name), kind):
            found = type(result[name]).__name__ if name in result else "absent"
            raise LogError(f"result.{name} is {found}, must be a {kind.__name__}.")


def environment() -> jinja2.Environment:
    """The templates of this package; all text is escaped, and a missing value is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def read_result(source: Path) -> dict[str, Any]:
    """Reads a `result.json`.

    Raises:
        LogError: if it is missing, isn't JSON, holds NaN, or isn't an object.
    """
    try:
        result = json.loads(source.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (OSError, ValueError) as error:
        raise LogError(f"{source}: {error}") from error
    if not isinstance(result, dict):
        raise LogError(f"{source} holds a {type(result).__name__}, must hold an object.")
    return result


def write_report(run_dir: str | os.PathLike[str]) -> Path:
    """Reads `result.json` of a run and writes `report.html` beside it, whole or not at all.

    Returns:
        The path of the report.

    Raises:
        LogError: if the result is missing, isn't JSON, holds NaN, or lacks a part.
    """
    source = Path(run_dir) / "result.json"
    report = source.with_name("report.html")
    write_atomically(report, render_report(read_result(source)).encode())
    return report


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number that a report can print.")
