"""Where a result comes from: versions, commit, hardware, date. Knows the machine, not the result.

A number without these cannot be compared with another, so every JSON file of results holds them.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from ifa_ray.processes import usable_cores

_PACKAGES = ("torch", "numpy", "polars", "pyarrow", "ray", "scipy")


def provenance() -> dict[str, Any]:
    """Describes this process as plain JSON values.

    Returns:
        `versions` by package (those that are not installed are left out), `git_commit` of this
        package's source tree (None outside of one) and whether it `git_dirty` differs from it,
        `hardware` (`cpu`, `cores` that this process may use, `memory_bytes`), `date` in UTC.
    """
    commit = _git("rev-parse", "HEAD")
    return {
        "versions": _versions(),
        "git_commit": commit,
        "git_dirty": None if commit is None else bool(_git("status", "--porcelain", "-uno")),
        "hardware": {"cpu": _cpu(), "cores": usable_cores(), "memory_bytes": _memory_bytes()},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            # The metadata alone: importing Ray takes seconds, and it need not be installed.
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _git(*arguments: str) -> str | None:
    here = Path(__file__)

    def run(*command: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(here.parent), *command],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # An installed copy may lie inside somebody else's repository, whose commit says nothing.
    return run(*arguments) if run("ls-files", "--error-unmatch", here.name) is not None else None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
