"""Opens a run's folder, new and empty or an earlier run's, and notes each start of its driver.

Knows files and configs, not Ray. Everything that could be wrong with the folder is found here,
before anything starts, and nothing that is finished is ever changed.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from ifa_ray.data.log import read_items
from ifa_ray.data.run_folder import WARMUP, RunFolder, ShardDay, write_atomically
from ifa_ray.data.tables import is_half_written, remove_half_written
from ifa_ray.errors import ConfigError
from ifa_ray.provenance import provenance
from simulator.run.presets import RunConfig
from simulator.run.progress import PeakMemory, RunProgress

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


def shard_days(config: RunConfig, arm: str) -> Iterator[ShardDay]:
    """All shards' days of an arm, or of the warm-up."""
    for replicate in range(config.replicates):
        for day in range(1 if arm == WARMUP else config.days):
            for shard in range(config.shards):
                yield ShardDay(arm, replicate, day, shard)


def _verify(folder: RunFolder, config: RunConfig) -> None:
    """Every finished file as it was written: nothing is simulated on top of damage."""
    from ifa_ray.checkpoints.format import load_metrics, version_folder

    for replicate in range(config.replicates):
        if folder.items(replicate).exists():
            read_items(folder.items(replicate))
    for arm in (WARMUP, *(arm.name for arm in config.parsed_arms)):
        for key in filter(folder.is_committed, shard_days(config, arm)):
            folder.verify(key)
        for replicate in range(config.replicates):
            models = folder.models(arm, replicate)
            # Without a gap: each was made of the one before.
            for version in range(len(list(models.glob("version=*")))):
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


@contextlib.contextmanager
def driver_part(
    folder: RunFolder,
    config: RunConfig,
    what: str,
    *,
    units: Mapping[str, int],
    stream: TextIO | None = None,
    one_machine: bool = True,
) -> Iterator[RunProgress]:
    """One part of a run: from a start of its driver to its end, with what is told and measured.

    Args:
        folder: open.
        config: of the run.
        what: is done, for people.
        units: shard-days of each arm.
        stream: where progress is told; standard error by default.
        one_machine: False if other machines' memory is used, which is then not measured.
    """
    here, parts = provenance(), _read_parts(folder)
    part: dict[str, Any] = {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git_commit": here["git_commit"],
        "versions": here["versions"],
    }
    write_atomically(folder.parts, json.dumps([*parts, part], indent=1).encode())
    started, memory = time.monotonic(), PeakMemory()
    try:
        with memory, RunProgress(units, stream) as progress:
            progress.say(
                f"{config.preset}: {what}, {config.replicates} replicates x {config.users} users x "
                f"{config.days} days, seed {config.seed}, in {folder.root}"
            )
            yield progress
    finally:
        part["wall_s"] = time.monotonic() - started
        part["peak_memory_bytes"] = memory.peak_bytes if one_machine else None
        write_atomically(folder.parts, json.dumps([*parts, part], indent=1).encode())


def run_facts(folder: RunFolder) -> dict[str, Any]:
    """The drivers' measurements, over all parts of a run.

    Keys: `started`, when the first part began, ISO 8601; `wall_s` of the parts that ended by
    themselves; `peak_memory_gib`, of all processes of a part together, None where it is not known;
    `parts`, how many; `killed`, how many of them were; `programs`, how many different ones
    (commits, library versions) they were.
    """
    parts = _read_parts(folder)
    measured = [part for part in parts if "wall_s" in part]
    peak = max((part["peak_memory_bytes"] or 0 for part in measured), default=0)
    programs = [(part["git_commit"], part["versions"]) for part in parts]
    return {
        "started": parts[0]["started"] if parts else "",
        "wall_s": round(sum(part["wall_s"] for part in measured), 1),
        "peak_memory_gib": round(peak / 2**30, 2) if peak else None,
        "parts": len(parts),
        "killed": len(parts) - len(measured),
        "programs": len({json.dumps(program, sort_keys=True) for program in programs}),
    }


def _read_parts(folder: RunFolder) -> list[dict[str, Any]]:
    return json.loads(folder.parts.read_bytes()) if folder.parts.exists() else []
