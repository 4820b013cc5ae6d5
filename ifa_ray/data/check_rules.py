"""Rules over tables, and what is found by them: counts and examples, never the end of a check.

Knows polars frames; knows no format, which are the parts of `check_contract`, `check_csv` and
`check_ebnerd`. A reader stops at the first mistake; a check reads loosely and collects them all.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

MAX_EXAMPLES = 3

_QUANTILES = (0.0, 0.1, 0.5, 0.9, 0.99, 1.0)


@dataclasses.dataclass(frozen=True)
class Rule:
    """What must not be.

    Attributes:
        says: the finding in words.
        breaks: true for a row that breaks the rule; null is no.
        show: columns of an example, beside those that the frame's caller shows.
        is_note: odd and no mistake: real logs have it.
    """

    says: str
    breaks: pl.Expr
    show: tuple[str, ...] = ()
    is_note: bool = False


@dataclasses.dataclass(frozen=True)
class Problem:
    """One rule broken in one place: how often, and up to `MAX_EXAMPLES` of the rows."""

    where: str
    rule: str
    count: int
    examples: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileSummary:
    """What is in one file, or in one table of many files.

    Attributes:
        name: its path below the log's folder.
        rows: how many.
        users, items: distinct ones; None where it has none.
        first_ms, last_ms: the range of time, Unix milliseconds.
        rates: means of the feedback columns.
    """

    name: str
    rows: int
    users: int | None = None
    items: int | None = None
    first_ms: int | None = None
    last_ms: int | None = None
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)


class Findings:
    """Collects what is found in a folder.

    Attributes:
        files, problems, notes: in the order of the check.
        rows: of each file that was opened, by name, where `files` sums up many.
        facts: numbers of the whole log by name.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: list[FileSummary] = []
        self.problems: list[Problem] = []
        self.notes: list[Problem] = []
        self.rows: dict[str, int] = {}
        self.facts: dict[str, Any] = {}

    def name(self, path: Path) -> str:
        """The path below the folder that is checked."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def problem(self, where: str, rule: str, count: int = 1, examples: Iterable[str] = ()) -> None:
        """Notes a mistake."""
        self.problems.append(Problem(where, rule, count, tuple(examples)))

    def note(self, where: str, rule: str, count: int = 1, examples: Iterable[str] = ()) -> None:
        """Notes an oddity."""
        self.notes.append(Problem(where, rule, count, tuple(examples)))

    @contextlib.contextmanager
    def reading(self, where: str) -> Iterator[None]:
        """Around what reads a file in parts: damage may show at any of them."""
        try:
            yield
        except pl.exceptions.PolarsError as error:
            why = (str(error).splitlines() or ["unreadable"])[0]
            self.problem(where, f"cannot be read to its end ({why})")

    def apply(
        self,
        where: str,
        frame: pl.DataFrame | pl.LazyFrame,
        rules: Sequence[Rule],
        show: Sequence[str] = (),
    ) -> None:
        """Counts the rows that break each rule, in one pass; one more for a rule that is broken.

        Rules that need a column that the frame lacks are passed over: that is found elsewhere.
        """
        lazy = frame.lazy()
        columns = set(lazy.collect_schema().names())
        rules = [rule for rule in rules if columns.issuperset(rule.breaks.meta.root_names())]
        if not rules:
            return
        try:
            counts = _count(lazy, rules)
        except pl.exceptions.PolarsError:
            # A column is of a type that a rule cannot be asked of, which is found elsewhere.
            for rule in rules if len(rules) > 1 else ():
                self.apply(where, frame, [rule], show)
            if len(rules) == 1:
                self.note(where, f"could not be checked: {rules[0].says}")
            return
        for rule, count in zip(rules, counts, strict=True):
            if not count:
                continue
            broken = lazy.filter(rule.breaks.fill_null(False))
            needed = [*show, *rule.show, *sorted(set(rule.breaks.meta.root_names()))]
            names = [name for name in dict.fromkeys(needed) if name in columns]
            rows = broken.select(names).head(MAX_EXAMPLES).collect()
            add = self.note if rule.is_note else self.problem
            add(where, rule.says, int(count), [_said(row) for row in rows.iter_rows(named=True)])

    def nulls(
        self, where: str, frame: pl.DataFrame, columns: Iterable[str], show: Sequence[str] = ()
    ) -> None:
        """Finds nulls, and NaN or infinity where a column is of floats."""
        rules = []
        for name in columns:
            if name not in frame.columns:
                continue
            rules.append(Rule(f"{name} is null", pl.col(name).is_null()))
            if frame[name].dtype.is_float():
                rules.append(Rule(f"{name} is NaN or infinite", ~pl.col(name).is_finite()))
        self.apply(where, frame, rules, show)


def _count(lazy: pl.LazyFrame, rules: Sequence[Rule]) -> tuple[int, ...]:
    """How many rows break each rule."""
    broken = (
        rule.breaks.fill_null(False).sum().alias(str(i)) for i, rule in enumerate(rules)
    )  # fmt: skip
    return lazy.select(broken).collect(engine="streaming").row(0)


def is_flag(name: str) -> Rule:
    """A column that holds 0 and 1 alone."""
    return Rule(f"{name} is not 0 or 1", (pl.col(name) != 0) & (pl.col(name) != 1))


def summary_of(
    name: str,
    frame: pl.DataFrame | pl.LazyFrame,
    *,
    user: str | None = "user_id",
    item: str | None = "video_id",
    time_ms: str | None = "time_ms",
    flags: Sequence[str] = (),
) -> FileSummary:
    """Counts, time range and rates of a table, in one pass; columns that it lacks are left out."""
    lazy = frame.lazy()
    columns = set(lazy.collect_schema().names())
    wanted: dict[str, pl.Expr] = {"rows": pl.len()}
    if user in columns:
        wanted["users"] = pl.col(str(user)).drop_nulls().n_unique()
    if item in columns:
        wanted["items"] = pl.col(str(item)).drop_nulls().n_unique()
    if time_ms in columns:
        wanted["first_ms"] = pl.col(str(time_ms)).min()
        wanted["last_ms"] = pl.col(str(time_ms)).max()
    rates = [flag for flag in flags if flag in columns]
    wanted |= {f"rate {flag}": pl.col(flag).cast(pl.Float64).mean() for flag in rates}
    found = lazy.select(**wanted).collect(engine="streaming").row(0, named=True)
    means = {flag: found.pop(f"rate {flag}") for flag in rates}
    return FileSummary(
        name=name, rates={flag: mean for flag, mean in means.items() if mean is not None}, **found
    )


def quantiles_of(values: pl.Series) -> dict[str, float]:
    """Minimum, maximum and what lies between, by name."""
    names = ("min", "p10", "p50", "p90", "p99", "max")
    if not len(values):
        return {}
    found = [values.quantile(q, interpolation="nearest") for q in _QUANTILES]
    return {name: float(value or 0) for name, value in zip(names, found, strict=True)}


def _said(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in row.items())


def _short(value: Any) -> str:
    if isinstance(value, list):
        head = ", ".join(str(each) for each in value[:4])
        return f"[{head}, ... {len(value)} in all]" if len(value) > 4 else f"[{head}]"
    # CSV fields are read as floats.
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)
