"""Opening a run's folder: new and empty, or an earlier run's to be continued.

Knows files and configs, not Ray. Everything that could be wrong with the folder is found here,
before anything starts, and nothing that is finished is ever changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ifa_ray.data.run_folder import WARMUP, RunFolder, ShardDay, write_atomically
from ifa_ray.data.tables import is_half_written, remove_half_written
from ifa_ray.errors import ConfigError
from ifa_ray.provenance import provenance
from simulator.run.presets import RunConfig

LOCK = ".lock"


@contextlib.contextmanager
def open_run(root: Path, config: RunConfig, resume: bool) -> Iterator[RunFolder]:
    """Opens the folder for one driver at a time.

    A new run needs an absent or empty folder. A resumed one needs the same config, and every
    committed file as it was written.

    Raises:
        ConfigError: if the folder is not empty, not writable, in use, or of another config.
        LogError, CheckpointError: if a committed file is missing, truncated or changed.
    """
    folder = RunFolder(root)
    if resume:
        _require_same(load_config(root), config, root)
    else:
        _require_empty(root)
    _require_writable(root)
    with _locked(root):
        if resume:
            remove_half_written(root)
            _verify(folder, config)
        else:
            _require_empty(root)
            remove_half_written(root)
            text = json.dumps(config.to_dict(), indent=1, sort_keys=True)
            write_atomically(folder.config, text.encode())
        yield folder


def load_config(root: Path) -> RunConfig:
    """The config that a run was started with.

    Raises:
        ConfigError: if there is none, or it is damaged.
    """
    path = RunFolder(root).config
    try:
        return RunConfig.from_dict(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise ConfigError(
            f"out == {str(root)!r}, must be a run's folder: it has no config.json."
        ) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not the config of a run: {error}") from None


def link_latest(root: Path) -> None:
    """Points the symlink `latest` beside the run's folder to it; a real `latest` is left alone.

    Raises:
        OSError: if the folder above cannot be written.
    """
    root = root.resolve()
    link = root.parent / "latest"
    if link.exists() and not link.is_symlink():
        return
    temporary = root.parent / f".latest.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(root.name, target_is_directory=True)
    temporary.replace(link)


def _require_writable(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".probe.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"out == {str(root)!r}, must be a folder that can be written: {error.strerror}."
        ) from None


def _require_empty(root: Path) -> None:
    if not root.is_dir():
        return  # absent, or not a folder, which `_require_writable` says better
    entries = [path for path in root.iterdir() if not is_half_written(path)]
    found = sorted(path.name for path in entries if path.name != LOCK)
    if found:
        raise ConfigError(
            f"out == {str(root)!r} holds {len(found)} entries ({', '.join(found[:3])}, ...), "
            "must be empty. Continue that run with --resume, or choose another --out."
        )


def _require_same(saved: RunConfig, config: RunConfig, root: Path) -> None:
    if saved == config:
        return
    before, now = saved.to_dict(), config.to_dict()
    field = next(key for key in before if before[key] != now.get(key))
    if isinstance(before[field], dict):
        inner = next(key for key in before[field] if before[field][key] != now[field].get(key))
        before, now, field = before[field], now[field], inner
    raise ConfigError(
        f"{field} == {now[field]!r}, must be {before[field]!r}, with which {root} was started."
    )


def _verify(folder: RunFolder, config: RunConfig) -> None:
    """Every finished file as it was written: nothing is lived on top of damage."""
    from ifa_ray.checkpoints.format import load_metrics, version_folder
    from ifa_ray.data.log import read_items

    for replicate in range(config.replicates):
        if folder.items(replicate).exists():
            read_items(folder.items(replicate))
        worlds = [(WARMUP, 1), *((arm.name, config.days) for arm in config.parsed_arms)]
        for arm, days in worlds:
            for day in range(days):
                for shard in range(config.shards):
                    key = ShardDay(arm, replicate, day, shard)
                    if folder.is_committed(key):
                        folder.verify(key)
            models = folder.models(arm, replicate)
            published = len(list(models.glob("version=*")))
            for version in range(published):  # without a gap: each was made of the one before
                load_metrics(version_folder(models, version))


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    # The lock dies with the process, so a killed driver leaves nothing to clean.
    with (root / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"out == {str(root)!r} is in use by another driver.") from None
        yield


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
