"""Finished runs on disk, so that a stopped comparison continues and a grown one computes the rest.

    OUT/settings.json                      what every run shares, and its hash
    OUT/runs/MODEL-seed=S.json             one finished run, with the hash
    OUT/cost.json                          the measurements of the last comparison
    OUT/evaluation.json, table.md, pareto.svg, learning.svg

Knows files and hashes; nothing of models. Every file is written whole or not at all.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from ifa_ray.config import require
from ifa_ray.data.run_folder import write_atomically
from ifa_ray.errors import ConfigError, LogError
from ifa_ray.evaluation.config import EvaluationConfig
from ifa_ray.evaluation.run import ModelRun
from ifa_ray.provenance import provenance


def write_json(path: Path, values: Any) -> None:
    """Writes plain values; NaN, which is not JSON, is a fault of ours."""
    write_atomically(path, (json.dumps(values, indent=1, allow_nan=False) + "\n").encode())


@dataclasses.dataclass(frozen=True)
class EvaluationFolder:
    """The runs of one comparison's settings below `root`."""

    root: Path
    config: EvaluationConfig

    def open(self) -> None:
        """Makes the folder, or finds it as an earlier call with the same settings left it.

        Raises:
            ConfigError: if it holds something else, or runs of other settings.
        """
        path = self.root / "settings.json"
        if not path.exists():
            if self.root.exists():
                require(self.root.is_dir(), "out", str(self.root), "a folder")
                found = sorted(entry.name for entry in self.root.iterdir())
                rule = f"absent, empty or of an evaluation: it holds {', '.join(found[:3])}"
                require(not found, "out", str(self.root), rule)
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                record = {"hash": self.config.settings_hash, "settings": self.config.settings}
                write_json(path, record)
            except OSError as error:
                raise ConfigError(
                    f"out == {str(self.root)!r}, must be writable: {error.strerror}."
                ) from None
            return
        saved = self.read(path)
        now = json.loads(json.dumps(self.config.settings))
        for name, value in now.items():
            was = saved["settings"].get(name)
            if value != was:
                raise ConfigError(
                    f"{name} == {value!r}, must be {was!r}, with which {self.root} was begun."
                )
        if saved["hash"] != self.config.settings_hash:
            raise ConfigError(f"{path}: settings of another version of this program.")

    def path(self, model: str, seed: int) -> Path:
        """The file of a finished run."""
        return self.root / "runs" / f"{model}-seed={seed}.json"

    def save(self, run: ModelRun) -> None:
        """Keeps a finished run, with the program that made it."""
        here = provenance()
        record = {
            "hash": self.config.settings_hash,
            "program": {name: here[name] for name in ("git_commit", "git_dirty", "versions")},
            "run": run.to_dict(),
        }
        write_json(self.path(run.model, run.seed), record)

    def load(self, model: str, seed: int) -> ModelRun | None:
        """A finished run, or None.

        Raises:
            LogError: if its file is damaged.
            ConfigError: if it is of other settings.
        """
        path = self.path(model, seed)
        if not path.exists():
            return None
        record = self.read(path)
        try:
            run = ModelRun.from_dict(record["run"])
            same = (run.model, run.seed) == (model, seed)
        except (TypeError, KeyError):
            same = False
        if not same:
            raise LogError(f"{path}: not a run of {model}, seed {seed}; delete it to do it again.")
        if record["hash"] != self.config.settings_hash:
            raise ConfigError(
                f"{path}: hash == {record['hash']}, must be {self.config.settings_hash}: it is a "
                "run of other settings."
            )
        return run

    def programs(self) -> list[dict[str, Any]]:
        """The different programs that made the runs of this comparison, each once."""
        found: dict[str, dict[str, Any]] = {}
        for model in self.config.models:
            for seed in self.config.seed_range:
                path = self.path(model, seed)
                if path.exists():
                    program = self.read(path)["program"]
                    found[json.dumps(program, sort_keys=True)] = program
        return list(found.values())

    def read(self, path: Path) -> dict[str, Any]:
        """One of the folder's JSON files.

        Raises:
            LogError: if it is damaged.
        """
        try:
            record = json.loads(path.read_bytes())
            if not isinstance(record, dict) or "hash" not in record:
                raise TypeError
        except (ValueError, TypeError):
            raise LogError(f"{path}: not a record of an evaluation; it is damaged.") from None
        return record
