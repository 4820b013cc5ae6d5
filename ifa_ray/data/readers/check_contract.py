"""Rules over tables, and what is found by them: counts and examples, never the end of a check.

Knows polars frames; the formats are those of `check_files`. A reader stops at the first mistake; a
check reads loosely and collects them all.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ifa_ray.data.log_tables import LogTables, watermarks
from ifa_ray.schema import ACTIONS, MAX_CANDIDATES

MAX_EXAMPLES = 3

_QUANTILES = (0.0, 0.1, 0.5, 0.9, 0.99, 1.0)


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule of rows."""

    says: str  # the finding in words
    breaks: pl.Expr  # true for a row that breaks the rule; null is no
    is_note: bool = False  # odd and no mistake: real logs have it


@dataclasses.dataclass(frozen=True)
class Problem:
    """One rule broken in one place: how often, and up to `MAX_EXAMPLES` of the rows."""

    where: str
    rule: str
    count: int
    examples: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileSummary:
    """The contents of one file, or of one table of many files; None where it has none."""

    name: str  # its path below the log's folder
    rows: int
    users: int | None = None  # distinct ones
    items: int | None = None
    first_ms: int | None = None  # the range of time, Unix milliseconds
    last_ms: int | None = None
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)  # of feedback columns


class Findings:
    """Collects what is found in a folder, in the order of the check."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: list[FileSummary] = []
        self.problems: list[Problem] = []
        self.notes: list[Problem] = []
        self.rows: dict[str, int] = {}  # of each file that was opened, where `files` sums up many
        self.facts: dict[str, Any] = {}  # numbers of the whole log

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
            needed = [*show, *sorted(set(rule.breaks.meta.root_names()))]
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
    """The number of rows that break each rule."""
    broken = [rule.breaks.fill_null(False).sum().alias(str(i)) for i, rule in enumerate(rules)]
    return lazy.select(broken).collect(engine="streaming").row(0)


def rules(broken: Mapping[str, pl.Expr]) -> list[Rule]:
    """Rules by what they say; each expression is true for a row that breaks its rule."""
    return [Rule(says, breaks) for says, breaks in broken.items()]


def notes(odd: Mapping[str, pl.Expr]) -> list[Rule]:
    """As `rules`, of what is odd and no mistake."""
    return [Rule(says, breaks, is_note=True) for says, breaks in odd.items()]


def flags(names: Iterable[str]) -> list[Rule]:
    """Rules of columns that hold 0 and 1 alone."""
    return rules({f"{n} is not 0 or 1": (pl.col(n) != 0) & (pl.col(n) != 1) for n in names})


def not_negative(*names: str) -> list[Rule]:
    """Rules of columns that count."""
    return rules({f"{name} is negative": pl.col(name) < 0 for name in names})


def unique(*names: str) -> list[Rule]:
    """Rules of columns that hold nothing twice."""
    said = "is there more than once"
    return rules({f"{name} {said}": pl.col(name).is_duplicated() for name in names})


def summary_of(
    name: str,
    frame: pl.DataFrame | pl.LazyFrame,
    *,
    user: str | None = "user_id",
    item: str | None = "video_id",
    time_ms: str | None = "time_ms",
    rates: Sequence[str] = (),
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
    known = [rate for rate in rates if rate in columns]
    wanted |= {f"rate {rate}": pl.col(rate).cast(pl.Float64).mean() for rate in known}
    found = lazy.select(**wanted).collect(engine="streaming").row(0, named=True)
    means = {rate: found.pop(f"rate {rate}") for rate in known}
    means = {rate: mean for rate, mean in means.items() if mean is not None}
    return FileSummary(name=name, rates=means, **found)


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


_PLAYED, _LONG = pl.col("play_time_ms"), pl.col("long_view") == 1
_DURATION, _CANDIDATES = pl.col("duration_ms"), pl.col("candidates").list
# KuaiRand's README: the whole video, or 18 s of one that is longer.
_IS_LONG = pl.min_horizontal("duration_ms", pl.lit(18_000)) <= _PLAYED
PLAY_RULES = notes(
    {
        "play_time_ms is more than ten times duration_ms": (_DURATION > 0)
        & (_PLAYED > 10 * _DURATION),
        "duration_ms is 0, though it was played": (_DURATION == 0) & (_PLAYED > 0),
        "long_view is not what play_time_ms >= min(duration_ms, 18000) says": (_DURATION > 0)
        & (_IS_LONG != _LONG),
        "long_view without is_click": _LONG & (pl.col("is_click") == 0) & _PLAYED.is_not_null(),
    }
)
_ONCE = "the video is logged more than once for its request"
_ROW_RULES = {
    "impressions": [
        *flags((*ACTIONS, "is_rand")),
        *not_negative("request_id", "user_id", "video_id", "position", "play_time_ms"),
        *not_negative("duration_ms"),
        *rules({_ONCE: pl.struct("request_id", "video_id").is_duplicated()}),
        *PLAY_RULES,
    ],
    "requests": [
        *not_negative("request_id", "user_id", "watermark"),
        *unique("request_id"),
        *rules(
            {
                "it has no candidates": _CANDIDATES.len() == 0,
                f"it has more than {MAX_CANDIDATES} candidates": _CANDIDATES.len() > MAX_CANDIDATES,
                "a candidate is there more than once": _CANDIDATES.n_unique() < _CANDIDATES.len(),
                "channels and candidates differ in number": pl.col("channels").list.len()
                != _CANDIDATES.len(),
            }
        ),
    ],
    "items": [
        *not_negative("video_id", "author_id", "category", "duration_ms"),
        *unique("video_id"),
        *rules(
            {
                "content differs in width": pl.col("content").list.len()
                != pl.col("content").list.len().first(),
                "content holds NaN or infinity": ~pl.col("content")
                .list.eval(pl.element().is_finite())
                .list.all(),
            }
        ),
    ],
}
_JOINED_RULES = rules(
    {
        "was not a candidate of its request, and is_rand is 0": pl.col("is_candidate").is_null()
        & (pl.col("is_rand") == 0),
        "is of another user than its request": pl.col("user_id") != pl.col("asked_by"),
        "is earlier than its request": pl.col("time_ms") < pl.col("asked_ms"),
    }
)
_LATER = "watermark counts impressions that are later than the request"
_EARLIER = "watermark leaves out impressions that are earlier than the request"
_WATERMARK_RULES = [
    *rules({_LATER: pl.col("watermark") > pl.col("seen_until")}),
    *notes({_EARLIER: pl.col("watermark") < pl.col("seen_before")}),
]
SHOW = {
    "impressions": ("file", "row", "request_id", "user_id", "video_id", "time_ms"),
    "requests": ("file", "row", "request_id", "user_id", "time_ms"),
    "items": ("row", "video_id"),
}
"""Columns that an example shows of a row, beside the columns of its rule."""


def check_tables(findings: Findings, tables: LogTables) -> None:
    """Checks the tables that an adapter gave."""
    names = ("video_id", "author_id", "category", "duration_ms")
    items = pl.DataFrame({name: getattr(tables.items, f"{name}_N") for name in names})
    impressions = pl.DataFrame(dict(tables.impressions)).with_row_index("row")
    lists = {
        name: pl.Series(name, [np.asarray(row) for row in tables.requests[name]])
        for name in ("candidates", "channels")
    }
    requests = pl.DataFrame(dict(tables.requests) | lists).with_row_index("row")
    for name, frame in (("items", items), ("impressions", impressions), ("requests", requests)):
        check_rows(findings, name, name, frame)
    check_requests(findings, "", items, impressions, requests)
    check_histories(findings, "", impressions, requests)


def check_rows(findings: Findings, where: str, table: str, frame: pl.DataFrame) -> None:
    """Checks one of `impressions`, `requests` and `items` by itself, and summarises it."""
    rates = (*ACTIONS, "is_rand") if table == "impressions" else ()
    findings.files.append(summary_of(where, frame, rates=rates))
    findings.apply(where, frame, _ROW_RULES[table], SHOW[table])


def check_requests(
    findings: Findings,
    prefix: str,
    items: pl.DataFrame,
    impressions: pl.DataFrame,
    requests: pl.DataFrame,
) -> None:
    """Checks requests against their impressions and the catalogue.

    Args:
        findings: where problems go; it also counts candidates.
        prefix: of `where`.
        items: the catalogue; without rows, ids are not looked up.
        impressions: those of the requests, and any others.
        requests: each with its candidates.
    """
    candidates = (
        requests.select("request_id", pl.col("candidates").alias("video_id"))
        .explode("video_id")
        .drop_nulls()
        .with_columns(pl.lit(True).alias("is_candidate"))
    )
    asked = requests.select(
        "request_id", pl.col("user_id").alias("asked_by"), pl.col("time_ms").alias("asked_ms")
    ).unique("request_id", keep="first")
    joined = impressions.join(asked, on="request_id", how="inner").join(
        candidates.unique(["request_id", "video_id"]), on=["request_id", "video_id"], how="left"
    )
    for fact, count in (
        ("candidates", len(candidates)),
        ("candidates shown", int(joined["is_candidate"].sum() or 0)),
    ):
        findings.facts[fact] = findings.facts.get(fact, 0) + count
    findings.apply(f"{prefix}impressions", joined, _JOINED_RULES, SHOW["impressions"])
    if not len(items):
        return
    ids = items["video_id"].drop_nulls().unique()
    says, unknown = "video_id is not in the catalogue", ~pl.col("video_id").is_in(ids.implode())
    findings.apply(f"{prefix}candidates", candidates, [Rule(says, unknown)], ("request_id",))
    # No mistake: a history may hold what has left the catalogue.
    left = notes({says: unknown})
    findings.apply(f"{prefix}impressions", impressions, left, SHOW["impressions"])


def check_histories(
    findings: Findings, prefix: str, impressions: pl.DataFrame, requests: pl.DataFrame
) -> None:
    """Checks clocks and watermarks over all days of a world, which are given in order."""
    if not len(impressions):
        return
    clock = impressions.with_columns(
        (pl.col("time_ms") < pl.col("time_ms").shift().over("user_id")).alias("goes_back")
    )
    rule = Rule("time_ms of the user goes back", pl.col("goes_back"))
    findings.apply(f"{prefix}impressions", clock, [rule], SHOW["impressions"])
    lengths = impressions.group_by("user_id").len()["len"]
    findings.facts[f"{prefix}impressions per user"] = quantiles_of(lengths)
    known = requests.drop_nulls(["user_id", "time_ms", "watermark"])
    rows = impressions.drop_nulls(["user_id", "time_ms"])
    columns = {name: rows[name].to_numpy() for name in ("user_id", "time_ms")}
    users, times = known["user_id"].to_numpy(), known["time_ms"].to_numpy()
    marked = known.with_columns(
        pl.Series("seen_before", watermarks(columns, users, times)),
        pl.Series("seen_until", watermarks(columns, users, times + 1)),
    )
    findings.facts[f"{prefix}history of a request"] = quantiles_of(known["watermark"])
    findings.apply(f"{prefix}requests", marked, _WATERMARK_RULES, SHOW["requests"])
