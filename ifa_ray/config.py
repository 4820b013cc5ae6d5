"""Frozen settings, checked where they are made: one system for all that can be configured.

A setting is a field of a `Config`: its type, its default, the sentence that says what it is and the
rule that its value must meet, in one place. Checks, JSON, command-line flags and `--set` are made
of that. Knows nothing of what is configured; runs with the standard library alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Self

from ifa_ray.errors import ConfigError, unknown_name
from ifa_ray.ranking_rule import parse_ranking_rule
from ifa_ray.schema import OBJECTIVES

_REQUIRED: Any = dataclasses.MISSING


CROSS_FEATURES = ("channel", "user", "category", "author")
"""Features of a user and a candidate together (f_ui); every model of a comparison gets
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
"""Ways to make a slate of scored candidates: see `ifa_ray.reranking`."""


SPARSE_OPTIMIZERS = ("adam", "rowwise_adagrad")
"""Of the hashed tables, whose gradients are sparse: see `ifa_ray.training.learner`."""


def setting(
    default: Any = _REQUIRED,
    doc: str = "",
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: Collection[str] | None = None,
) -> Any:
    """Declares a setting: a field of a `Config` with a sentence and a rule.

    Args:
        default: its value where none is given; required without. A `Config` or a tuple may be one.
        doc: what it is, with its unit; shown by `--help`.
        ge: least value of a number, or of each of a tuple's; None is within all bounds.
        gt: value that it must exceed.
        le: greatest value.
        lt: value that it must stay below.
        choices: the names that are allowed, for a name or each of a tuple's, which then holds none
            of them twice.
    """
    rule = {"ge": ge, "gt": gt, "le": le, "lt": lt, "choices": choices, "doc": doc}
    return dataclasses.field(default=default, metadata=rule)


def require(condition: bool, field: str, value: object, rule: str) -> None:
    """Raises a `ConfigError` naming field, value and rule unless the condition holds."""
    if not condition:
        raise ConfigError(f"{field} == {value!r}, must be {rule}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Base of frozen configs. A subclass with rules between fields adds them in `check`."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            for each in value if isinstance(value, tuple) else (value,):
                _check(field, each, value)
            if isinstance(value, tuple) and field.metadata.get("choices"):
                require(len(set(value)) == len(value), field.name, value, "named once each")
        self.check()

    def check(self) -> None:
        """Checks what no single field's rule can say.

        Raises:
            ConfigError: naming field, value and rule.
        """

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Builds the config, nested ones included, from plain values.

        Raises:
            ConfigError: on a key that is not a field, with the near miss, a missing one, or a value
                of another type or outside its rule.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"{cls.__name__} == {values!r}, must be an object of settings.")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                raise unknown_name(f"{cls.__name__} field", key, fields)
        for name, field in fields.items():
            is_given = name in values or field.default is not dataclasses.MISSING
            if not is_given and field.default_factory is dataclasses.MISSING:
                raise ConfigError(f"{name} is missing, must be given.")
        hints = typing.get_type_hints(cls)
        return cls(**{key: _convert(hints[key], key, value) for key, value in values.items()})

    def replace(self, changes: Mapping[str, Any]) -> Self:
        """A copy with some settings replaced; dots reach nested ones: `{"model.width": 64}`.

        All changes are made together, because what one setting may be depends on others.

        Raises:
            ConfigError: as `from_dict`.
        """
        names = [field.name for field in dataclasses.fields(self)]
        hints = typing.get_type_hints(type(self))
        changed: dict[str, Any] = {}
        nested: dict[str, dict[str, Any]] = {}
        for name, value in changes.items():
            outer, dot, inner = name.partition(".")
            if outer not in names:
                raise unknown_name("setting", outer, names)
            if not dot:
                changed[outer] = _convert(hints[outer], outer, value)
            elif isinstance(getattr(self, outer), Config):
                nested.setdefault(outer, {})[inner] = value
            else:
                raise ConfigError(f"setting == {name!r}, must be a setting: {outer} has no parts.")
        for outer, values in nested.items():
            changed[outer] = changed.get(outer, getattr(self, outer)).replace(values)
        return dataclasses.replace(self, **changed)


def _convert(hint: Any, name: str, value: Any) -> Any:
    """A plain value as the type of a setting: lists as tuples, objects as configs, 1 as 1.0."""
    try:
        return _converted(hint, value)
    except TypeError:
        raise ConfigError(f"{name} == {value!r}, must be of type {_spelled(hint)}.") from None


def add_flags(
    parser: argparse._ActionsContainer,
    cls: type[Config],
    names: Iterable[str],
    *,
    of_preset: bool = False,
    **flags: str,
) -> None:
    """Adds a flag for each of some settings: `--top-k` for `top_k`, with its sentence as help.

    Dots reach nested configs: `model.top_k` is `--top-k` too. `flags_given` reads what was typed.

    Args:
        parser: of the command, or a group of it.
        cls: whose settings.
        names: of the settings, in the order of `--help`.
        of_preset: the class's own defaults are not those of the command.
        **flags: another name of a flag, by the last part of the setting's name.
    """
    for name in names:
        owner, field = _field(cls, name)
        hint, default = typing.get_type_hints(owner)[field.name], field.default
        flag = flags.get(field.name, field.name).replace("_", "-")
        shown = ",".join(map(str, default)) or "none" if isinstance(default, tuple) else default
        is_said = default is not _REQUIRED and default is not None and not of_preset
        said = f" (default: {shown})" if is_said else ""
        choices = field.metadata.get("choices")
        among = f"; of {', '.join(choices)}" if choices else ""
        kind: dict[str, Any] = {"type": functools.partial(_Typed, hint), "metavar": "X"}
        if _spelled(hint) == "bool":
            kind = {"action": argparse.BooleanOptionalAction}
        text = f"{field.metadata.get('doc', '')}{among}{said}".replace("%", "%%")
        parser.add_argument(
            f"--{flag}", dest=f"setting:{name}", default=argparse.SUPPRESS, help=text, **kind
        )


def flags_given(options: argparse.Namespace) -> dict[str, Any]:
    """Settings that were typed as flags of `add_flags`, by their names, for `Config.replace`.

    Raises:
        ConfigError: if one is of another type.
    """
    given = {}
    for name, value in vars(options).items():
        _, is_setting, name = name.rpartition("setting:")
        if is_setting:
            given[name] = value.read(name) if isinstance(value, _Typed) else value
    return given


def read_setting(text: str) -> tuple[str, Any]:
    """Reads `NAME=VALUE`, the form of `--set`; the value is JSON, or a plain word.

    Raises:
        ConfigError: if there is no `=`.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"set == {text!r}, must be NAME=VALUE.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _check(field: dataclasses.Field[Any], value: Any, shown: Any) -> None:
    """Holds a value, which may be one of a tuple that is shown, to its field's rule."""
    rule = field.metadata
    if value is None or not rule:
        return
    choices = rule.get("choices")
    if choices is not None and value not in choices:
        raise unknown_name(field.name, value, choices)
    if isinstance(value, float):
        require(math.isfinite(value), field.name, shown, "a finite number")
    low, high = rule.get("ge"), rule.get("le")
    above, below = rule.get("gt"), rule.get("lt")
    if (low is not None or above is not None) and (high is not None or below is not None):
        left = f"[{low}" if low is not None else f"({above}"
        right = f"{high}]" if high is not None else f"{below})"
        said = f"in {left}, {right}"
    else:
        bounds = ((">=", low), (">", above), ("<=", high), ("<", below))
        said = " and ".join(f"{sign} {bound}" for sign, bound in bounds if bound is not None)
    fits = (
        (low is None or value >= low)
        and (above is None or value > above)
        and (high is None or value <= high)
        and (below is None or value < below)
    )
    require(fits, field.name, shown, said)


def _field(cls: type[Config], name: str) -> tuple[type[Config], dataclasses.Field[Any]]:
    """The field of a dotted name, and the config that has it."""
    outer, dot, inner = name.partition(".")
    if dot:
        return _field(typing.get_type_hints(cls)[outer], inner)
    return cls, {field.name: field for field in dataclasses.fields(cls)}[outer]


def _converted(hint: Any, value: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = typing.get_args(hint)
        for kind in kinds:
            if type(value) is kind:  # 1 stays an int where either would do
                return value
        for kind in kinds:
            try:
                return _converted(kind, value)
            except TypeError:
                continue
        raise TypeError
    if hint is Any:
        return value
    if hint is None or hint is type(None):
        if value is not None:
            raise TypeError
        return None
    if typing.get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise TypeError
        return value
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError
        inner = typing.get_args(hint)[0]
        return tuple(_converted(inner, each) for each in value)
    if isinstance(hint, type) and issubclass(hint, Config):
        return value if isinstance(value, hint) else hint.from_dict(value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise TypeError
    return value


@dataclasses.dataclass(frozen=True)
class _Typed:
    """The text typed for a setting; argparse would say in other words what is wrong with it."""

    hint: Any
    text: str

    def read(self, name: str) -> Any:
        """The value; `none` where it may be None or empty."""
        is_union = typing.get_origin(self.hint) in (typing.Union, types.UnionType)
        kinds = typing.get_args(self.hint) if is_union else (self.hint,)
        if self.text == "none" and type(None) in kinds:
            return None
        for kind in kinds:
            try:
                if typing.get_origin(kind) is tuple:
                    parts = [] if self.text in ("", "none") else self.text.split(",")
                    return tuple(typing.get_args(kind)[0](part.strip()) for part in parts)
                if kind in (int, float, str):
                    return kind(self.text)
            except ValueError:
                continue
        raise ConfigError(f"{name} == {self.text!r}, must be of type {_spelled(self.hint)}.")


def _spelled(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """One ranking model. Only the long-sequence module differs between models of equal settings."""

    name: str = setting(doc="of a model; see `ifa_ray.models.MODELS`")
    width: int = setting(32, "D, of an item embedding and of the attention", ge=1)
    num_heads: int = setting(4, "heads of softmax attention and of TWIN's search", ge=1)
    top_k: int = setting(
        100, "k, impressions that a two-stage or short-sequence model looks at (paper: 100)", ge=1
    )
    max_history: int = setting(
        10_000, "T, impressions beyond the latest T are not attended to", ge=1
    )
    phi: str = setting(
        "softplus",
        "kernel feature map of linear attention (paper: softplus)",
        choices=("relu", "softplus"),
    )
    tower_widths: tuple[int, ...] = setting((64, 32), "hidden widths of every tower", ge=1)
    ranking_rule: str = setting("pitctr", "a name or an expression: see `ifa_ray.ranking_rule`")
    set_step: str = setting(
        "off", "how a slate is made of scored candidates; off: the best by score", choices=SET_STEPS
    )
    set_strength: float = setting(
        6.0, "how much re-ranking departs from the scores; 0 is not at all", ge=0, le=1000
    )
    set_pool: int = setting(100, "best candidates by score that re-ranking chooses from", ge=1)
    strict_paper_concat: bool = setting(
        False,
        "the towers' input as printed, [F_cs, F_cc, F_u, F_cro]; without it F_can and "
        "F_can * F_cs are added, for every model",
    )
    id_buckets: int = setting(20_000, "rows of the hashed item table", ge=1)
    author_buckets: int = setting(5_000, "rows of the hashed author table", ge=1)
    user_buckets: int = setting(2_000, "rows of the hashed user table", ge=1)
    cross_features: tuple[str, ...] = setting(
        ("channel",), "features of user and candidate together", choices=CROSS_FEATURES
    )
    modules: tuple[str, ...] = setting((), "optional modules of the paper", choices=MODULES)
    ifa_plus_without: tuple[str, ...] = setting((), "parts of ifa_plus switched off, for ablations")

    def check(self) -> None:
        """Checks rules between settings."""
        require(
            self.width % self.num_heads == 0,
            "width",
            self.width,
            f"a multiple of num_heads == {self.num_heads}",
        )
        parse_ranking_rule(self.ranking_rule)
        require(
            bool(self.tower_widths) or "mmoe" not in self.modules,
            "tower_widths",
            self.tower_widths,
            "at least one width: the experts of mmoe",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig(Config):
    """Learning from the stream; the same for every arm of a comparison."""

    batch_size: int = setting(4, "requests per step, each with its whole candidate set", ge=1)
    learning_rate: float = setting(3e-3, "of Adam", gt=0)
    objective_weights: tuple[float, ...] = setting(
        (1.0,) * len(OBJECTIVES), "weights of the losses, in the order of the objectives"
    )
    sparse_optimizer: str = setting(
        "adam",
        "of the hashed tables; Adam keeps two numbers a weight, row-wise Adagrad one a row",
        choices=SPARSE_OPTIMIZERS,
    )
    sparse_learning_rate: float | None = setting(
        None, "of the hashed tables; none: learning_rate", gt=0
    )
    negative_rate: float = setting(
        1.0,
        "share of the candidates without any label that is learned from, each counting for more",
        gt=0,
        le=1,
    )

    def check(self) -> None:
        """Checks rules between settings."""
        require(
            len(self.objective_weights) == len(OBJECTIVES),
            "objective_weights",
            self.objective_weights,
            f"{len(OBJECTIVES)} numbers",
        )
