"""Checks the CSV logs: KuaiRand's and MovieLens'.

Knows their files and columns. Every field is read as text and then as a number, so that one bad
field is one finding and not the end; files are scanned in parts, so 27K needs no room for its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl

from ifa_ray.data.check_contract import PLAY_RULES
from ifa_ray.data.check_rules import Findings, Rule, is_flag, quantiles_of, summary_of
from ifa_ray.data.kuairand_files import BEIJING_MS, LOG_COLUMNS, find_kuairand
from ifa_ray.schema import ACTIONS

MAX_COMPARED_ROWS = 50_000_000
"""Of longer logs, rows are not compared with each other."""

_INT32 = 2**31 - 1
_KUAIRAND_SHOW = ("line", "user_id", "video_id", "time_ms")
_BEIJING_DAY = (
    (pl.col("time_ms") + BEIJING_MS)
    .cast(pl.Int64, strict=False)
    .cast(pl.Datetime("ms"))
    .dt.strftime("%Y%m%d")
    .cast(pl.Int64, strict=False)
)
_LOG_RULES = (
    *(is_flag(flag) for flag in (*ACTIONS, "is_rand", "is_profile_enter")),
    *(Rule(f"{column} is not in [0, 2^31)", ~pl.col(column).is_between(0, _INT32))
      for column in ("user_id", "video_id", "play_time_ms", "duration_ms")),
    Rule("time_ms is negative", pl.col("time_ms") < 0),
    Rule("tab is not in [0, 14]", ~pl.col("tab").is_between(0, 14), is_note=True),
    Rule("date is not the day of time_ms in Beijing", pl.col("date") != _BEIJING_DAY,
         is_note=True),
    Rule("time_ms of the user goes back: the reader sorts",
         pl.col("time_ms") < pl.col("time_ms").shift().over("user_id"), is_note=True),
    *PLAY_RULES,
)  # fmt: skip
_VIDEO_COLUMNS = ("video_id", "author_id", "video_type", "upload_dt", "upload_type",
                  "visible_status", "video_duration", "server_width", "server_height", "music_id",
                  "music_type", "tag")  # fmt: skip


def check_kuairand(findings: Findings, path: Path) -> None:
    """Checks the logs of a version against each other and its feature files."""
    files = find_kuairand(path)
    videos, users = None, None
    with findings.reading(findings.name(files.videos)):
        videos = _check_videos(findings, files.videos)
    with findings.reading(findings.name(files.users)):
        users = _user_ids(findings, files.users)
    logs = []
    for file in files.logs:
        with findings.reading(findings.name(file)):
            log = _check_log(findings, file, videos, users)
            logs += [] if log is None else [log]
    with findings.reading("all logs"):
        _check_across(findings, "all logs", logs, ("user_id", "video_id", "time_ms"))
    findings.note(
        "all logs", "there are no candidate sets: shares of shown candidates are not known"
    )


def _user_ids(findings: Findings, path: Path) -> pl.Series | None:
    if not path.exists():
        # Nothing is learned from it.
        findings.note(findings.name(path), "there is no such file")
        return None
    users = _scan(findings, path, ("user_id",), ("user_id",))
    return None if users is None else users.select("user_id").collect()["user_id"]


def _check_log(
    findings: Findings, path: Path, videos: pl.Series | None, users: pl.Series | None
) -> pl.LazyFrame | None:
    """Checks one log file; None if it has no use."""
    log = _scan(findings, path, LOG_COLUMNS, LOG_COLUMNS, quote=None)
    if log is None:
        return None
    name = findings.name(path)
    findings.files.append(summary_of(name, log, flags=(*ACTIONS, "is_rand")))
    rules = [*_LOG_RULES]
    if path.name.startswith("log_random"):
        rules.append(Rule("is_rand is 0 in the log of random slots", pl.col("is_rand") == 0))
    for column, known, file in (
        ("video_id", videos, "features"), ("user_id", users, "users"),
    ):  # fmt: skip
        if known is not None:
            unknown = ~pl.col(column).is_in(known.implode())
            rules.append(Rule(f"{column} is not in the file of {file}", unknown, is_note=True))
    findings.apply(name, log, rules, _KUAIRAND_SHOW)
    return log


def check_movielens(findings: Findings, path: Path) -> None:
    """Checks ratings against films."""
    films = None
    with findings.reading("movies.csv"):
        films = _check_movies(findings, path)
    with findings.reading("ratings.csv"):
        _check_ratings(findings, path, films)


def _check_movies(findings: Findings, path: Path) -> pl.Series | None:
    """The known films."""
    movies = _scan(findings, path / "movies.csv", ("movieId", "title", "genres"), ("movieId",))
    if movies is None:
        return None
    name = findings.name(path / "movies.csv")
    frame = movies.collect()
    findings.files.append(summary_of(name, frame, item="movieId"))
    findings.apply(name, frame, [
        Rule("movieId is there more than once", pl.col("movieId").is_duplicated()),
        Rule("movieId is not in [0, 2^31)", ~pl.col("movieId").is_between(0, _INT32)),
    ], ("line",))  # fmt: skip
    return frame["movieId"].drop_nulls().unique()


def _check_ratings(findings: Findings, path: Path, films: pl.Series | None) -> None:
    columns = ("userId", "movieId", "rating", "timestamp")
    ratings = _scan(findings, path / "ratings.csv", columns, columns)
    if ratings is None:
        return
    name, stars = findings.name(path / "ratings.csv"), pl.col("rating")
    # In the log's words, as the reader's `LABEL_RULES` have it.
    meant = ratings.with_columns(
        (pl.col("timestamp") * 1000).alias("time_ms"), (stars >= 4).alias("is_click"),
        (stars >= 4.5).alias("long_view"), (stars >= 5).alias("is_like"),
        (stars <= 2).alias("is_hate"),
    )  # fmt: skip
    findings.files.append(
        summary_of(name, meant, user="userId", item="movieId",
                   flags=("is_click", "long_view", "is_like", "is_hate"))
    )  # fmt: skip
    rules = [
        Rule("rating is not in [0.5, 5]", ~stars.is_between(0.5, 5)),
        *(Rule(f"{column} is not in [0, 2^31)", ~pl.col(column).is_between(0, _INT32))
          for column in ("userId", "movieId")),
        Rule("timestamp is negative", pl.col("timestamp") < 0),
    ]  # fmt: skip
    if films is not None:
        rules.append(Rule("movieId is not in movies.csv",
                          ~pl.col("movieId").is_in(films.implode())))  # fmt: skip
    findings.apply(name, ratings, rules, ("line", *columns))
    _check_across(findings, name, [ratings], ("userId", "movieId"))
    findings.note(name, "there are no candidate sets: shares of shown candidates are not known")


def _check_videos(findings: Findings, path: Path) -> pl.Series | None:
    numbers = ("video_id", "author_id", "video_duration")
    videos = _scan(findings, path, _VIDEO_COLUMNS, numbers, may_be_empty=("video_duration",))
    if videos is None:
        return None
    name = findings.name(path)
    findings.files.append(summary_of(name, videos, user=None))
    day = pl.col("upload_dt").str.to_date("%Y-%m-%d", strict=False)
    findings.apply(name, videos, [
        Rule("author_id is not in [0, 2^31 - 1)", ~pl.col("author_id").is_between(0, _INT32 - 1)),
        Rule("video_duration is negative", pl.col("video_duration") < 0),
        Rule("video_duration is empty", pl.col("video_duration").is_null(), is_note=True),
        Rule("upload_dt is not a date", day.is_null(), is_note=True),
        Rule("tag is empty", pl.col("tag").is_null(), is_note=True),
    ], ("line", "video_id"))  # fmt: skip
    ids = videos.select("video_id").collect(engine="streaming")["video_id"]
    if twice := len(ids) - ids.n_unique():
        findings.problem(name, "video_id is there more than once", twice)
    return ids.drop_nulls().unique()


def _check_across(
    findings: Findings, where: str, logs: Iterable[pl.LazyFrame], key: Sequence[str]
) -> None:
    """Rows that are there twice, and how much each user has."""
    parts = [log.select(key) for log in logs if set(key) <= set(log.collect_schema().names())]
    if not parts:
        return
    rows = pl.concat(parts)
    lengths = rows.group_by(key[0]).len().collect(engine="streaming")["len"]
    findings.facts["impressions per user"] = quantiles_of(lengths)
    if lengths.sum() > MAX_COMPARED_ROWS:
        findings.note(where, f"rows were not compared: more than {MAX_COMPARED_ROWS:,}")
        return
    twice = rows.group_by(key).len().filter(pl.col("len") > 1).collect(engine="streaming")
    if len(twice):
        examples = [
            ", ".join(f"{name} {value}" for name, value in row.items())
            for row in twice.sort(key).head(3).rename({"len": "times"}).iter_rows(named=True)
        ]
        extra = int(twice["len"].sum()) - len(twice)
        findings.problem(where, f"rows repeat another's {', '.join(key)}", extra, examples)


def _scan(
    findings: Findings,
    path: Path,
    columns: Sequence[str],
    numbers: Sequence[str],
    may_be_empty: Sequence[str] = (),
    quote: str | None = '"',
) -> pl.LazyFrame | None:
    """A file's columns, `numbers` as floats or null, and `line`; None where it has no use."""
    name = findings.name(path)
    if not path.exists():
        findings.problem(name, "there is no such file")
        return None
    if not _ends_with_a_line(path):
        findings.problem(name, "its last line has no end: is it truncated?")
    try:
        raw = pl.scan_csv(
            path,
            infer_schema=False,
            truncate_ragged_lines=True,
            encoding="utf8-lossy",
            quote_char=quote,
        )
        found = raw.collect_schema().names()
        missing = [column for column in columns if column not in found]
        for column in missing:
            findings.problem(name, f"column {column} is missing")
        if set(numbers) & set(missing) >= set(numbers):
            return None
        raw = raw.with_row_index("line", offset=2)
        numbers = [column for column in numbers if column in found]
        findings.apply(name, raw, [rule for column in numbers
                                   for rule in _number_rules(column, column in may_be_empty)],
                       ("line",))  # fmt: skip
        kept = [column for column in columns if column in found]
        typed = raw.select("line", *kept).with_columns(
            *(_number(column) for column in numbers),
            *(pl.lit(None, dtype=pl.Float64).alias(column) for column in missing),
        )
        if not typed.select(pl.len()).collect(engine="streaming").item():
            findings.problem(name, "has no rows")
            return None
    except pl.exceptions.PolarsError as error:
        findings.problem(name, f"cannot be read ({str(error).splitlines()[0]})")
        return None
    return typed


def _number(column: str) -> pl.Expr:
    """As a whole number where all are; polars' own cast of text, null where it is none."""
    text = pl.col(column).str.strip_chars()
    whole = text.cast(pl.Int64, strict=False)
    # `17200.0` is written for whole numbers too.
    return pl.coalesce(whole.cast(pl.Float64), text.cast(pl.Float64, strict=False)).alias(column)


def _number_rules(column: str, may_be_empty: bool) -> list[Rule]:
    empty = pl.col(column).is_null() | (pl.col(column).str.strip_chars() == "")
    number = _number(column)
    wrong = ~empty & (number.is_null() | ~number.is_finite())
    rules = [Rule(f"{column} is not a number", wrong)]
    return rules if may_be_empty else [Rule(f"{column} is empty", empty), *rules]


def _ends_with_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if not size:
            return False
        file.seek(-1, 2)
        return file.read(1) == b"\n"
