"""`ifa-ray data check`: parses, runs, prints; the checks are `ifa_ray.data.readers.check`."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ifa_ray.data.log_tables import ReadSettings
from ifa_ray.data.readers.check import check_log, check_log_tables
from ifa_ray.data.readers.scan import CLEAN, UNUSABLE, FileSummary, Findings, Problem
from ifa_ray.errors import ConfigError, IfaRayError, LogError
from ifa_ray.training.sources import split_adapter, tables_of_adapter

_HELP = """\
Tell what is in a log and what is wrong with it. Knows MovieLens, KuaiRand, EB-NeRD, the folder of
a run, and what an adapter of one's own gives (docs/adapters.md). All problems are reported, each
with its count and up to three rows.

  status 0  no problems          1  problems          2  unusable: nothing could be read
"""

_EPILOG = """\
examples:
  python -m ifa_ray data check KuaiRand-Pure
  python -m ifa_ray data check runs/quick --json check.json
  python -m ifa_ray data check my_log=my_adapters:read_shop
"""


def add_data(commands: Any) -> None:
    """Adds `data` to the subparsers of the command line."""
    data = commands.add_parser("data")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser(
        "check",
        help="what is in a log, and what is wrong with it",
        description=_HELP,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("path", metavar="PATH", help="of a log; or PATH=package.module:function")
    check.add_argument("--json", metavar="FILE", help="write all here; - prints it, and no tables")


def run_data(options: argparse.Namespace) -> int:
    """Checks a log.

    Returns:
        The process's status; see `ifa_ray.data.readers.scan`.
    """
    try:
        target = None if options.json in (None, "-") else Path(options.json)
        if target is not None and not target.parent.is_dir():
            raise ConfigError(f"json == {options.json!r}, must be in a folder that exists.")
        found = _check(options.path)
    except IfaRayError as error:
        print(f"error: {error}", file=sys.stderr)
        return UNUSABLE
    text = json.dumps(found.to_dict(), indent=2, allow_nan=False)
    if options.json == "-":
        print(text)
        return found.status
    if target is not None:
        target.write_text(text + "\n")
    _print(Console(width=110, highlight=False, markup=False), found)
    return found.status


def _check(path: str) -> Findings:
    folder, adapter = split_adapter(path)
    if not folder.exists():
        raise LogError(f"{folder}: no such folder.")
    if adapter is None:
        return check_log(folder)
    tables = tables_of_adapter(folder, adapter, ReadSettings())
    return check_log_tables(folder, adapter, tables)


def _print(console: Console, found: Findings) -> None:
    console.print(f"{found.root}: {found.format}\n")
    table = _table(("file", "rows", "users", "items", "first", "last"))
    for file in found.files:
        table.add_row(
            file.name,
            f"{file.rows:,}",
            _count(file.users),
            _count(file.items),
            _moment(file.first_ms),
            _moment(file.last_ms),
        )
    console.print(table)
    console.print()
    _print_rates(console, found.files)
    for name, value in found.facts.items():
        said = (
            ", ".join(f"{key} {number:,.0f}" for key, number in value.items())
            if isinstance(value, dict)
            else f"{value:,}"
            if isinstance(value, int)
            else f"{value:.4f}"
        )
        console.print(f"{name}: {said}", soft_wrap=True)
    _print_found(console, "Problems", found.problems)
    _print_found(console, "Notes", found.notes)
    verdict = {
        CLEAN: "no problems",
        UNUSABLE: "unusable: no row could be read",
    }.get(found.status, f"{len(found.problems)} problems")
    console.print(f"\n{found.root}: {verdict}", soft_wrap=True)


def _print_rates(console: Console, files: Sequence[FileSummary]) -> None:
    for file in files:
        if file.rates:
            said = ", ".join(f"{name} {rate:.4f}" for name, rate in file.rates.items())
            console.print(f"{file.name}: {said}", soft_wrap=True)


def _print_found(console: Console, title: str, found: Sequence[Problem]) -> None:
    if not found:
        return
    console.print(f"\n{title}", style="bold")
    for each in found:
        console.print(f"- {each.where}: {each.rule} ({each.count:,})", soft_wrap=True)
        for example in each.examples:
            console.print(f"    {example}", soft_wrap=True)


def _table(columns: Sequence[str]) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left", overflow="fold")
    return table


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _moment(time_ms: float | None) -> str:
    """A day and minute, UTC; a clock that counts from elsewhere stays a number."""
    if time_ms is None:
        return ""
    if not 0 <= time_ms < 4_102_444_800_000:
        return f"{time_ms:,.0f}"
    moment = datetime.datetime.fromtimestamp(time_ms / 1000, tz=datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M")
