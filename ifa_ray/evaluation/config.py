"""The settings of one comparison: what is read, which models, how they learn, which seeds.

Knows names and numbers, no streams. What would change a metric is in `settings_hash`; which models
and how many seeds are not, so that a comparison can grow.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from ifa_ray.config import Config, ModelConfig, TrainingConfig, require
from ifa_ray.errors import ConfigError, unknown_name
from ifa_ray.evaluation.lists import ablated_part, known_models
from ifa_ray.models import MODELS, ifa_plus

EACH = "each"
"""Seed s reads replicate s: a fresh world and fresh weights."""

# What a comparison may add or change without making its finished runs another's.
_MAY_GROW = ("models", "control", "seeds", "first_seed", "timed_requests")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Config):
    """One comparison.

    Attributes:
        data: a folder that `ifa_ray.training.sources.read_stream` reads.
        models: names of `ifa_ray.models.MODELS`, or `ifa_plus-PART` for IFA+ without a part.
        control: the model that others are compared with, if it is among `models`.
        seeds: S, how many.
        first_seed: the seeds are first_seed to first_seed + S - 1.
        max_requests: cap on the stream; 0 is no cap.
        arm: of a run, whose log to read; None where there is no choice.
        replicate: of a run: a number, `each`, or None, which is `each` where there are several.
        num_sampled: drawn candidates beside the shown ones, where a log has no candidate sets.
        batch_size: requests per step.
        learning_rate: of Adam.
        width: D of every model.
        top_k: behaviours that a two-stage or short-sequence model looks at.
        max_history: T, behaviours beyond the latest T are not read.
        tower_widths: hidden widths of each objective's tower.
        id_buckets, author_buckets, user_buckets: rows of the hashed embedding tables.
        cross_features: of `ifa_ray.config.CROSS_FEATURES`, on for every model.
        timed_requests: how many are ranked one by one for the cost of a request; 0 measures none.
        threads: of torch; sums in another order are other numbers.
    """

    data: str
    models: tuple[str, ...]
    control: str = "twin"
    seeds: int = 3
    first_seed: int = 0
    max_requests: int = 4000
    arm: str | None = None
    replicate: int | str | None = None
    num_sampled: int = 99
    batch_size: int = 4
    learning_rate: float = 3e-3
    width: int = 32
    top_k: int = 100
    max_history: int = 10_000
    tower_widths: tuple[int, ...] = (64, 32)
    id_buckets: int = 20_000
    author_buckets: int = 5_000
    user_buckets: int = 2_000
    cross_features: tuple[str, ...] = ("channel",)
    timed_requests: int = 50
    threads: int = 1

    def __post_init__(self) -> None:
        require(len(self.models) >= 1, "models", self.models, "at least one name")
        require(len(set(self.models)) == len(self.models), "models", self.models, "unique names")
        for field, names in (("models", self.models), ("control", (self.control,))):
            for name in names:
                self._check_name(field, name)
        for field in ("seeds", "num_sampled", "threads"):
            require(getattr(self, field) >= 1, field, getattr(self, field), ">= 1")
        for field in ("max_requests", "first_seed", "timed_requests"):
            require(getattr(self, field) >= 0, field, getattr(self, field), ">= 0")
        require(
            self.replicate in (None, EACH)
            or (isinstance(self.replicate, int) and self.replicate >= 0),
            "replicate", self.replicate, "a number >= 0, or each",
        )  # fmt: skip
        self.training()
        for name in self.models:
            self.model(name)

    def model(self, name: str) -> ModelConfig:
        """The settings of a model; all but the name, or the part it is without, are the same.

        Raises:
            ConfigError: if no model has this name, with the near miss.
        """
        self._check_name("models", name)
        part = ablated_part(name)
        return ModelConfig(
            name=name if part is None else "ifa_plus",
            ifa_plus_without=() if part is None else (part,),
            width=self.width,
            top_k=self.top_k,
            max_history=self.max_history,
            tower_widths=self.tower_widths,
            id_buckets=self.id_buckets,
            author_buckets=self.author_buckets,
            user_buckets=self.user_buckets,
            cross_features=self.cross_features,
        )

    def training(self) -> TrainingConfig:
        """The settings of training."""
        return TrainingConfig(batch_size=self.batch_size, learning_rate=self.learning_rate)

    @property
    def seed_range(self) -> range:
        """The S seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def settings(self) -> dict[str, object]:
        """What every run of the comparison shares."""
        values = self.to_dict()
        for field in _MAY_GROW:
            del values[field]
        return values | {"data": str(Path(self.data).resolve())}

    @property
    def settings_hash(self) -> str:
        """Twelve hex digits that name the settings which change a metric."""
        text = json.dumps(self.settings, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def replicate_of(self, seed: int, available: tuple[int, ...]) -> int:
        """Which replicate a seed reads.

        Args:
            seed: one of `seed_range`.
            available: the replicates of the folder; none if it is not a run's.

        Raises:
            ConfigError: if the folder has no such replicate.
        """
        each = self.replicate == EACH or (self.replicate is None and len(available) > 1)
        if each:
            if seed not in available:
                raise ConfigError(
                    f"seed == {seed}, must be a replicate of {self.data}, which has "
                    f"{', '.join(map(str, available)) or 'none'}: --replicate each reads another "
                    "world for every seed. Choose fewer --seeds, another --first-seed, or one "
                    "--replicate for all."
                )
            return seed
        if self.replicate is None:
            return available[0] if available else 0
        assert isinstance(self.replicate, int)
        return self.replicate

    @staticmethod
    def _check_name(field: str, name: str) -> None:
        part = ablated_part(name)
        if part is not None and part not in ifa_plus.PARTS:
            raise unknown_name(f"{field}: the part of {name!r}", part, ifa_plus.PARTS)
        if part is None and name not in MODELS:
            raise unknown_name(field, name, known_models())
