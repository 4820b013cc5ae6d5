"""A comparison of models on a log: settings, and lists of models by name (the paper's tables)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ifa_ray.config import CROSS_FEATURES, Config, ModelConfig, TrainingConfig, require, setting
from ifa_ray.errors import ConfigError, unknown_name
from ifa_ray.models import MODELS, ifa_plus

_ABLATED = "ifa_plus-"

MODEL_LISTS: dict[str, tuple[str, ...]] = {
    "table2": ("avg_pooling", "din", "sim_hard", "sim_soft", "twin", "ifa"),
    "table3": ("ifa", "ifa_fsm", "ifa_fsm_ram"),
    "attention": (
        *("ifa", "full_attention", "ifa_lsh", "ifa_local_global", "ifa_clustered"),
        *("ifa_inducing", "ifa_linformer", "eta", "sdim"),
    ),
    "ablation": ("ifa_plus", "twin_codes", *(f"{_ABLATED}{part}" for part in ifa_plus.PARTS)),
}
"""Every list by name; `all` is the union of the others."""

MODEL_LISTS["all"] = tuple(dict.fromkeys(name for names in MODEL_LISTS.values() for name in names))

KNOWN_MODELS = tuple(dict.fromkeys((*MODELS, *MODEL_LISTS["ablation"])))
"""Every name that stands for one model: those of `MODELS`, and the ablations of IFA+."""

TITLES: Mapping[str, str] = {
    "table2": "Table 2: all models",
    "table3": "Table 3: ablation of IFA",
    "attention": "Attention: choices of section 4.4, and what they approximate",
    "ablation": "Ablation of IFA+",
}

REFERENCES: Mapping[str, str] = {"table3": "ifa", "attention": "ifa", "ablation": "ifa_plus"}
"""The model that those of a list are compared with, where that is not the control."""

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


def expand_models(text: str) -> tuple[str, ...]:
    """Reads `table2,ifa_plus`: names of models and of lists, in order, each model once.

    Raises:
        ConfigError: on a name that is neither, with the near miss, or a word said twice.
    """
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in MODEL_LISTS and word not in KNOWN_MODELS:
            raise unknown_name("models", word, (*MODEL_LISTS, *KNOWN_MODELS))
    # A list may hold what is named beside it; the same word twice is a slip.
    require(len(set(words)) == len(words), "models", text, "unique names")
    return tuple(dict.fromkeys(name for w in words for name in MODEL_LISTS.get(w, (w,))))


def covered_lists(models: Sequence[str]) -> list[str]:
    """The lists whose every model is among these, `all` left out."""
    return [name for name in TITLES if set(MODEL_LISTS[name]) <= set(models)]


EACH = "each"
"""Seed s reads replicate s: a fresh world and fresh weights."""

# A comparison may add or change these without making its finished runs another's.
_MAY_GROW = ("models", "control", "seeds", "first_seed", "timed_requests")
_OF_MODELS = (
    *("width", "top_k", "max_history", "tower_widths", "id_buckets", "author_buckets"),
    *("user_buckets", "cross_features"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Config):
    """One comparison; sizes are the same for every model."""

    data: str = setting(
        doc="folder of MovieLens, KuaiRand, EB-NeRD (one split), a run or a warm-up log; or "
        "DIR=module:function, an adapter"
    )
    models: tuple[str, ...] = setting(doc="names of models", choices=KNOWN_MODELS)
    control: str = setting("twin", "differences are to this model", choices=KNOWN_MODELS)
    seeds: int = setting(3, "repetitions; tests need 2 or more", ge=1)
    first_seed: int = setting(0, "seeds are first to first + seeds - 1", ge=0)
    max_requests: int = setting(4000, "of a stream, 0 for all of it", ge=0)
    arm: str | None = setting(
        None, "of a run with several: whose log to learn from; warmup is what all share"
    )
    replicate: int | str | None = setting(
        None,
        "each|R, of a run or log: replicate s for seed s, or R for all seeds; none: each, if there "
        "are several",
    )
    num_sampled: int = setting(99, "films beside the rated one (MovieLens)", ge=1)
    batch_size: int = setting(4, "requests per training step")
    learning_rate: float = setting(3e-3, "of Adam")
    width: int = setting(32, "D, of embeddings and attention")
    top_k: int = setting(100, "k, behaviours that a two-stage or short model looks at")
    max_history: int = setting(10_000, "T, behaviours beyond the latest T are not read")
    tower_widths: tuple[int, ...] = setting((64, 32), "hidden widths of every tower")
    id_buckets: int = setting(20_000, "rows of the hashed item table")
    author_buckets: int = setting(5_000, "rows of the hashed author table")
    user_buckets: int = setting(2_000, "rows of the hashed user table")
    cross_features: tuple[str, ...] = setting(
        ("channel",), "features of user and candidate together", choices=CROSS_FEATURES
    )
    timed_requests: int = setting(50, "ranked one by one to measure costs, 0 to measure none", ge=0)
    threads: int = setting(1, "of torch; compare runs of equal numbers only", ge=1)

    def check(self) -> None:
        """Checks rules between settings, and those of models and training."""
        require(len(self.models) >= 1, "models", self.models, "at least one name")
        is_number = isinstance(self.replicate, int) and self.replicate >= 0
        known = self.replicate in (None, EACH) or is_number
        require(known, "replicate", self.replicate, "a number >= 0, or each")
        self.training()
        self.model(self.models[0])

    def model(self, name: str) -> ModelConfig:
        """The settings of a model; all but the name, or the part it is without, are the same."""
        is_whole = not name.startswith(_ABLATED)
        return ModelConfig(
            name=name if is_whole else "ifa_plus",
            ifa_plus_without=() if is_whole else (name.removeprefix(_ABLATED),),
            **{name: getattr(self, name) for name in _OF_MODELS},
        )

    def training(self) -> TrainingConfig:
        """The settings of training."""
        return TrainingConfig(batch_size=self.batch_size, learning_rate=self.learning_rate)

    @property
    def seed_range(self) -> range:
        """The seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def settings(self) -> dict[str, object]:
        """Those that every run of the comparison shares, as JSON gives them back."""
        values = {name: value for name, value in self.to_dict().items() if name not in _MAY_GROW}
        return json.loads(json.dumps(values | {"data": str(Path(self.data).resolve())}))

    @property
    def settings_hash(self) -> str:
        """Twelve hex digits that name the settings which change a metric."""
        text = json.dumps(self.settings, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def replicate_of(self, seed: int, available: tuple[int, ...]) -> int:
        """The replicate that a seed reads.

        Args:
            seed: one of `seed_range`.
            available: the replicates of the folder; none if it is not a run's.

        Raises:
            ConfigError: if the folder has no such replicate.
        """
        if isinstance(self.replicate, int):
            return self.replicate
        if self.replicate is None and len(available) <= 1:
            return available[0] if available else 0
        if seed not in available:
            raise ConfigError(
                f"seed == {seed}, must be a replicate of {self.data}, which has "
                f"{', '.join(map(str, available)) or 'none'}: --replicate each reads another "
                "world for every seed. Choose fewer --seeds, another --first-seed, or one "
                "--replicate for all."
            )
        return seed
