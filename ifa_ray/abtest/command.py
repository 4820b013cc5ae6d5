"""`python -m ifa_ray abtest`: its flags, its help, and its table on a terminal.

Parses, prints and writes; the analysis is elsewhere in this package.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ifa_ray.abtest.analyze import analyze
from ifa_ray.abtest.logs import Logs, open_items, open_own_logs
from ifa_ray.abtest.report.render import (
    RESULT_VERSION,
    effect_cells,
    write_comparison,
    write_report,
)
from ifa_ray.config import add_flags, flags_given, require
from ifa_ray.data.run_folder import write_atomically
from ifa_ray.provenance import provenance

_HELP = """\
Analyse an A/B test from its logs: one log of impressions for each arm, whoever wrote them.

  unpaired  each user was on one arm, as on a platform (the default). With --pre, CUPED subtracts
            what users did before. Intervals are over users.
  --paired  every arm served the same users, as in a simulation or a replay. A user is compared with
            himself, so the interval is a fraction as wide.
  replicates  the same NAME again: worlds and models made anew. From three of them on, the verdict
            is over replicates and speaks of architectures. With fewer it is over users, and speaks
            of these rankers as they were trained.

A log is a Parquet or CSV file, or a folder of them, one row for each item that a user saw:

  user_id, time_ms, play_time_ms             needed (day, a number, may stand for time_ms)
  request_id, video_id, position, duration_ms, is_click, long_view, is_like, is_comment, is_follow,
  is_forward, is_hate                        each makes more metrics possible

Watch time per user is the one primary metric; p of the others is adjusted for their number. The
test is refused, with the place and the rule, if a column holds nulls, if a user is on two arms, or
if paired arms share no user. Lost users, days and unequal splits turn the banner red: no verdict.

  status 0  analysed        1  a health check failed, no verdict        2  refused
"""

_EPILOG = """\
examples:
  # Half of the users on each ranker; the table on the terminal.
  python -m ifa_ray abtest --log control.parquet treatment.parquet

  # Named arms, a week before the test inside of the logs, and a report.
  python -m ifa_ray abtest --log twin=logs/a ifa=logs/b --control twin --pre 7 --out report

  # The same users under both rankers, with what is known of the items: adds diversity.
  python -m ifa_ray abtest --paired --log a=runs/a.csv b=runs/b.csv --items items.csv --out report

  # Three replicates of each arm: the verdict is over replicates.
  python -m ifa_ray abtest --paired --log a=r0/a a=r1/a a=r2/a b=r0/b b=r1/b b=r2/b

  # Several results on one page, those of `python -m simulator run` too.
  python -m ifa_ray abtest --compare runs/quick runs/standard --out .
"""

_LIMITS = [
    "A log says what happened to whom; that users were assigned at random is taken from you.",
    "The verdict without replicates is of these rankers as trained and in this period.",
]


def add_abtest(commands: Any) -> None:
    """Adds the command to the subparsers of the command line."""
    command = commands.add_parser(
        "abtest",
        description=_HELP,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command.add_argument
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--log",
        nargs="+",
        action="extend",
        metavar="LOG",
        help="PATH or NAME=PATH of each arm; may be given again",
    )
    source.add_argument(
        "--compare",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="folders of finished tests or runs: writes comparison.html and .md",
    )
    add(
        "--unit",
        default="user",
        metavar="COLUMN",
        help="column that was assigned to arms (default: user, which is user_id)",
    )
    add("--paired", action="store_true", help="every arm served the same units")
    add("--control", metavar="NAME", help="the arm to compare with (default: the first)")
    add(
        "--pre",
        metavar="PERIOD",
        help="the time before the test: a number of first days, "
        "FROM:TO as 2026-01-01:2026-01-14, or the path of its own log",
    )
    add(
        "--items",
        type=Path,
        metavar="FILE",
        help="catalogue: video_id, author_id, category, in Parquet also content vectors",
    )
    add_flags(
        command,
        Logs,
        ("aa_arm", "burn_in_days", "alpha", "fixed_k"),
        aa_arm="aa",
        burn_in_days="burn_in",
    )
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="writes result.json, report.html, report.md and report.csv there",
    )
    add("--json", action="store_true", help="print all numbers instead of the table")


def run_abtest(options: argparse.Namespace) -> int:
    """Analyses, prints and writes.

    Returns:
        The process's status: 0, or 1 where a health check failed.
    """
    if options.compare:
        target = options.out or Path()
        require(target.is_dir(), "out", str(target), "a folder that exists")
        print(write_comparison(options.compare, target))
        return 0
    started, clock = datetime.datetime.now(datetime.UTC), time.monotonic()
    if options.out is not None:
        # Now, and not after minutes of work.
        parent = options.out.resolve().parent
        require(parent.is_dir(), "out", str(options.out), "in a folder that exists")
    asked = {name: getattr(options, name) for name in ("unit", "paired", "control", "pre")}
    asked |= flags_given(options)
    items = open_items(options.items) if options.items else None
    logs = open_own_logs(options.log, items=items, **asked)
    ab = analyze(logs)
    config = {**asked, "log": options.log, "items": options.items and str(options.items)}
    result = {
        "schema_version": RESULT_VERSION,
        "run": {
            "name": " against ".join([*logs.treatments, logs.control]),
            "preset": "own logs",
            "seed": None,
            "arms": list(logs.arms),
            "control": logs.control,
            "replicates": logs.replicates,
            "users": round(sum(ab["users"]) / len(ab["users"])),
            "days": logs.days,
            "burn_in_days": logs.burn_in_days,
            "config_hash": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[
                :16
            ],
            "config": config,
            "started": started.isoformat(timespec="seconds"),
            "wall_s": round(time.monotonic() - clock, 1),
            "peak_memory_gib": None,
            **provenance(),
        },
        "ab": ab,
        "training": {},
        "cost": {},
        "calibration": [],
        "health": [],
        "limits": _LIMITS,
    }
    if options.json:
        print(json.dumps(result, indent=1, allow_nan=False))
    else:
        _print(Console(width=None if sys.stdout.isatty() else 118, highlight=False), ab)
    if options.out is not None:
        options.out.mkdir(exist_ok=True)
        text = json.dumps(result, indent=1, sort_keys=True, allow_nan=False)
        write_atomically(options.out / "result.json", text.encode())
        report = write_report(options.out)
        written = map(report.with_suffix, (".html", ".md", ".csv"))
        print(*written, sep="\n", file=sys.stderr if options.json else sys.stdout)
    return 0 if all(check["ok"] for check in ab["health"]) else 1


def _print(console: Console, ab: dict[str, Any]) -> None:
    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, soft_wrap=True, markup=False)

    for arm in ab["treatments"]:
        table = Table(
            title=f"{arm} against {ab['control']}",
            show_edge=False,
            pad_edge=False,
            title_justify="left",
        )
        table.add_column("metric")
        for name in (ab["control"], arm, "effect", f"{1 - ab['alpha']:.0%} interval", "p"):
            table.add_column(name, justify="right")
        for metric in ab["metrics"]:
            strong = ab["effects"][arm][metric["name"]]["significant"]
            table.add_row(*effect_cells(ab, arm, metric), style="bold" if strong else None)
        console.print(table)
        for rail in ab["guardrails"][arm]:
            word = "rises" if rail["harm"] > 0 else "falls"
            say(
                f"guardrail {rail['status']}: {rail['label']} {word} by at most "
                f"{abs(rail['worst']):.2%} (margin {rail['margin']:.1%})"
            )
        console.print()
    if ab["skipped"]:
        lacking = ", ".join(sorted({need for row in ab["skipped"] for need in row["lacks"]}))
        say(f"{len(ab['skipped'])} metrics need what this log lacks: {lacking}")
    for check in ab["health"]:
        if not check["ok"]:
            say(f"FAILED {check['name']}: {check['detail']}", style="red")
    for arm in ab["treatments"]:
        say(ab["verdicts"][arm]["line"], style="bold")
