"""The parts of a run: each start of its driver, with which programs, and what it measured.

A run that was stopped and resumed has several. Knows the folder and provenance only. The file is
not compared between runs: it holds clocks and commits.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from ifa_ray.data.run_folder import RunFolder, write_atomically
from ifa_ray.provenance import provenance

# What another program would be: results of one run come from one of each.
_PROGRAM = ("git_commit", "versions")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What the drivers measured, over all parts of a run.

    Attributes:
        started: when the first part began, ISO 8601.
        wall_s: of all parts that ended by themselves.
        peak_memory_bytes: of all processes of a part together, proportional set size; None where
            they were not all on one machine.
        parts: how often the driver was started.
        unmeasured: how many of them were killed, so that their time is not in `wall_s`.
        programs: how many different programs (commit, versions) they were.
    """

    started: str
    wall_s: float
    peak_memory_bytes: int | None
    parts: int
    unmeasured: int
    programs: int


def begin_part(folder: RunFolder, started: str) -> None:
    """Notes that a driver starts, and which program it is."""
    here = provenance()
    part = {"started": started, **{name: here[name] for name in _PROGRAM}}
    _write(folder, [*_read(folder), part])


def end_part(folder: RunFolder, wall_s: float, peak_memory_bytes: int | None) -> None:
    """Notes what the part that is ending measured."""
    parts = _read(folder)
    parts[-1] |= {"wall_s": wall_s, "peak_memory_bytes": peak_memory_bytes}
    _write(folder, parts)


def read_facts(folder: RunFolder) -> RunFacts:
    """What is known of all parts; of a folder that no driver has opened, nothing."""
    parts = _read(folder)
    measured = [part for part in parts if "wall_s" in part]
    peaks = [part["peak_memory_bytes"] for part in measured if part["peak_memory_bytes"]]
    programs = {json.dumps([part[name] for name in _PROGRAM], sort_keys=True) for part in parts}
    return RunFacts(
        started=parts[0]["started"] if parts else "",
        wall_s=sum(part["wall_s"] for part in measured),
        peak_memory_bytes=max(peaks, default=None),
        parts=len(parts),
        unmeasured=len(parts) - len(measured),
        programs=len(programs),
    )


def _read(folder: RunFolder) -> list[dict[str, Any]]:
    return json.loads(folder.parts.read_bytes()) if folder.parts.exists() else []


def _write(folder: RunFolder, parts: list[dict[str, Any]]) -> None:
    write_atomically(folder.parts, json.dumps(parts, indent=1).encode())
