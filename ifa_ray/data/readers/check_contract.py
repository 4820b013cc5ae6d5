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

import numpy as np
import polars as pl

from ifa_ray.data.log_tables import LogTables, watermarks
from ifa_ray.schema import ACTIONS, MAX_CANDIDATES

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


# KuaiRand's README: the whole video, or 18 s of one that is longer.
_LONG_MS = 18_000
LONG_VIEW_RULE = Rule(
    f"long_view is not what play_time_ms >= min(duration_ms, {_LONG_MS}) says",
    (pl.col("duration_ms") > 0)
    & (
        (pl.col("play_time_ms") >= pl.min_horizontal("duration_ms", pl.lit(_LONG_MS)))
        != (pl.col("long_view") == 1)
    ),
    is_note=True,
)
PLAY_RULES = (
    Rule("play_time_ms is more than ten times duration_ms",
         (pl.col("duration_ms") > 0) & (pl.col("play_time_ms") > 10 * pl.col("duration_ms")),
         is_note=True),
    Rule("duration_ms is 0, though it was played",
         (pl.col("duration_ms") == 0) & (pl.col("play_time_ms") > 0), is_note=True),
    LONG_VIEW_RULE,
    Rule("long_view without is_click", (pl.col("long_view") == 1) & (pl.col("is_click") == 0),
         show=("play_time_ms",), is_note=True),
)  # fmt: skip

_IMPRESSION_RULES = (
    *(is_flag(name) for name in (*ACTIONS, "is_rand")),
    *(Rule(f"{name} is negative", pl.col(name) < 0)
      for name in ("request_id", "user_id", "video_id", "position", "play_time_ms",
                   "duration_ms")),
    Rule("the video is logged more than once for its request",
         pl.struct("request_id", "video_id").is_duplicated()),
    *PLAY_RULES,
)  # fmt: skip
_REQUEST_RULES = (
    *(Rule(f"{name} is negative", pl.col(name) < 0)
      for name in ("request_id", "user_id", "watermark")),
    Rule("request_id is there more than once", pl.col("request_id").is_duplicated()),
    Rule("it has no candidates", pl.col("candidates").list.len() == 0),
    Rule(f"it has more than {MAX_CANDIDATES} candidates",
         pl.col("candidates").list.len() > MAX_CANDIDATES),
    Rule("a candidate is there more than once",
         pl.col("candidates").list.n_unique() < pl.col("candidates").list.len()),
    Rule("channels and candidates differ in number",
         pl.col("channels").list.len() != pl.col("candidates").list.len()),
)  # fmt: skip
_ITEM_RULES = (
    *(Rule(f"{name} is negative", pl.col(name) < 0)
      for name in ("video_id", "author_id", "category", "duration_ms")),
    Rule("video_id is there more than once", pl.col("video_id").is_duplicated()),
    Rule("content differs in width",
         pl.col("content").list.len() != pl.col("content").list.len().first()),
    Rule("content holds NaN or infinity", ~pl.col("content").list.eval(
        pl.element().is_finite()).list.all()),
)  # fmt: skip
_ROW_RULES = {
    "impressions": _IMPRESSION_RULES, "requests": _REQUEST_RULES, "items": _ITEM_RULES,
}  # fmt: skip
_JOINED_RULES = (
    Rule("was not a candidate of its request, and is_rand is 0",
         pl.col("is_candidate").is_null() & (pl.col("is_rand") == 0)),
    Rule("is of another user than its request", pl.col("user_id") != pl.col("asked_by")),
    Rule("is earlier than its request", pl.col("time_ms") < pl.col("asked_ms")),
)  # fmt: skip
_WATERMARK_RULES = (
    Rule("watermark counts impressions that are later than the request",
         pl.col("watermark") > pl.col("seen_until")),
    Rule("watermark leaves out impressions that are earlier than the request",
         pl.col("watermark") < pl.col("seen_before"), is_note=True),
)  # fmt: skip
SHOW = {
    "impressions": ("file", "row", "request_id", "user_id", "video_id", "time_ms"),
    "requests": ("file", "row", "request_id", "user_id", "time_ms"),
    "items": ("row", "video_id"),
}
"""What an example says of a row, beside the columns of its rule."""


def check_tables(findings: Findings, tables: LogTables) -> None:
    """Checks the tables that an adapter gave."""
    items = pl.DataFrame(
        {
            "video_id": tables.items.video_id_N, "author_id": tables.items.author_id_N,
            "category": tables.items.category_N, "duration_ms": tables.items.duration_ms_N,
        }
    )  # fmt: skip
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
    flags = (*ACTIONS, "is_rand") if table == "impressions" else ()
    findings.files.append(summary_of(where, frame, flags=flags))
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
    findings.apply(f"{prefix}impressions", impressions,
                   [Rule(says, unknown, is_note=True)], SHOW["impressions"])  # fmt: skip


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
