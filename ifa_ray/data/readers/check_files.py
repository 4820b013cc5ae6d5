"""Checks the CSV logs: KuaiRand's and MovieLens'.

Knows their files and columns. Every field is read as text and then as a number, so that one bad
field is one finding and not the end; files are scanned in parts, so 27K needs no room for its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl

from ifa_ray.data.readers.check_contract import (
    PLAY_RULES,
    Findings,
    Rule,
    flags,
    not_negative,
    notes,
    quantiles_of,
    rules,
    summary_of,
    unique,
)
from ifa_ray.data.readers.ebnerd import (
    ARTICLE_COLUMNS,
    BEHAVIOR_COLUMNS,
    HISTORY_COLUMNS,
    UNREADABLE,
    find_articles,
    with_wide_ids,
    wrong_kinds,
)
from ifa_ray.data.readers.kuairand import BEIJING_MS, LOG_COLUMNS, find_kuairand
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
_LOG_RULES = [
    *flags((*ACTIONS, "is_rand", "is_profile_enter")),
    *rules(
        {
            f"{column} is not in [0, 2^31)": ~pl.col(column).is_between(0, _INT32)
            for column in ("user_id", "video_id", "play_time_ms", "duration_ms")
        }
    ),
    *not_negative("time_ms"),
    *notes(
        {
            "tab is not in [0, 14]": ~pl.col("tab").is_between(0, 14),
            "date is not the day of time_ms in Beijing": pl.col("date") != _BEIJING_DAY,
            "time_ms of the user goes back: the reader sorts": pl.col("time_ms")
            < pl.col("time_ms").shift().over("user_id"),
        }
    ),
    *PLAY_RULES,
]
_VIDEO_COLUMNS = (
    *("video_id", "author_id", "video_type", "upload_dt", "upload_type", "visible_status"),
    *("video_duration", "server_width", "server_height", "music_id", "music_type", "tag"),
)


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
    findings.files.append(summary_of(name, log, rates=(*ACTIONS, "is_rand")))
    broken = [*_LOG_RULES]
    if path.name.startswith("log_random"):
        broken += rules({"is_rand is 0 in the log of random slots": pl.col("is_rand") == 0})
    for column, known, file in (("video_id", videos, "features"), ("user_id", users, "users")):
        if known is not None:
            unknown = ~pl.col(column).is_in(known.implode())
            broken += notes({f"{column} is not in the file of {file}": unknown})
    findings.apply(name, log, broken, _KUAIRAND_SHOW)
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
    outside = rules({"movieId is not in [0, 2^31)": ~pl.col("movieId").is_between(0, _INT32)})
    findings.apply(name, frame, [*unique("movieId"), *outside], ("line",))
    return frame["movieId"].drop_nulls().unique()


def _check_ratings(findings: Findings, path: Path, films: pl.Series | None) -> None:
    columns = ("userId", "movieId", "rating", "timestamp")
    ratings = _scan(findings, path / "ratings.csv", columns, columns)
    if ratings is None:
        return
    name, stars = findings.name(path / "ratings.csv"), pl.col("rating")
    # In the log's words, as the reader's `LABEL_RULES` have it.
    least = {"is_click": 4, "long_view": 4.5, "is_like": 5}
    meant = ratings.with_columns(
        (pl.col("timestamp") * 1000).alias("time_ms"),
        *((stars >= rating).alias(label) for label, rating in least.items()),
        (stars <= 2).alias("is_hate"),
    )
    rates = (*least, "is_hate")
    findings.files.append(summary_of(name, meant, user="userId", item="movieId", rates=rates))
    broken = {
        "rating is not in [0.5, 5]": ~stars.is_between(0.5, 5),
        "userId is not in [0, 2^31)": ~pl.col("userId").is_between(0, _INT32),
        "movieId is not in [0, 2^31)": ~pl.col("movieId").is_between(0, _INT32),
        "timestamp is negative": pl.col("timestamp") < 0,
    }
    if films is not None:
        broken["movieId is not in movies.csv"] = ~pl.col("movieId").is_in(films.implode())
    findings.apply(name, ratings, rules(broken), ("line", *columns))
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
    outside = ~pl.col("author_id").is_between(0, _INT32 - 1)
    broken = rules({"author_id is not in [0, 2^31 - 1)": outside})
    odd = {
        "video_duration is empty": pl.col("video_duration").is_null(),
        "upload_dt is not a date": day.is_null(),
        "tag is empty": pl.col("tag").is_null(),
    }
    broken += [*not_negative("video_duration"), *notes(odd)]
    findings.apply(name, videos, broken, ("line", "video_id"))
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
        broken = [rule for name in numbers for rule in _number_rules(name, name in may_be_empty)]
        findings.apply(name, raw, broken, ("line",))
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
    broken = {} if may_be_empty else {f"{column} is empty": empty}
    return rules({**broken, f"{column} is not a number": wrong})


def _ends_with_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if not size:
            return False
        file.seek(-1, 2)
        return file.read(1) == b"\n"


_INVIEW, _CLICKED = pl.col("article_ids_inview"), pl.col("article_ids_clicked")
_SHOW = ("row", "impression_id", "user_id")
_READ_S, _SCROLLED = pl.col("next_read_time"), pl.col("next_scroll_percentage")
_BEHAVIOR_RULES = [
    *unique("impression_id"),
    *rules(
        {
            "nothing is in view": _INVIEW.list.len() == 0,
            "an article is in view more than once": _INVIEW.list.n_unique() < _INVIEW.list.len(),
            "a click is on what was not in view": _CLICKED.list.set_difference(_INVIEW).list.len()
            > 0,
            "an article is clicked more than once": _CLICKED.list.n_unique() < _CLICKED.list.len(),
            "next_read_time is negative or not finite": ~(_READ_S.is_finite() & (_READ_S >= 0)),
        }
    ),
    *notes(
        {
            "nothing is clicked": _CLICKED.list.len() == 0,
            "next_read_time is null, though there was a click": _READ_S.is_null()
            & (_CLICKED.list.len() > 0),
            "next_scroll_percentage is not in [0, 100]": ~_SCROLLED.is_between(0, 100),
        }
    ),
]
_LISTS = HISTORY_COLUMNS[1:]
_TIMES, _READ = pl.col("impression_time_fixed"), pl.col("read_time_fixed")
_STEPS = pl.element().diff().dt.total_microseconds()
_LENGTH = pl.col("article_id_fixed").list.len()
_HISTORY_RULES = [
    *unique("user_id"),
    *rules(
        {
            f"{name} and article_id_fixed differ in length": pl.col(name).list.len() != _LENGTH
            for name in _LISTS
            if name != "article_id_fixed"
        }
    ),
    *rules({"read_time_fixed is negative": _READ.list.eval(pl.element() < 0).list.any()}),
    *notes(
        {
            "impression_time_fixed goes back: the reader sorts": _TIMES.list.eval(
                _STEPS < 0
            ).list.any()
        }
    ),
]


def check_ebnerd(findings: Findings, path: Path) -> None:
    """Checks a folder that holds `behaviors.parquet`."""
    if not (path / "behaviors.parquet").exists() and (path / "train").is_dir():
        findings.note(".", f"is a bundle of splits; {path / 'train'} is checked")
        path = path / "train"
    behaviors = _read(findings, path / "behaviors.parquet", BEHAVIOR_COLUMNS)
    history = _read(findings, path / "history.parquet", HISTORY_COLUMNS)
    articles_path = find_articles(path)
    articles = None
    if articles_path is None:
        findings.note("articles.parquet", "there is none: articles have no features")
    else:
        articles = _read(findings, articles_path, ARTICLE_COLUMNS)
        name = findings.name(articles_path)
        findings.files.append(summary_of(name, articles, item="article_id"))
        findings.nulls(name, articles, ("article_id",), ("row",))
        findings.apply(name, articles, unique("article_id"), ("row",))
    _check_behaviors(findings, findings.name(path / "behaviors.parquet"), behaviors)
    _check_history(findings, findings.name(path / "history.parquet"), history, behaviors)
    if articles is not None and "article_id" in articles.columns:
        known = articles["article_id"].drop_nulls().unique()
        _check_articles(findings, path, behaviors, history, known)


def _check_behaviors(findings: Findings, name: str, behaviors: pl.DataFrame) -> None:
    table = behaviors
    if "impression_time" in behaviors.columns:
        table = behaviors.with_columns(_ms("impression_time").alias("time_ms"))
    findings.files.append(summary_of(name, table, item=None))
    needed = [n for n in BEHAVIOR_COLUMNS if n != "next_read_time"]
    findings.nulls(name, behaviors, needed, _SHOW)
    findings.apply(name, behaviors, _BEHAVIOR_RULES, _SHOW)
    if "article_ids_inview" in behaviors.columns:
        in_view = int(behaviors["article_ids_inview"].list.len().sum())
        # In view is shown.
        findings.facts |= {"candidates": in_view, "candidates shown": in_view}
        if "article_ids_clicked" in behaviors.columns and in_view:
            clicks = int(behaviors["article_ids_clicked"].list.len().sum())
            findings.facts["is_click per candidate"] = clicks / in_view


def _check_history(
    findings: Findings, name: str, history: pl.DataFrame, behaviors: pl.DataFrame
) -> None:
    if not len(history):
        return
    show = ("row", "user_id")
    findings.files.append(summary_of(name, history))
    findings.nulls(name, history, ("user_id", *_LISTS), show)
    findings.apply(name, history, _HISTORY_RULES, show)
    if "article_id_fixed" in history.columns:
        lengths = history["article_id_fixed"].list.len()
        findings.facts["clicks before the log per user"] = quantiles_of(lengths)
    both = ("user_id", "impression_time")
    if set(both) <= set(behaviors.columns) and "user_id" in history.columns:
        if behaviors.schema["user_id"] != history.schema["user_id"]:
            mine, its = (frame.schema["user_id"] for frame in (behaviors, history))
            findings.problem(name, f"user_id is {its}, must be {mine} as in behaviors.parquet")
            return
        first = behaviors.group_by("user_id").agg(pl.col("impression_time").min().alias("first"))
        late = history.join(first, on="user_id", how="inner")
        says = "a click of the history is later than the user's first row in the log"
        findings.apply(name, late, notes({says: _TIMES.list.max() > pl.col("first")}), ("user_id",))
        missing = first.join(history, on="user_id", how="anti")
        says = "a user of behaviors.parquet has no history"
        findings.apply(name, missing, notes({says: pl.col("user_id").is_not_null()}))


def _check_articles(
    findings: Findings, path: Path, behaviors: pl.DataFrame, history: pl.DataFrame, known: pl.Series
) -> None:
    unknown = ~pl.col("article_id").is_in(known.implode())
    odd = notes({"an article is not in articles.parquet": unknown})
    for frame, column, file in (
        (behaviors, "article_ids_inview", "behaviors.parquet"),
        (history, "article_id_fixed", "history.parquet"),
    ):
        if not {"user_id", column} <= set(frame.columns):
            continue
        flat = frame.select("user_id", pl.col(column).alias("article_id")).explode("article_id")
        findings.apply(findings.name(path / file), flat, odd, ("user_id",))


def _read(findings: Findings, path: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    """A file's columns that are of their kind; what is not is found."""
    name = findings.name(path)
    if not path.exists():
        findings.problem(name, "there is no such file")
        return pl.DataFrame()
    try:
        frame = pl.read_parquet(path)
    except UNREADABLE as error:
        why = (str(error).splitlines() or ["unreadable"])[0]
        findings.problem(name, f"is not a whole Parquet file ({why})")
        return pl.DataFrame()
    wrong = wrong_kinds(frame)
    for column, kind in wrong.items():
        findings.problem(name, f"column {column} is {frame.schema[column]}, must be {kind}")
    for column in columns:
        if column not in frame.columns:
            findings.problem(name, f"column {column} is missing")
    if not len(frame):
        findings.problem(name, "has no rows")
    return with_wide_ids(frame.drop(wrong)).with_row_index("row")


def _ms(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.Datetime("ms")).dt.epoch("ms")
