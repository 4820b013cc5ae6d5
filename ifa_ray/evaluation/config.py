"""A comparison of models on a log: settings, and lists of models by name (the paper's tables)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ifa_ray.config import Config, ModelConfig, TrainingConfig, require
from ifa_ray.errors import ConfigError, unknown_name
from ifa_ray.models import MODELS, ifa_plus

_LISTS: Mapping[str, tuple[str, ...]] = {
    "table2": ("avg_pooling", "din", "sim_hard", "sim_soft", "twin", "ifa"),
    "table3": ("ifa", "ifa_fsm", "ifa_fsm_ram"),
    "attention": (
        "ifa", "full_attention", "ifa_lsh", "ifa_local_global", "ifa_clustered", "ifa_inducing",
        "ifa_linformer", "eta", "sdim",
    ),
}  # fmt: skip

TITLES: Mapping[str, str] = {
    "table2": "Table 2: all models",
    "table3": "Table 3: ablation of IFA",
    "attention": "Attention: choices of section 4.4, and what they approximate",
    "ablation": "Ablation of IFA+",
}

REFERENCES: Mapping[str, str] = {"table3": "ifa", "attention": "ifa", "ablation": "ifa_plus"}
"""What the models of a list are compared with, where that is not the control."""

PAPER_TABLES: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "table2": {
        "avg_pooling": (0.9361, 0.9444, 0.9523, 0.9506),
        "din": (0.9409, 0.9498, 0.9564, 0.9561),
        "sim_hard": (0.9452, 0.9556, 0.9605, 0.9651),
        "sim_soft": (0.9502, 0.9566, 0.9642, 0.9657),
        "twin": (0.9582, 0.9632, 0.9726, 0.9737),
        "ifa": (0.9788, 0.9815, 0.9864, 0.9808),
    },
    "table3": {
        "ifa": (0.9788, 0.9815, 0.9864, 0.9808),
        "ifa_fsm": (0.9652, 0.9691, 0.9774, 0.9752),
        "ifa_fsm_ram": (0.9582, 0.9632, 0.9726, 0.9737),
    },
}
"""AUC of impression, click, long view and like: the paper's Tables 2 and 3."""

_ABLATED = "ifa_plus-"


def ablation() -> tuple[str, ...]:
    """IFA+ whole, TWIN with IFA+'s code heads, then IFA+ without each of its parts."""
    return ("ifa_plus", "twin_codes", *(f"{_ABLATED}{part}" for part in ifa_plus.PARTS))


def model_lists() -> dict[str, tuple[str, ...]]:
    """Every list by name; `all` is their union."""
    lists = {**_LISTS, "ablation": ablation()}
    everything = dict.fromkeys(name for names in lists.values() for name in names)
    return {**lists, "all": tuple(everything)}


def known_models() -> tuple[str, ...]:
    """Every name that stands for one model: those of `MODELS`, and the ablations of IFA+."""
    return tuple(dict.fromkeys((*MODELS, *ablation())))


def ablated_part(name: str) -> str | None:
    """The part that `ifa_plus-PART` is without; None for any other name."""
    return name.removeprefix(_ABLATED) if name.startswith(_ABLATED) else None


def expand_models(text: str) -> tuple[str, ...]:
    """Reads `table2,ifa_plus`: names of models and of lists, in order, each model once.

    Raises:
        ConfigError: on a name that is neither, with the near miss, or a model named twice.
    """
    lists, known = model_lists(), known_models()
    found: list[str] = []
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in lists and word not in known:
            raise unknown_name("models", word, (*lists, *known))
        found += lists.get(word, (word,))
    # A list may hold what is named beside it; the same word twice is a slip.
    require(len(set(words)) == len(words), "models", text, "unique names")
    return tuple(dict.fromkeys(found))


def covered_lists(models: Sequence[str]) -> list[str]:
    """The lists whose every model is among these, `all` left out."""
    return [
        name
        for name, members in model_lists().items()
        if name != "all" and len(members) > 1 and set(members) <= set(models)
    ]


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
