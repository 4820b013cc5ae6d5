"""One scan of a log's files for reading and `data check`: typed columns, and rules over them.

Knows polars frames; knows no format. A problem is what keeps a log from being read, a note what is
odd and no mistake. `Findings` collects all of both; a strict one, with which the readers scan,
raises the first problem. So a check is clean exactly where reading succeeds.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ifa_ray.errors import LogError

CLEAN, PROBLEMS, UNUSABLE = 0, 1, 2
"""Exit statuses of a check."""

MAX_EXAMPLES = 3
MAX_COMPARED_ROWS = 50_000_000
"""Of longer logs, rows are not compared with each other."""

INT32, TIME_MS = 2**31, 2**48
UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
"""Errors of polars for a file that is not whole; some damage makes it panic."""

_QUANTILES = {"min": 0.0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


@dataclasses.dataclass(frozen=True)
class Rule:
    """A finding in words, and the rows it is true of; null is no."""

    says: str
    breaks: pl.Expr
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
    """The contents of one file, or of one table of many files.

    Attributes:
        name: its path below the log's folder.
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
    """Findings of one folder.

    Args:
        root: the folder.
        strict: raise the first problem as a `LogError`; notes and summaries are not made.

    Attributes:
        format: the log's, whose check it is (the argument `kind`).
        files: in the order of the check.
        rows: of each file that was opened, by name, where `files` sums up many.
        facts: numbers of the whole log by name.
    """

    def __init__(self, root: Path, *, strict: bool = False, kind: str = "") -> None:
        self.root, self.strict, self.format = root, strict, kind
        self.files: list[FileSummary] = []
        self.rows: dict[str, int] = {}
        self.facts: dict[str, Any] = {}
        self._problems: dict[tuple[str, str], Problem] = {}
        self._notes: dict[tuple[str, str], Problem] = {}

    @property
    def problems(self) -> list[Problem]:
        """Mistakes, in the order of the check."""
        return list(self._problems.values())

    @property
    def notes(self) -> list[Problem]:
        """Oddities, in the order of the check."""
        return list(self._notes.values())

    @property
    def status(self) -> int:
        """`UNUSABLE` if nothing could be read at all, else `PROBLEMS` or `CLEAN`."""
        if not any(file.rows for file in self.files):
            return UNUSABLE
        return PROBLEMS if self._problems else CLEAN

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        lists: dict[str, list[Any]] = {
            "files": self.files,
            "problems": self.problems,
            "notes": self.notes,
        }
        return {
            "path": str(self.root),
            "format": self.format,
            "rows": self.rows,
            "facts": self.facts,
            **{name: [dataclasses.asdict(each) for each in found] for name, found in lists.items()},
            "status": self.status,
        }

    def name(self, path: Path) -> str:
        """The path below the folder that is checked."""
        inside = path.is_relative_to(self.root)
        return str(path.relative_to(self.root) if inside else path.absolute())

    def problem(self, where: str, rule: str, count: int = 1, examples: Iterable[str] = ()) -> None:
        """Notes a mistake, or raises it."""
        if self.strict:
            shown = "".join(f" ({example})" for example in [*examples][:1])
            raise LogError(f"{self.root / where}: {rule}{shown}")
        _add(self._problems, Problem(where, rule, count, tuple(examples)))

    def note(self, where: str, rule: str, count: int = 1, examples: Iterable[str] = ()) -> None:
        """Notes an oddity."""
        _add(self._notes, Problem(where, rule, count, tuple(examples)))

    @contextlib.contextmanager
    def reading(self, where: str) -> Iterator[None]:
        """Around what reads a file in parts: damage may show at any of them."""
        try:
            yield
        except UNREADABLE as error:
            self.problem(where, f"cannot be read to its end ({reason(error)})")

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
        rules = [
            rule
            for rule in rules
            if columns.issuperset(rule.breaks.meta.root_names())
            and not (self.strict and rule.is_note)
        ]
        if not rules:
            return
        broken = [rule.breaks.fill_null(False) for rule in rules]
        sums = [each.sum().alias(str(i)) for i, each in enumerate(broken)]
        try:
            counts = lazy.select(sums).collect(engine="streaming").row(0)
        except pl.exceptions.PolarsError:
            if self.strict:
                raise
            # A column is of a type that a rule cannot be asked of, which is found elsewhere.
            for rule in rules if len(rules) > 1 else ():
                self.apply(where, frame, [rule], show)
            if len(rules) == 1:
                self.note(where, f"could not be checked: {rules[0].says}")
            return
        for rule, breaks, count in zip(rules, broken, counts, strict=True):
            if not count:
                continue
            needed = dict.fromkeys([*show, *sorted(set(rule.breaks.meta.root_names()))])
            names = [name for name in needed if name in columns]
            rows = lazy.filter(breaks).select(names).head(MAX_EXAMPLES).collect()
            add = self.note if rule.is_note else self.problem
            add(where, rule.says, int(count), [_said(row) for row in rows.iter_rows(named=True)])

    def nulls(
        self, where: str, frame: pl.DataFrame, columns: Iterable[str], show: Sequence[str] = ()
    ) -> None:
        """Finds nulls, and NaN or infinity where a column is of floats."""
        names = [name for name in columns if name in frame.columns]
        broken = {f"{name} is null": pl.col(name).is_null() for name in names}
        floats = [name for name in names if frame[name].dtype.is_float()]
        broken |= {f"{name} is NaN or infinite": ~pl.col(name).is_finite() for name in floats}
        self.apply(where, frame, rules(broken), show)

    def repeats(
        self, where: str, parts: Sequence[pl.LazyFrame], key: Sequence[str], *, is_note: bool
    ) -> None:
        """Finds rows of equal key, and counts the rows of each user, who comes first in it."""
        parts = [part.select(key) for part in parts]
        if not parts or (self.strict and is_note):
            return
        rows = pl.concat(parts)
        lengths = rows.group_by(key[0]).len().collect(engine="streaming")["len"]
        self.facts["impressions per user"] = quantiles_of(lengths)
        if lengths.sum() > MAX_COMPARED_ROWS:
            self.note(where, f"rows were not compared: more than {MAX_COMPARED_ROWS:,}")
            return
        twice = rows.group_by(key).len().filter(pl.col("len") > 1).collect(engine="streaming")
        if len(twice):
            first = twice.sort(key).head(MAX_EXAMPLES).rename({"len": "times"})
            add = self.note if is_note else self.problem
            extra = int(twice["len"].sum()) - len(twice)
            examples = [_said(row) for row in first.iter_rows(named=True)]
            add(where, f"rows repeat another's {', '.join(key)}", extra, examples)

    def summarise(
        self,
        name: str,
        frame: pl.DataFrame | pl.LazyFrame,
        *,
        user: str = "user_id",
        item: str = "video_id",
        rates: Sequence[str] = (),
    ) -> None:
        """Counts, time range and rates of a table, of the columns that it has, in one pass."""
        if self.strict:
            return
        columns = set(frame.lazy().collect_schema().names())
        wanted = {
            "users": (user, pl.col(user).drop_nulls().n_unique()),
            "items": (item, pl.col(item).drop_nulls().n_unique()),
            "first_ms": ("time_ms", pl.col("time_ms").min()),
            "last_ms": ("time_ms", pl.col("time_ms").max()),
            **{f"rate {rate}": (rate, pl.col(rate).cast(pl.Float64).mean()) for rate in rates},
        }
        asked = {name: value for name, (column, value) in wanted.items() if column in columns}
        lazy = frame.lazy().select(rows=pl.len(), **asked)
        found = lazy.collect(engine="streaming").row(0, named=True)
        means = {rate: found.pop(f"rate {rate}", None) for rate in rates}
        means = {rate: mean for rate, mean in means.items() if mean is not None}
        self.files.append(FileSummary(name=name, rates=means, **found))

    def scan_csv(
        self,
        path: Path,
        numbers: Sequence[str],
        texts: Sequence[str] = (),
        *,
        may_be_empty: Collection[str] = (),
        unread: Collection[str] = (),
        quote: str | None = '"',
    ) -> pl.LazyFrame | None:
        """Columns of a CSV file, and `line`; None where it has no use.

        Every field is read as text and then as a number, so that one bad field is one finding and
        not the end; the file is scanned in parts, so it needs no room for its rows.

        Args:
            path: of the file.
            numbers: columns as floats, null where they hold none.
            texts: columns as they are.
            may_be_empty: columns that may have empty fields.
            unread: numbers that no reader needs: what is wrong with them is a note.
            quote: that may be around a field.
        """
        name = self.name(path)
        if not path.exists():
            self.problem(name, "there is no such file")
            return None
        # A number that was cut in half is still a number, so the last line must have its end.
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 1))
            if file.read(1) != b"\n":
                self.problem(name, "its last line has no end: is it truncated?")
        try:
            raw = pl.scan_csv(
                path,
                infer_schema=False,
                truncate_ragged_lines=True,
                encoding="utf8-lossy",
                quote_char=quote,
            ).with_row_index("line", offset=2)
            found = raw.collect_schema().names()
            missing = [column for column in (*numbers, *texts) if column not in found]
            for column in missing:
                add = self.note if column in unread else self.problem
                add(name, f"column {column} is missing")
            if set(numbers) <= set(missing):
                return None
            known = [column for column in numbers if column in found]
            kept = [*known, *(column for column in texts if column in found)]
            if not raw.select("line").head(1).collect(engine="streaming").height:
                self.problem(name, "has no rows")
                return None
            trimmed = {column: pl.col(column).str.strip_chars() for column in kept}
            empty = {c: text.fill_null("") == "" for c, text in trimmed.items()}
            values = {column: _number(trimmed[column]) for column in known}
            broken = [
                *(
                    Rule(f"{column} is empty", wrong, column in unread)
                    for column, wrong in empty.items()
                    if column not in may_be_empty
                ),
                *(
                    Rule(
                        f"{column} is not a number",
                        ~empty[column] & (value.is_null() | ~value.is_finite()),
                        column in unread,
                    )
                    for column, value in values.items()
                ),
            ]
            self.apply(name, raw, broken, ("line",))
            return raw.select("line", *kept).with_columns(
                *(value.alias(column) for column, value in values.items()),
                *(pl.lit(None, dtype=pl.Float64).alias(column) for column in missing),
            )
        except pl.exceptions.PolarsError as error:
            self.problem(name, f"cannot be read ({reason(error)})")
            return None

    def scan_parquet(self, path: Path) -> pl.DataFrame | None:
        """A Parquet file; None where it is none."""
        name = self.name(path)
        try:
            return pl.read_parquet(path, hive_partitioning=False)
        except FileNotFoundError:
            self.problem(name, "there is no such file")
        except UNREADABLE as error:
            self.problem(name, f"is not a whole Parquet file ({reason(error)})")
        return None


def _add(found: dict[tuple[str, str], Problem], new: Problem) -> None:
    """The same rule in the same place is one problem, however many days found it."""
    old = found.get(key := (new.where, new.rule), Problem(*key, 0))
    examples = (*old.examples, *new.examples)[:MAX_EXAMPLES]
    found[key] = Problem(*key, old.count + new.count, examples)


def reason(error: BaseException) -> str:
    """The first line of an error."""
    return (str(error).splitlines() or ["unreadable"])[0]


def rules(broken: Mapping[str, pl.Expr]) -> list[Rule]:
    """Rules by what they say; each expression is true for a row that breaks its rule."""
    return [Rule(says, breaks) for says, breaks in broken.items()]


def notes(odd: Mapping[str, pl.Expr]) -> list[Rule]:
    """As `rules`, of what is odd and no mistake."""
    return [Rule(says, breaks, is_note=True) for says, breaks in odd.items()]


def flags(names: Iterable[str]) -> list[Rule]:
    """Rules of columns that hold 0 and 1 alone."""
    return rules({f"{n} is not 0 or 1": (pl.col(n) != 0) & (pl.col(n) != 1) for n in names})


def whole(end: int, *names: str) -> list[Rule]:
    """Rules of columns of whole numbers from 0 to below `end`, a power of two."""
    said = f"is not in [0, 2^{end.bit_length() - 1})"
    inside = {n: (pl.col(n) >= 0) & (pl.col(n) < end) & (pl.col(n) % 1 == 0) for n in names}
    return rules({f"{name} {said}": ~fits for name, fits in inside.items()})


def not_negative(*names: str) -> list[Rule]:
    """Rules of columns that count."""
    return rules({f"{name} is negative": pl.col(name) < 0 for name in names})


def unique(*names: str) -> list[Rule]:
    """Rules of columns that hold nothing twice."""
    said = "is there more than once"
    return rules({f"{name} {said}": pl.col(name).is_duplicated() for name in names})


_PLAYED, _LONG = pl.col("play_time_ms"), pl.col("long_view") == 1
_DURATION = pl.col("duration_ms")
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
"""Oddities of playing times in KuaiRand's columns."""


def quantiles_of(values: pl.Series) -> dict[str, float]:
    """Minimum, maximum and what lies between, by name."""
    found = {name: values.quantile(q, interpolation="nearest") for name, q in _QUANTILES.items()}
    return {name: float(value or 0) for name, value in found.items()} if len(values) else {}


def _number(text: pl.Expr) -> pl.Expr:
    # `17200.0` is written for whole numbers too.
    integer = text.cast(pl.Int64, strict=False).cast(pl.Float64)
    return pl.coalesce(integer, text.cast(pl.Float64, strict=False))


def _said(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in row.items())


def _short(value: Any) -> str:
    if isinstance(value, list):
        head = ", ".join(str(each) for each in value[:4])
        return f"[{head}, ... {len(value)} in all]" if len(value) > 4 else f"[{head}]"
    # CSV fields are read as floats.
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)
