"""Takes over what a finished run has done already and a new one would do the same.

Knows run folders and configs. In a second regime, or with another arm beside them, many worlds of a
comparison are the same to the byte: the warm-up of all arms, and every arm whose settings did not
change. Their files are linked; a file of a run is never changed, so both own it.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ifa_ray.checkpoints.format import version_folder
from ifa_ray.data.run_folder import WARMUP, RunFolder, write_atomically
from ifa_ray.errors import ConfigError
from simulator.run.opening import load_config, shard_days
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
        Names of the arms that need not be simulated.

    Raises:
        ConfigError: if `source` is no run, or of other worlds.
        LogError: if a file of it is missing or damaged; nothing of that arm is taken.
    """
    saved, old = load_config(source), RunFolder(source)
    for field in dataclasses.fields(RunConfig):
        before, now = getattr(saved, field.name), getattr(config, field.name)
        if field.name not in _FREE and before != now:
            raise ConfigError(
                f"reuse == {str(source)!r}, must be a run of the same {field.name}: it has "
                f"{_shown(before)}, this one {_shown(now)}."
            )
    arms = [arm for arm in config.parsed_arms if _same_arm(arm, saved, config)]
    if not _finished(old, WARMUP, config, learns=False):
        return ()
    taken = [arm.name for arm in arms if _finished(old, arm.name, config, arm.ranker is None)]
    for name in (WARMUP, *taken):
        for key in shard_days(config, name):
            old.verify(key)
    for name in (WARMUP, *taken):
        for file in _files_of(old, name):
            _link(file, folder.root / file.relative_to(old.root))
    # Whose program simulated them stays on record.
    write_atomically(folder.parts, old.parts.read_bytes())
    return tuple(taken)


def _same_arm(arm: Arm, saved: RunConfig, config: RunConfig) -> bool:
    if arm not in saved.parsed_arms:
        return False
    if saved.candidates_of(arm.name) != config.candidates_of(arm.name):
        return False
    models = saved.model_of(arm.name) == config.model_of(arm.name)
    return arm.ranker is not None or (models and saved.training == config.training)


def _finished(old: RunFolder, arm: str, config: RunConfig, learns: bool) -> bool:
    # A last version may still be missing: it ranks no day, but the report counts its training.
    last = [version_folder(old.models(arm, r), config.days) for r in range(config.replicates)]
    is_trained = not learns or all(path.exists() for path in last)
    return is_trained and all(map(old.is_committed, shard_days(config, arm)))


def _files_of(old: RunFolder, arm: str) -> Iterator[Path]:
    """Commits last: what they say is there is there when they are."""
    root, log = old.root, [path for path in old.log.iterdir() if path.is_dir()]
    by_arm = [*log, root / "state", root / "gates", root / "training_times"]
    folders = [path / f"arm={arm}" for path in by_arm] + [root / "models" / arm]
    if arm == WARMUP:
        folders.append(root / "worlds")
    for folder in (*folders, root / "commits" / f"arm={arm}"):
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
