"""EB-NeRD (Ekstra Bladet's news log: a folder of one split) as the contract's tables.

Knows files, columns and rules; knows nothing of models. Kruse et al., RecSys Challenge 2024;
https://recsys.eb.dk. A split is `train/` or `validation/` of a bundle:

    behaviors.parquet        one row an impression of the site: what was in view, what was clicked
    history.parquet          the clicks of each user in the three weeks before
    ../articles.parquet      or beside the others; may be missing

The candidates are real: `article_ids_inview` of a row are a request's candidates, and what was in
view was seen. So in the log's words

    impression   1 for every candidate: there is no candidate that was not shown, so the AUC of
                 impression is not defined
    is_click     in `article_ids_clicked`
    long_view    clicked, and read for `long_view_s` or more (30 s: Fox et al., TOIS 2005). The log
                 has one `next_read_time` a row; where two were clicked it is the first one's
    the others   0: nobody likes, follows or hates a piece of news there

A history is the user's clicks of `history.parquet` (with their read times), then every article in
view in strictly earlier seconds, clicked or not. `play_time_ms` is the read time. `article_id`, the
page on which a row happened, is not used: its click is in an earlier row.

Of an article: `category` as given, 0 where unknown; content is premium and the body's length in
thousands of characters, log(1 + x); `published_time`, or the first day on which it was seen.
Integer ids stay as they are; strings, and integers beyond 31 bits, become their rank in order.

Letters: R rows of behaviors, I impressions, N articles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from ifa_ray.config import require
from ifa_ray.data.items import ItemTable
from ifa_ray.data.log_tables import (
    LogTables,
    ReadSettings,
    choose_users,
    evenly_spaced,
    item_table,
    log_tables,
    watermarks,
)
from ifa_ray.data.readers.scan import Findings, Rule, notes, quantiles_of, rules, unique
from ifa_ray.errors import LogError

_BEHAVIORS = {
    "impression_id": "ids",
    "user_id": "ids",
    "impression_time": "dates and times",
    "article_ids_inview": "lists of ids",
    "article_ids_clicked": "lists of ids",
    "next_read_time": "numbers",
}
_HISTORY = {
    "user_id": "ids",
    "impression_time_fixed": "lists of dates and times",
    "article_id_fixed": "lists of ids",
    "read_time_fixed": "lists of numbers",
}
_ARTICLES = {
    "article_id": "ids",
    "category": "numbers",
    "premium": "true or false",
    "published_time": "dates and times",
    "body": "text",
}
_OPTIONAL = ("next_read_time", "category", "premium", "published_time", "body")
"""Columns that may have nulls."""

_DAY_MS = 86_400_000
_SHOW = ("row", "impression_id", "user_id")
_INVIEW, _CLICKED = pl.col("article_ids_inview"), pl.col("article_ids_clicked")
_READ_S, _NUM_CLICKED = pl.col("next_read_time"), _CLICKED.list.len()
_BEHAVIOR_RULES = [
    *unique("impression_id"),
    *rules(
        {
            "nothing is in view": _INVIEW.list.drop_nulls().list.len() == 0,
            "a click is on what was not in view": _CLICKED.list.drop_nulls()
            .list.set_difference(_INVIEW)
            .list.len()
            > 0,
            "next_read_time is negative or not finite": ~(_READ_S.is_finite() & (_READ_S >= 0)),
        }
    ),
    *notes(
        {
            "an article is in view more than once": _INVIEW.list.n_unique() < _INVIEW.list.len(),
            "an article is clicked more than once": _CLICKED.list.n_unique() < _NUM_CLICKED,
            "nothing is clicked": _NUM_CLICKED == 0,
            "next_read_time is null, though there was a click": _READ_S.is_null()
            & (_NUM_CLICKED > 0),
        }
    ),
]
_LENGTH, _READ = pl.col("article_id_fixed").list.len(), pl.col("read_time_fixed")
_TIMES = pl.col("impression_time_fixed")
_STEPS = pl.element().diff().dt.total_microseconds()
_HISTORY_RULES = [
    *unique("user_id"),
    *rules(
        {
            f"{name} and article_id_fixed differ in length": pl.col(name).list.len() != _LENGTH
            for name in ("impression_time_fixed", "read_time_fixed")
        }
    ),
    *rules(
        {
            f"{name} holds null": pl.col(name).list.eval(pl.element().is_null()).list.any()
            for name in ("impression_time_fixed", "article_id_fixed")
        }
    ),
    *rules(
        {
            "read_time_fixed is negative or not finite": _READ.list.eval(
                ~(pl.element().cast(pl.Float64).is_finite() & (pl.element() >= 0))
            ).list.any()
        }
    ),
    *notes(
        {
            "impression_time_fixed goes back: the reader sorts": _TIMES.list.eval(
                _STEPS < 0
            ).list.any()
        }
    ),
]


def is_ebnerd(path: Path) -> bool:
    """True if a folder is a split, or a bundle of splits, which `read_ebnerd` refuses by name."""
    return any((folder / "behaviors.parquet").exists() for folder in (path, path / "train"))


def find_articles(folder: Path) -> Path | None:
    """The articles of a split: beside its files, or one folder up."""
    for path in (folder / "articles.parquet", folder.parent / "articles.parquet"):
        if path.exists():
            return path
    return None


def scan_ebnerd(findings: Findings, path: Path) -> dict[str, pl.DataFrame]:
    """The tables of a split by their files' stems, of the columns that are of their kind.

    Reading, it stops at what the tables must have in common, too: the types of ids.
    """
    if not (path / "behaviors.parquet").exists() and (path / "train").is_dir():
        findings.note(".", f"is a bundle of splits; {path / 'train'} is checked")
        path = path / "train"
    behaviors = _scan(findings, path / "behaviors.parquet", _BEHAVIORS, _BEHAVIOR_RULES)
    history = _scan(findings, path / "history.parquet", _HISTORY, _HISTORY_RULES)
    tables, articles_path = {"behaviors": behaviors, "history": history}, find_articles(path)
    if articles_path is None:
        findings.note("articles.parquet", "there is none: articles have no features")
    else:
        tables["articles"] = _scan(findings, articles_path, _ARTICLES, unique("article_id"))
    for stem, column, other in (
        ("behaviors", "article_ids_clicked", "article_ids_inview"),
        ("history", "user_id", "user_id"),
        ("history", "article_id_fixed", "article_ids_inview"),
        ("articles", "article_id", "article_ids_inview"),
    ):
        table = tables.get(stem, pl.DataFrame())
        if column in table.columns and other in behaviors.columns:
            mine, its = _inner(table.schema[column]), _inner(behaviors.schema[other])
            if mine != its:
                rule = f"{column} is of {mine}, must be of {its} as {other} in behaviors.parquet"
                findings.problem(f"{stem}.parquet", rule)
                tables[stem] = table.drop(column)
    if not findings.strict:
        _note_across(findings, **tables)
    return tables


def _note_across(
    findings: Findings,
    behaviors: pl.DataFrame,
    history: pl.DataFrame,
    articles: pl.DataFrame | None = None,
) -> None:
    """Facts, and what the files say of each other."""
    if {"article_ids_inview", "article_ids_clicked"} <= set(behaviors.columns):
        in_view = int(behaviors["article_ids_inview"].list.len().sum())
        clicks = int(behaviors["article_ids_clicked"].list.len().sum())
        # In view is shown.
        findings.facts |= {"candidates": in_view, "candidates shown": in_view}
        findings.facts |= {"is_click per candidate": clicks / in_view} if in_view else {}
    if "article_id_fixed" in history.columns:
        lengths = history["article_id_fixed"].list.len()
        findings.facts["clicks before the log per user"] = quantiles_of(lengths)
    if {"user_id", "impression_time"} <= set(behaviors.columns) and "user_id" in history.columns:
        first = behaviors.group_by("user_id").agg(pl.col("impression_time").min().alias("first"))
        late = history.join(first, on="user_id", how="inner")
        says = "a click of the history is later than the user's first row in the log"
        odd = {says: _TIMES.list.max() > pl.col("first")}
        findings.apply("history.parquet", late, notes(odd), ("user_id",))
        missing = first.join(history, on="user_id", how="anti")
        says = "a user of behaviors.parquet has no history"
        findings.apply("history.parquet", missing, notes({says: pl.col("user_id").is_not_null()}))
    if articles is None or "article_id" not in articles.columns:
        return
    known = articles["article_id"].drop_nulls().unique()
    unknown = ~pl.col("article_id").is_in(known.implode())
    for frame, column, file in (
        (behaviors, "article_ids_inview", "behaviors.parquet"),
        (history, "article_id_fixed", "history.parquet"),
    ):
        if {"user_id", column} <= set(frame.columns):
            flat = frame.select("user_id", pl.col(column).alias("article_id"))
            odd = {"an article is not in articles.parquet": unknown}
            findings.apply(file, flat.explode("article_id"), notes(odd), ("user_id",))


def _scan(
    findings: Findings, path: Path, kinds: Mapping[str, str], broken: Sequence[Rule]
) -> pl.DataFrame:
    """Those columns of a file that are of their kind, integer ids as 64 bits, and `row`."""
    name, table = findings.name(path), findings.scan_parquet(path)
    if table is None:
        return pl.DataFrame()
    kept = []
    for column, kind in kinds.items():
        if column not in table.columns:
            hint = ". A test split has no clicks" if "clicked" in column else ""
            findings.problem(name, f"column {column} is missing{hint}")
        elif not _is_kind(dtype := table.schema[column], kind):
            findings.problem(name, f"column {column} is {dtype}, must be {kind}")
        elif kind.endswith("ids") and _inner(dtype).is_integer():
            wide = pl.List(pl.Int64) if kind.startswith("lists") else pl.Int64()
            kept.append(pl.col(column).cast(wide))
        else:
            kept.append(pl.col(column))
    if not len(table):
        findings.problem(name, "has no rows")
    table = table.select(kept).with_row_index("row")
    with_time = table
    if "impression_time" in table.columns:
        with_time = table.with_columns(_ms("impression_time").alias("time_ms"))
    findings.summarise(name, with_time, item="article_id")
    findings.nulls(name, table, [each for each in kinds if each not in _OPTIONAL], _SHOW)
    findings.apply(name, table, broken, _SHOW)
    return table


def _inner(dtype: pl.DataType) -> pl.DataType:
    """The type of a list's elements, or of a column's."""
    return pl.Series([], dtype=dtype.inner).dtype if isinstance(dtype, pl.List) else dtype


def _ms(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.Datetime("ms")).dt.epoch("ms")


def _is_kind(dtype: pl.DataType, kind: str) -> bool:
    if kind.startswith("lists of "):
        inner = kind.removeprefix("lists of ")
        return isinstance(dtype, pl.List) and _is_kind(_inner(dtype), inner)
    return {
        "ids": dtype.is_integer() or dtype == pl.String,
        "dates and times": isinstance(dtype, pl.Datetime),
        "numbers": dtype.is_numeric(),
        "true or false": dtype == pl.Boolean,
        "text": dtype == pl.String,
    }[kind]


def read_ebnerd(
    folder: Path | str,
    settings: ReadSettings | None = None,
    *,
    long_view_s: float = 30.0,
    min_history: int = 5,
    max_rows: int = 12_000_000,
    max_users: int | None = None,
    users_seed: int = 0,
) -> LogTables:
    """Reads a split. Nothing is sampled: `num_sampled` has no use here.

    Args:
        folder: of the split.
        settings: the cap, which keeps evenly spaced requests; nothing is drawn.
        long_view_s: read time that makes a click a long view.
        min_history: articles that a user must have seen before a request.
        max_rows: articles in view that may be held in memory; whole users are left out until they
            fit.
        max_users: users beyond so many are left out.
        users_seed: of who is left out.

    Raises:
        LogError: naming the file that is missing, truncated or not of this layout.
        ConfigError: if a setting is outside its rule.
    """
    settings = settings or ReadSettings()
    require(long_view_s > 0, "long_view_s", long_view_s, "> 0")
    require(min_history >= 0, "min_history", min_history, ">= 0")
    folder = Path(folder)
    path = folder / "behaviors.parquet"
    if not path.exists() and (folder / "train").is_dir():
        raise LogError(f"{folder}: is a bundle of splits, must be one of them: {folder / 'train'}.")
    findings = Findings(folder, strict=True)
    with findings.reading(""):
        tables = scan_ebnerd(findings, folder)
    behaviors, articles = tables["behaviors"], tables.get("articles")
    num_rows, num_users = len(behaviors), behaviors["user_id"].n_unique()
    behaviors = _of_chosen_users(behaviors, max_rows, max_users, users_seed)
    history = _clicks_before(tables["history"], behaviors)
    behaviors, history, articles = _coded(behaviors, history, articles)
    events = pl.concat([history, _seen(behaviors)], how="diagonal_relaxed")
    # Clicks of before belong to no request of the log: numbers above all of theirs.
    number = pl.int_range(pl.len(), dtype=pl.Int64) + behaviors["impression_id"].max() + 1
    is_long = (pl.col("read_s") >= long_view_s) & pl.col("clicked")
    columns = events.select(
        "user_id",
        "video_id",
        _ms("time").alias("time_ms"),
        pl.coalesce("impression_id", number).alias("request_id"),
        pl.col("place").fill_null(0).alias("position"),
        pl.col("clicked").cast(pl.Int64).alias("is_click"),
        is_long.fill_null(False).cast(pl.Int64).alias("long_view"),
        (pl.col("read_s").fill_null(0.0) * 1000).round().alias("play_time_ms"),
    )
    impressions = {name: columns[name].to_numpy() for name in columns.columns}
    asked = behaviors.select(
        "user_id",
        _ms("impression_time").alias("time_ms"),
        pl.col("impression_id").alias("request_id"),
        _INVIEW.alias("candidates"),
    ).sort("time_ms", "request_id")
    before = watermarks(impressions, asked["user_id"].to_numpy(), asked["time_ms"].to_numpy())
    eligible = np.flatnonzero(before >= min_history)
    kept = evenly_spaced(eligible, settings.max_requests)
    if not len(kept):
        raise LogError(f"{folder}: none of {len(asked)} rows has {min_history} articles before.")
    items, num_unknown = _items(articles, columns)
    return log_tables(
        items=items,
        impressions=impressions,
        requests={
            **{name: asked[name].to_numpy()[kept] for name in ("request_id", "user_id", "time_ms")},
            "watermark": before[kept],
            "candidates": [each.to_numpy() for each in asked["candidates"].gather(kept)],
        },
        notes=(
            f"EB-NeRD: {len(kept):,} requests of {num_rows:,} rows, evenly spaced in time among "
            f"{len(eligible):,} with {min_history} articles before; "
            f"{behaviors['user_id'].n_unique():,} of {num_users:,} users; {len(items):,} articles, "
            f"{num_unknown:,} of them without features"
            f"{'' if articles is not None else ' (there is no articles.parquet)'}.",
            "Candidates are the articles in view, all of which were shown: the AUC of impression "
            "is not defined, and is_like has no positives.",
            f"Labels: is_click: clicked; long_view: clicked and read {long_view_s:g} s or longer.",
        ),
    )


def _coded(
    behaviors: pl.DataFrame, history: pl.DataFrame, articles: pl.DataFrame | None
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame | None]:
    """The tables with the ids of the log as the contract's integers."""
    users = _ranks(pl.concat([behaviors["user_id"], history["user_id"]]))
    known = _ranks(pl.concat([behaviors["article_ids_inview"].explode(), history["video_id"]]))
    lists = (each.list.eval(_code(pl.element(), known)) for each in (_INVIEW, _CLICKED))
    user = _code(pl.col("user_id"), users)
    request = _code(pl.col("impression_id"), _ranks(behaviors["impression_id"]))
    if articles is not None:
        articles = articles.with_columns(_code(pl.col("article_id"), known)).drop_nulls(
            "article_id"
        )
    history = history.with_columns(user, _code(pl.col("video_id"), known))
    return behaviors.with_columns(request, user, *lists), history, articles


def _ranks(ids: pl.Series) -> pl.Series | None:
    """The distinct ids in order, or None where they are numbers of the contract themselves."""
    if ids.dtype.is_integer():
        lowest, highest = ids.min(), ids.max()
        if int(lowest) >= 0 and int(highest) < 2**31:  # type: ignore[arg-type]
            return None
    return ids.unique().sort()


def _code(ids: pl.Expr, ranks: pl.Series | None) -> pl.Expr:
    if ranks is None:
        return ids.cast(pl.Int64)
    codes = pl.Series(range(len(ranks)), dtype=pl.Int64)
    return ids.replace_strict(ranks, codes, default=None, return_dtype=pl.Int64)


def _of_chosen_users(
    behaviors: pl.DataFrame, max_rows: int, max_users: int | None, seed: int
) -> pl.DataFrame:
    """The rows of as many whole users as fit; lists without repeats."""
    lists = pl.col("article_ids_inview", "article_ids_clicked")
    behaviors = behaviors.with_columns(lists.list.drop_nulls().list.unique(maintain_order=True))
    counts = behaviors.group_by("user_id").agg(pl.col("article_ids_inview").list.len().sum())
    counts = counts.sort("user_id")
    rows = counts["article_ids_inview"].cast(pl.Int64).to_numpy()
    users = np.arange(len(counts))
    places = choose_users(users, rows, max_rows=max_rows, max_users=max_users, seed=seed)
    chosen = counts["user_id"].gather(places)
    return behaviors.filter(pl.col("user_id").is_in(chosen.implode()))


def _seen(behaviors: pl.DataFrame) -> pl.DataFrame:
    """One row for each article in view, in the order of the list."""
    rows = behaviors.select(
        "impression_id",
        "user_id",
        pl.col("impression_time").alias("time"),
        _INVIEW.alias("video_id"),
        pl.int_ranges(_INVIEW.list.len()).alias("place"),
        _CLICKED.alias("clicked"),
        _READ_S.cast(pl.Float64).alias("read_s"),
    ).explode("video_id", "place")
    first = pl.col("clicked").list.first()
    return rows.with_columns(
        pl.when(pl.col("video_id") == first).then("read_s").alias("read_s"),
        pl.col("video_id").is_in(pl.col("clicked")).alias("clicked"),
    )


def _clicks_before(history: pl.DataFrame, behaviors: pl.DataFrame) -> pl.DataFrame:
    """One row for each earlier click of the users who stay."""
    mine = pl.col("user_id").is_in(behaviors["user_id"].unique().implode())
    lists = history.filter(mine & (_LENGTH > 0)).select(
        "user_id",
        _TIMES.alias("time"),
        pl.col("article_id_fixed").alias("video_id"),
        _READ.alias("read_s"),
    )
    return lists.explode("time", "video_id", "read_s").with_columns(
        pl.col("read_s").cast(pl.Float64), pl.lit(True).alias("clicked")
    )


def _items(found: pl.DataFrame | None, columns: pl.DataFrame) -> tuple[ItemTable, int]:
    """The articles of the log, and how many of them have no features."""
    seen = columns.group_by("video_id").agg(pl.col("time_ms").min().alias("first_ms"))
    day_ms = pl.col("first_ms") // _DAY_MS * _DAY_MS
    if found is None:
        table = seen.sort("video_id").with_columns(day_ms.alias("upload_ms"))
        return item_table({n: table[n].to_numpy() for n in ("video_id", "upload_ms")}), len(table)
    known = found.select(
        pl.col("article_id").alias("video_id"),
        pl.col("category").fill_null(0),
        pl.col("premium").cast(pl.Float64),
        _ms("published_time").alias("published_ms"),
        (1 + pl.col("body").fill_null("").str.len_chars() / 1000).log().alias("length"),
        pl.lit(True).alias("known"),
    )
    table = (
        seen.join(known, on="video_id", how="left")
        .sort("video_id")
        .with_columns(
            pl.col("category", "premium", "length").fill_null(0),
            pl.min_horizontal("published_ms", day_ms).alias("upload_ms"),
        )
    )
    columns_of = {name: table[name].to_numpy() for name in ("video_id", "category", "upload_ms")}
    items = item_table({**columns_of, "content": table.select("premium", "length").to_numpy()})
    return items, int(table["known"].null_count())
