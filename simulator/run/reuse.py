"""What a finished run has done already, taken over by a new one that would do the same.

Knows run folders and configs. In a second regime, or with another arm beside them, many worlds of a
comparison are the same to the byte: the warm-up of all arms, and every arm whose settings did not
change. Their files are linked, not lived again; a file of a run is never changed, so both own it.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ifa_ray.checkpoints.format import version_folder
from ifa_ray.data.run_folder import WARMUP, RunFolder, ShardDay, write_atomically
from ifa_ray.errors import ConfigError
from simulator.run.opening import load_config
from simulator.run.presets import Arm, RunConfig

# What may differ, because it changes no byte of an arm that `_same_arm` finds the same.
_FREE = ("preset", "arms", "regime", "budget_ms", "candidate_limits", "model", "training")


def reuse_run(source: Path, folder: RunFolder, config: RunConfig) -> tuple[str, ...]:
    """Links the warm-up and the arms of `source` that the new run would repeat byte for byte.

    Args:
        source: the folder of another run; what is finished of it is taken.
        folder: the new run's, just opened.
        config: the new run's.

    Returns:
        Names of the arms that need not be lived.

    Raises:
        ConfigError: if `source` is no run, or of other worlds.
        LogError: if a file of it is missing or damaged; nothing of that arm is taken.
    """
    saved = load_config(source)
    for field in dataclasses.fields(RunConfig):
        if field.name not in _FREE:
            before, now = getattr(saved, field.name), getattr(config, field.name)
            if before != now:
                raise ConfigError(
                    f"reuse == {str(source)!r}, must be a run of the same {field.name}: it has "
                    f"{_shown(before)}, this one {_shown(now)}."
                )
    old = RunFolder(source)
    warmup = [Arm(WARMUP, None)]
    same = [arm for arm in config.parsed_arms if arm in saved.parsed_arms]
    arms = [arm for arm in same if _same_arm(arm, saved, config)]
    taken = [arm for arm in warmup + arms if _finished(old, arm, config)]
    if not taken or taken[0].name != WARMUP:
        return ()
    for arm in taken:
        for key in _keys(arm, config):
            old.verify(key)
    for file in _shared_files(old, taken):
        _link(file, folder.root / file.relative_to(old.root))
    # Whose program lived them stays on record.
    write_atomically(folder.parts, old.parts.read_bytes())
    return tuple(arm.name for arm in taken[1:])


def _same_arm(arm: Arm, saved: RunConfig, config: RunConfig) -> bool:
    if saved.candidates_of(arm.name) != config.candidates_of(arm.name):
        return False
    if arm.ranker is not None:
        return True
    models = saved.model_of(arm.name) == config.model_of(arm.name)
    return models and saved.training == config.training


def _finished(old: RunFolder, arm: Arm, config: RunConfig) -> bool:
    if not all(map(old.is_committed, _keys(arm, config))):
        return False
    # A last version may still be missing: it ranks no day, but the report counts its training.
    return (
        arm.ranker is not None
        or arm.name == WARMUP
        or all(
            version_folder(old.models(arm.name, replicate), config.days).exists()
            for replicate in range(config.replicates)
        )
    )


def _keys(arm: Arm, config: RunConfig) -> list[ShardDay]:
    days = 1 if arm.name == WARMUP else config.days
    return [
        ShardDay(arm.name, replicate, day, shard)
        for replicate in range(config.replicates)
        for day in range(days)
        for shard in range(config.shards)
    ]


def _shared_files(old: RunFolder, arms: list[Arm]) -> Iterator[Path]:
    """Commits last: what they say is there is there when they are."""
    tables = [path for path in old.log.iterdir() if path.is_dir()]
    for arm in arms:
        folders = [path / f"arm={arm.name}" for path in (*tables, old.root / "state")]
        folders += [old.root / name / f"arm={arm.name}" for name in ("gates", "training_times")]
        folders += [old.root / "models" / arm.name]
        if arm.name == WARMUP:
            folders.append(old.root / "worlds")
        for folder in (*folders, old.root / "commits" / f"arm={arm.name}"):
            yield from sorted(path for path in folder.rglob("*") if path.is_file())


def _link(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, target)
    except OSError:  # another disk, or one that knows no links
        shutil.copy2(file, target)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) < 80 else "other settings"
