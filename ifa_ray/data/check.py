"""Tells what is in a log and what is wrong with it: every problem, with a count and examples.

Knows which check a folder is for; the rules are in `check_contract` (whose tables a
run has, see `check_run`), `check_csv` and `check_ebnerd`.
A problem is something that a reader refuses or that is certainly wrong; a note is odd and is
found in real logs too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ifa_ray.data.check_contract import check_tables
from ifa_ray.data.check_csv import check_kuairand, check_movielens
from ifa_ray.data.check_ebnerd import check_ebnerd
from ifa_ray.data.check_rules import FileSummary, Findings, Problem
from ifa_ray.data.check_run import check_run
from ifa_ray.data.ebnerd_files import is_ebnerd
from ifa_ray.data.kuairand_files import is_kuairand
from ifa_ray.data.log_tables import LogTables
from ifa_ray.data.movielens import is_movielens
from ifa_ray.data.run_folder import is_run
from ifa_ray.errors import LogError

CLEAN, PROBLEMS, UNUSABLE = 0, 1, 2
"""What a process that checked ends with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogCheck:
    """What was found in a log.

    Attributes:
        path: of the folder.
        format: whose check it was.
        files: what each file holds, or each table of a run.
        rows: of each of a run's files.
        facts: of the whole log, by name.
        problems: mistakes.
        notes: oddities.
    """

    path: str
    format: str
    files: tuple[FileSummary, ...]
    rows: dict[str, int]
    facts: dict[str, Any]
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]

    @property
    def status(self) -> int:
        """`UNUSABLE` if nothing could be read at all, else `PROBLEMS` or `CLEAN`."""
        if not any(file.rows for file in self.files):
            return UNUSABLE
        return PROBLEMS if self.problems else CLEAN

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self) | {"status": self.status}


_CHECKS: tuple[tuple[str, Callable[[Path], bool], Callable[[Findings, Path], None]], ...] = (
    ("MovieLens", is_movielens, check_movielens),
    ("KuaiRand", is_kuairand, check_kuairand),
    ("EB-NeRD", is_ebnerd, check_ebnerd),
    ("a run", is_run, check_run),
)


def check_log(path: Path | str) -> LogCheck:
    """Checks a folder of any format that is known by its files.

    Raises:
        LogError: if it is of none.
    """
    path = Path(path)
    for name, recognises, check in _CHECKS:
        if recognises(path):
            findings = Findings(path)
            check(findings, path)
            return _done(findings, name)
    known = ", ".join(name for name, _, _ in _CHECKS)
    raise LogError(f"{path}: is no folder of a known format ({known}).")


def check_log_tables(path: Path, name: str, tables: LogTables) -> LogCheck:
    """Checks what an adapter gave."""
    findings = Findings(path)
    check_tables(findings, tables)
    return _done(findings, name)


def _done(findings: Findings, name: str) -> LogCheck:
    facts = dict(findings.facts)
    if facts.get("candidates"):
        facts["share of candidates shown"] = facts["candidates shown"] / facts["candidates"]
    # The same rule in the same place is one problem, however many days found it.
    return LogCheck(
        path=str(findings.root), format=name, files=tuple(findings.files),
        rows=findings.rows, facts=facts,
        problems=_merged(findings.problems), notes=_merged(findings.notes),
    )  # fmt: skip


def _merged(found: list[Problem]) -> tuple[Problem, ...]:
    merged: dict[tuple[str, str], Problem] = {}
    for each in found:
        key = (each.where, each.rule)
        if key in merged:
            before = merged[key]
            each = dataclasses.replace(
                before,
                count=before.count + each.count,
                examples=(before.examples + each.examples)[:3],
            )
        merged[key] = each
    return tuple(merged.values())
