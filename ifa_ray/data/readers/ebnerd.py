"""EB-NeRD (Ekstra Bladet's news log: a folder of one split) as the contract's tables.

Knows what a row means, not how it is read, which is in `ebnerd_files`; knows nothing of models.
Kruse et al., RecSys Challenge 2024;
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
from ifa_ray.errors import LogError

BEHAVIOR_COLUMNS = ("impression_id", "user_id", "impression_time", "article_ids_inview",
                    "article_ids_clicked", "next_read_time")  # fmt: skip
HISTORY_COLUMNS = ("user_id", "impression_time_fixed", "article_id_fixed", "read_time_fixed")
ARTICLE_COLUMNS = ("article_id", "category", "premium", "published_time", "body")
"""The columns that are read of each file; all have more."""

UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
"""Errors of the reader for a Parquet file that is not whole; some damage makes it panic."""

_KINDS: Mapping[str, str] = {
    "impression_id": "ids", "user_id": "ids", "article_id": "ids",
    "impression_time": "dates and times", "published_time": "dates and times",
    "article_ids_inview": "lists of ids", "article_ids_clicked": "lists of ids",
    "article_id_fixed": "lists of ids", "impression_time_fixed": "lists of dates and times",
    "read_time_fixed": "lists of numbers", "next_read_time": "numbers",
    "next_scroll_percentage": "numbers", "category": "numbers", "premium": "true or false",
    "body": "text",
}  # fmt: skip
_MAY_BE_NULL = ("next_read_time", "category", "premium", "published_time", "body")


def is_ebnerd(path: Path) -> bool:
    """True if a folder is a split, or a bundle of splits, which `read_ebnerd` refuses by name."""
    return any((folder / "behaviors.parquet").exists() for folder in (path, path / "train"))


def find_articles(folder: Path) -> Path | None:
    """The articles of a split: beside its files, or one folder up."""
    for path in (folder / "articles.parquet", folder.parent / "articles.parquet"):
        if path.exists():
            return path
    return None


def read_columns(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Reads the named columns; what a row cannot do without has no nulls.

    Raises:
        LogError: naming the file, where it is missing, cut off, empty, or a column is not there, of
            another kind or has nulls.
    """
    if not path.exists():
        raise LogError(f"{path}: no such file, must be that of an EB-NeRD split.")
    try:
        table = pl.read_parquet(path, columns=list(columns))
    except UNREADABLE as error:
        why = (str(error).splitlines() or ["unreadable"])[0]
        hint = " A test split has no clicks." if "clicked" in why else ""
        raise LogError(
            f"{path}: must be a whole Parquet file with the columns {', '.join(columns)} "
            f"({why}).{hint}"
        ) from None
    for name, kind in wrong_kinds(table).items():
        raise LogError(f"{path}: column {name} is {table.schema[name]}, must be {kind}.")
    for name in columns:
        if name not in _MAY_BE_NULL and table[name].null_count():
            raise LogError(f"{path}: column {name} has nulls, must have none.")
    if not len(table):
        raise LogError(f"{path}: has no rows, must have at least one.")
    return with_wide_ids(table)


def wrong_kinds(table: pl.DataFrame) -> dict[str, str]:
    """The columns that are of another kind than they must be, and what they must be."""
    return {
        name: _KINDS[name]
        for name, dtype in table.schema.items()
        if name in _KINDS and not _is_kind(dtype, _KINDS[name])
    }


def with_wide_ids(table: pl.DataFrame) -> pl.DataFrame:
    """Integer ids in one type: the files differ in theirs."""
    wide = []
    for name, dtype in table.schema.items():
        if not _KINDS.get(name, "").endswith("ids"):
            continue
        if dtype.is_integer():
            wide.append(pl.col(name).cast(pl.Int64))
        elif (
            isinstance(dtype, pl.List)
            and pl.DataFrame(schema={"id": dtype.inner})["id"].dtype.is_integer()
        ):
            wide.append(pl.col(name).cast(pl.List(pl.Int64)))
    return table.with_columns(wide)


def _is_kind(dtype: pl.DataType, kind: str) -> bool:
    if kind.startswith("lists of "):
        if not isinstance(dtype, pl.List):
            return False
        inner = pl.Series([], dtype=dtype.inner).dtype
        return _is_kind(inner, kind.removeprefix("lists of "))
    return {
        "ids": dtype.is_integer() or dtype == pl.String,
        "dates and times": isinstance(dtype, pl.Datetime),
        "numbers": dtype.is_numeric(),
        "true or false": dtype == pl.Boolean,
        "text": dtype == pl.String,
    }[kind]


_DAY_MS = 86_400_000
_HISTORY = {"impression_time_fixed": "time", "article_id_fixed": "article",
            "read_time_fixed": "read_s"}  # fmt: skip


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
    behaviors = read_columns(path, BEHAVIOR_COLUMNS)
    num_rows, num_users = len(behaviors), behaviors["user_id"].n_unique()
    behaviors = _of_chosen_users(path, behaviors, max_rows, max_users, users_seed)
    history = _read_history(folder / "history.parquet", behaviors)
    seen = _seen(behaviors)
    articles = find_articles(folder)
    codes = _Codes(behaviors, seen, history)
    events = pl.concat([history, seen], how="diagonal_relaxed").with_columns(
        codes.user(pl.col("user_id")).alias("user_id"),
        codes.article(pl.col("article")).alias("video_id"),
        pl.col("time").cast(pl.Datetime("ms")).dt.epoch("ms").alias("time_ms"),
    )
    # Clicks of before belong to no request of the log: numbers above all of theirs.
    none = pl.int_range(pl.len(), dtype=pl.Int64) + codes.num_requests
    columns = events.select(
        pl.coalesce(codes.request(pl.col("impression_id")), none).alias("request_id"),
        "user_id", "video_id", "time_ms", pl.col("place").fill_null(0).alias("position"),
        pl.col("clicked").cast(pl.Int64).alias("is_click"),
        ((pl.col("read_s") >= long_view_s) & pl.col("clicked")).fill_null(False).cast(pl.Int64)
        .alias("long_view"),
        (pl.col("read_s").fill_null(0.0) * 1000).round().alias("play_time_ms"),
    )  # fmt: skip
    impressions = {name: columns[name].to_numpy() for name in columns.columns}
    asked = behaviors.select(
        codes.request(pl.col("impression_id")).alias("request_id"),
        codes.user(pl.col("user_id")).alias("user_id"),
        pl.col("impression_time").cast(pl.Datetime("ms")).dt.epoch("ms").alias("time_ms"),
        pl.col("article_ids_inview").list.eval(codes.article(pl.element())).alias("candidates"),
    ).sort("time_ms", "request_id")  # fmt: skip
    before = watermarks(impressions, asked["user_id"].to_numpy(), asked["time_ms"].to_numpy())
    eligible = np.flatnonzero(before >= min_history)
    kept = evenly_spaced(eligible, settings.max_requests)
    if not len(kept):
        raise LogError(f"{folder}: none of {len(asked)} rows has {min_history} articles before.")
    items, num_unknown = _read_items(articles, columns, codes)
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
            f"{'' if articles else ' (there is no articles.parquet)'}.",
            "Candidates are the articles in view, all of which were shown: the AUC of impression "
            "is not defined, and is_like has no positives.",
            f"Labels: is_click: clicked; long_view: clicked and read {long_view_s:g} s or longer.",
        ),
    )


class _Codes:
    """Ids of the log as the contract's integers."""

    def __init__(self, behaviors: pl.DataFrame, seen: pl.DataFrame, history: pl.DataFrame) -> None:
        if seen["article"].dtype != history["article"].dtype and len(history):
            raise LogError(
                f"history.parquet: article_id_fixed holds {history['article'].dtype}, must hold "
                f"{seen['article'].dtype} as in behaviors.parquet."
            )
        users = pl.concat([behaviors["user_id"], history["user_id"]], rechunk=True)
        articles = pl.concat([seen["article"], history["article"]], rechunk=True)
        self._users, self._articles = _ranks(users), _ranks(articles)
        self.article_type = articles.dtype
        self._requests = _ranks(behaviors["impression_id"])
        self.num_requests = int(
            behaviors.select(self.request(pl.col("impression_id")).max()).item() + 1
        )

    def user(self, ids: pl.Expr) -> pl.Expr:
        return _code(ids, self._users)

    def article(self, ids: pl.Expr) -> pl.Expr:
        return _code(ids, self._articles)

    def request(self, ids: pl.Expr) -> pl.Expr:
        return _code(ids, self._requests)


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
    path: Path, behaviors: pl.DataFrame, max_rows: int, max_users: int | None, seed: int
) -> pl.DataFrame:
    """The rows of as many whole users as fit; lists without repeats."""
    lists = ("article_ids_inview", "article_ids_clicked")
    if behaviors.schema[lists[0]] != behaviors.schema[lists[1]]:
        found, wanted = behaviors.schema[lists[1]], behaviors.schema[lists[0]]
        raise LogError(f"{path}: column {lists[1]} is {found}, must be {wanted} as {lists[0]}.")
    if behaviors["impression_id"].is_duplicated().any():
        raise LogError(f"{path}: an impression_id is there more than once, must be unique.")
    behaviors = behaviors.with_columns(
        pl.col(name).list.drop_nulls().list.unique(maintain_order=True) for name in lists
    )
    if (behaviors["article_ids_inview"].list.len() == 0).any():
        raise LogError(f"{path}: a row has nothing in article_ids_inview, must have 1 article.")
    lost = behaviors["article_ids_clicked"].list.set_difference(behaviors["article_ids_inview"])
    if lost.list.len().sum():
        bad = behaviors["impression_id"].filter(lost.list.len() > 0)[0]
        raise LogError(f"{path}: impression {bad} has a click on what was not in view.")
    counts = behaviors.group_by("user_id").agg(pl.col("article_ids_inview").list.len().sum())
    counts = counts.sort("user_id")
    places = choose_users(
        np.arange(len(counts)), counts["article_ids_inview"].cast(pl.Int64).to_numpy(),
        max_rows=max_rows, max_users=max_users, seed=seed,
    )  # fmt: skip
    chosen = counts["user_id"].gather(places)
    return behaviors.filter(pl.col("user_id").is_in(chosen.implode()))


def _seen(behaviors: pl.DataFrame) -> pl.DataFrame:
    """One row for each article in view, in the order of the list."""
    clicked = behaviors.select(
        "impression_id",
        pl.col("article_ids_clicked").alias("article"),
        pl.int_ranges(pl.col("article_ids_clicked").list.len()).alias("nth"),
        pl.col("next_read_time").cast(pl.Float64).alias("read_s"),
    ).filter(pl.col("article").list.len() > 0)  # fmt: skip
    clicked = clicked.explode("article", "nth").select(
        "impression_id", "article", pl.lit(True).alias("clicked"),
        pl.when(pl.col("nth") == 0).then("read_s").alias("read_s"),
    )  # fmt: skip
    seen = behaviors.select(
        "impression_id", "user_id", pl.col("impression_time").alias("time"),
        pl.col("article_ids_inview").alias("article"),
        pl.int_ranges(pl.col("article_ids_inview").list.len()).alias("place"),
    ).explode("article", "place")  # fmt: skip
    return seen.join(
        clicked, on=["impression_id", "article"], how="left", maintain_order="left"
    ).with_columns(pl.col("clicked").fill_null(False))


def _read_history(path: Path, behaviors: pl.DataFrame) -> pl.DataFrame:
    """One row for each earlier click of the users who stay."""
    lists = read_columns(path, ("user_id", *_HISTORY))
    found, wanted = lists.schema["user_id"], behaviors.schema["user_id"]
    if found != wanted:
        raise LogError(f"{path}: user_id is {found}, must be {wanted} as in behaviors.parquet.")
    lengths = [lists[name].list.len() for name in _HISTORY]
    if not all((length == lengths[0]).all() for length in lengths):
        raise LogError(f"{path}: the lists of a user differ in length, must be equally long.")
    lists = lists.filter(
        pl.col("user_id").is_in(behaviors["user_id"].unique().implode()) & (lengths[0] > 0)
    )
    return lists.select("user_id", *(pl.col(old).alias(new) for old, new in _HISTORY.items())) \
        .explode("time", "article", "read_s") \
        .with_columns(pl.col("read_s").cast(pl.Float64), pl.lit(True).alias("clicked"))  # fmt: skip


def _read_items(path: Path | None, columns: pl.DataFrame, codes: _Codes) -> tuple[ItemTable, int]:
    """The articles of the log, and how many of them have no features."""
    seen = columns.group_by("video_id").agg(pl.col("time_ms").min().alias("first_ms"))
    day_ms = pl.col("first_ms") // _DAY_MS * _DAY_MS
    if path is None:
        table = seen.sort("video_id").with_columns(day_ms.alias("upload_ms"))
        names: Mapping[str, str] = {"video_id": "video_id", "upload_ms": "upload_ms"}
        return item_table({n: table[c].to_numpy() for n, c in names.items()}), len(table)
    found = read_columns(path, ARTICLE_COLUMNS)
    if found["article_id"].dtype != codes.article_type:
        raise LogError(
            f"{path}: article_id is {found['article_id'].dtype}, must be {codes.article_type} as "
            "in behaviors.parquet."
        )
    known = found.select(
        codes.article(pl.col("article_id")).alias("video_id"),
        "category", "premium",
        pl.col("published_time").cast(pl.Datetime("ms")).dt.epoch("ms").alias("upload_ms"),
        (1 + pl.col("body").fill_null("").str.len_chars() / 1000).log().alias("length"),
        pl.lit(True).alias("known"),
    ).drop_nulls("video_id").unique("video_id", keep="first")  # fmt: skip
    table = seen.join(known, on="video_id", how="left").sort("video_id")
    content = table.select(
        pl.col("premium").cast(pl.Float64).fill_null(0.0), pl.col("length").fill_null(0.0)
    )
    items = item_table(
        {
            "video_id": table["video_id"].to_numpy(),
            "category": table["category"].fill_null(0).to_numpy(),
            "upload_ms": table.select(pl.min_horizontal("upload_ms", day_ms))
            .to_series()
            .to_numpy(),
            "content": content.to_numpy(),
        }
    )
    return items, int(table["known"].null_count())
