"""Frozen settings of models and training, checked where they are made.

Knows nothing of what they configure. A run is a function that returns a complete config:
see `simulator.presets`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from ifa_ray.errors import ConfigError, unknown_name
from ifa_ray.ranking_rule import parse_ranking_rule
from ifa_ray.schema import OBJECTIVES

__all__ = [
    "CROSS_FEATURES",
    "MODULES",
    "SET_STEPS",
    "SPARSE_OPTIMIZERS",
    "TOWER_PRECISIONS",
    "Config",
    "ModelConfig",
    "TrainingConfig",
    "require",
]

CROSS_FEATURES = ("channel", "user", "category", "author")
"""What a platform knows of a user and a candidate together (f_ui); every model of a comparison gets
the same ones.

`channel`: the retrieval channel that brought the candidate. `category`, `author`: how often the
user met the candidate's category or author, clicked, viewed long and liked it, and how long ago the
last time was. `user`: the same of any candidate, so of the user alone. These counts lift all
models, so a comparison reports with and without them.
"""

MODULES = ("sequence_attention", "mmoe", "pepnet", "layer_norm", "residual")
"""The optional modules of the paper's section 4.2; every model of a comparison gets the same ones.

`sequence_attention`: behaviours read each other before candidates read them. `mmoe`: objectives mix
shared experts instead of having first layers of their own. `pepnet`: user and channel gate the
towers' input (EPNet) and hidden units (PPNet). `layer_norm`: of the towers' input. `residual`:
around the towers' hidden layers; around the attention, F_can + F_cs, it would change nothing where
the towers get F_can beside F_cs, as they do without `strict_paper_concat`.
"""


SET_STEPS = ("off", "mmr", "dpp", "learned")
"""How a slate is made of scored candidates: see `ifa_ray.set_step`."""


SPARSE_OPTIMIZERS = ("adam", "rowwise_adagrad")
"""Of the hashed tables, whose gradients are sparse: see `ifa_ray.training.loop`."""


TOWER_PRECISIONS = ("float32", "bfloat16")
"""Of products in the towers: see `ifa_ray.training.precision`."""


def require(condition: bool, field: str, value: object, rule: str) -> None:
    """Raises a `ConfigError` naming field, value and rule unless the condition holds."""
    if not condition:
        raise ConfigError(f"{field} == {value!r}, must be {rule}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Base of frozen configs: to and from plain dicts, unknown keys refused."""

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, ready for JSON."""
        values = dataclasses.asdict(self)
        for name in values:
            value = getattr(self, name)
            if isinstance(value, Config):  # which may leave out what older readers do not know
                values[name] = value.to_dict()
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Builds the config from plain values.

        Raises:
            ConfigError: on a key that is not a field, with the near miss.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                raise unknown_name(f"{cls.__name__} field", key, fields)
        lists_as_tuples = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**lists_as_tuples)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """One ranking model. Only the long-sequence module differs between models of equal settings.

    Attributes:
        name: a key of `ifa_ray.models.MODELS`.
        width: D, of an item embedding and of the attention.
        num_heads: heads of softmax attention and of TWIN's search.
        top_k: k, how many behaviours a two-stage or short-sequence model looks at (paper: 100).
        max_history: T, behaviours beyond the latest T are not read.
        phi: kernel feature map of linear attention: softplus (paper's default) or relu.
        tower_widths: hidden widths of each objective's tower.
        ranking_rule: a name or an expression, see `ifa_ray.ranking_rule`; one rule for all arms.
        set_step: one of `SET_STEPS`; off takes the best candidates by score alone.
        set_strength: how much the set step departs from the scores; 0 is not at all.
        set_pool: how many of the best candidates by score the set step chooses from.
        strict_paper_concat: True keeps the printed [F_cs, F_cc, F_u, F_cro]; False adds F_can and
            F_can * F_cs, which every model then gets.
        id_buckets, author_buckets, user_buckets: rows of the hashed embedding tables.
        cross_features: of `CROSS_FEATURES`, those that are on.
        modules: of `MODULES`, those that are on; none in the paper's experiments.
        ifa_plus_without: parts of `ifa_plus` switched off, for ablations; see
            `ifa_ray.models.ifa_plus.PARTS`.
    """

    name: str
    width: int = 32
    num_heads: int = 4
    top_k: int = 100
    max_history: int = 10_000
    phi: str = "softplus"
    tower_widths: tuple[int, ...] = (64, 32)
    ranking_rule: str = "pitctr"
    set_step: str = "off"
    set_strength: float = 6.0
    set_pool: int = 100
    strict_paper_concat: bool = False
    id_buckets: int = 20_000
    author_buckets: int = 5_000
    user_buckets: int = 2_000
    cross_features: tuple[str, ...] = ("channel",)
    modules: tuple[str, ...] = ()
    ifa_plus_without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in ("width", "num_heads", "top_k", "max_history", "id_buckets",
                      "author_buckets", "user_buckets"):  # fmt: skip
            require(getattr(self, field) >= 1, field, getattr(self, field), ">= 1")
        require(self.width % self.num_heads == 0, "width", self.width,
                f"a multiple of num_heads == {self.num_heads}")  # fmt: skip
        if self.phi not in ("softplus", "relu"):
            raise unknown_name("phi", self.phi, ("softplus", "relu"))
        parse_ranking_rule(self.ranking_rule)
        if self.set_step not in SET_STEPS:
            raise unknown_name("set_step", self.set_step, SET_STEPS)
        require(0 <= self.set_strength <= 1000, "set_strength", self.set_strength, "in [0, 1000]")
        require(self.set_pool >= 1, "set_pool", self.set_pool, ">= 1")
        require(all(w >= 1 for w in self.tower_widths), "tower_widths", self.tower_widths,
                "positive widths")  # fmt: skip
        _require_names("cross_features", self.cross_features, CROSS_FEATURES)
        _require_names("modules", self.modules, MODULES)
        require(bool(self.tower_widths) or "mmoe" not in self.modules, "tower_widths",
                self.tower_widths, "at least one width: the experts of mmoe")  # fmt: skip


def _require_names(field: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    for name in names:
        if name not in known:
            raise unknown_name(field, name, known)
    require(len(set(names)) == len(names), field, names, "named once each")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig(Config):
    """How a model learns from the stream; the same for every arm of a comparison.

    Attributes:
        batch_size: requests per step, each with its whole candidate set.
        learning_rate: of Adam, dense and sparse.
        objective_weights: of the losses, in the order of `OBJECTIVES`.
        sparse_optimizer: one of `SPARSE_OPTIMIZERS`. Adam keeps two numbers for each weight of a
            hashed table, row-wise Adagrad one for each row.
        sparse_learning_rate: of the hashed tables; None is `learning_rate`.
        tower_precision: of the towers' products while learning, one of `TOWER_PRECISIONS`.
        negative_rate: of the candidates of which nothing happened, how many are learned from, each
            counting for so many more; all are tested. Below 1 for models alone whose candidates do
            not read each other.
        evict_after_days, evict_after_requests: a row of a hashed table that nothing has learned
            from for so many days of the log's clock, or so many requests, goes back to where it
            began (`ifa_ray.training.visits`). One of the two at most; None keeps all rows.
    """

    batch_size: int = 4
    learning_rate: float = 3e-3
    objective_weights: tuple[float, ...] = (1.0,) * len(OBJECTIVES)
    sparse_optimizer: str = "adam"
    sparse_learning_rate: float | None = None
    tower_precision: str = "float32"
    negative_rate: float = 1.0
    evict_after_days: float | None = None
    evict_after_requests: int | None = None

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size", self.batch_size, ">= 1")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "> 0")
        require(len(self.objective_weights) == len(OBJECTIVES), "objective_weights",
                self.objective_weights, f"{len(OBJECTIVES)} numbers")  # fmt: skip
        if self.sparse_optimizer not in SPARSE_OPTIMIZERS:
            raise unknown_name("sparse_optimizer", self.sparse_optimizer, SPARSE_OPTIMIZERS)
        if self.tower_precision not in TOWER_PRECISIONS:
            raise unknown_name("tower_precision", self.tower_precision, TOWER_PRECISIONS)
        rate = self.sparse_learning_rate
        require(rate is None or rate > 0, "sparse_learning_rate", rate, "> 0")
        require(0 < self.negative_rate <= 1, "negative_rate", self.negative_rate, "in (0, 1]")
        days, requests = self.evict_after_days, self.evict_after_requests
        require(days is None or days > 0, "evict_after_days", days, "> 0")
        require(requests is None or requests >= 1, "evict_after_requests", requests, ">= 1")
        require(days is None or requests is None, "evict_after_days", days,
                f"None with evict_after_requests == {requests}: one clock alone")  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values; those that came later are left out while they are unused.

        So a checkpoint of a training that does not use them is what it was before they existed.
        """
        values = super().to_dict()
        for name in (
            "sparse_optimizer", "sparse_learning_rate", "tower_precision", "negative_rate",
            "evict_after_days", "evict_after_requests",
        ):  # fmt: skip
            if values[name] == getattr(type(self), name):
                del values[name]
        return values
