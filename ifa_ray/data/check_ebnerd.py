"""Checks a split of EB-NeRD: behaviors, histories and, where they are, articles."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ifa_ray.data.check_rules import Findings, Rule, quantiles_of, summary_of
from ifa_ray.data.ebnerd import find_articles

__all__ = ["check_ebnerd"]

_INVIEW, _CLICKED = pl.col("article_ids_inview"), pl.col("article_ids_clicked")
_NEEDED = ("impression_id", "user_id", "impression_time", "article_ids_inview",
           "article_ids_clicked", "next_read_time")  # fmt: skip
_SHOW = ("row", "impression_id", "user_id")
_BEHAVIOR_RULES = (
    Rule("impression_id is there more than once", pl.col("impression_id").is_duplicated()),
    Rule("nothing is in view", _INVIEW.list.len() == 0),
    Rule("an article is in view more than once", _INVIEW.list.n_unique() < _INVIEW.list.len()),
    Rule("a click is on what was not in view",
         _CLICKED.list.set_difference(_INVIEW).list.len() > 0),
    Rule("an article is clicked more than once", _CLICKED.list.n_unique() < _CLICKED.list.len()),
    Rule("nothing is clicked", _CLICKED.list.len() == 0, is_note=True),
    Rule("next_read_time is negative or not finite",
         ~(pl.col("next_read_time").is_finite() & (pl.col("next_read_time") >= 0))),
    Rule("next_read_time is null, though there was a click",
         pl.col("next_read_time").is_null() & (_CLICKED.list.len() > 0), is_note=True),
    Rule("next_scroll_percentage is not in [0, 100]",
         ~pl.col("next_scroll_percentage").is_between(0, 100), is_note=True),
)  # fmt: skip
_LISTS = ("impression_time_fixed", "article_id_fixed", "read_time_fixed")
_TIMES = pl.col("impression_time_fixed")
_HISTORY_RULES = (
    Rule("user_id is there more than once", pl.col("user_id").is_duplicated()),
    *(Rule(f"{name} and article_id_fixed differ in length",
           pl.col(name).list.len() != pl.col("article_id_fixed").list.len())
      for name in _LISTS if name != "article_id_fixed"),
    Rule("impression_time_fixed goes back: the reader sorts",
         _TIMES.list.eval(pl.element().diff().dt.total_microseconds() < 0).list.any(),
         is_note=True),
    Rule("read_time_fixed is negative",
         pl.col("read_time_fixed").list.eval(pl.element() < 0).list.any()),
)  # fmt: skip


def check_ebnerd(findings: Findings, path: Path) -> None:
    """Checks a folder that holds `behaviors.parquet`."""
    if not (path / "behaviors.parquet").exists() and (path / "train").is_dir():
        findings.note(".", f"is a bundle of splits; {path / 'train'} is checked")
        path = path / "train"
    behaviors = _read(findings, path / "behaviors.parquet", _NEEDED)
    history = _read(findings, path / "history.parquet", ("user_id", *_LISTS))
    articles_path = find_articles(path)
    articles = None
    if articles_path is None:
        findings.note("articles.parquet", "there is none: articles have no features")
    else:
        columns = ("article_id", "category", "premium", "published_time", "body")
        articles = _read(findings, articles_path, columns)
        name = findings.name(articles_path)
        findings.files.append(summary_of(name, articles, item="article_id"))
        findings.nulls(name, articles, ("article_id",), ("row",))
        findings.apply(name, articles, [
            Rule("article_id is there more than once", pl.col("article_id").is_duplicated())
        ], ("row",))  # fmt: skip
    _check_behaviors(findings, findings.name(path / "behaviors.parquet"), behaviors)
    _check_history(findings, findings.name(path / "history.parquet"), history, behaviors)
    if articles is not None and "article_id" in articles.columns:
        known = articles["article_id"].drop_nulls().unique()
        _check_articles(findings, path, behaviors, history, known)


def _check_behaviors(findings: Findings, name: str, behaviors: pl.DataFrame) -> None:
    table = behaviors
    if isinstance(_dtype(behaviors, "impression_time"), pl.Datetime):
        table = behaviors.with_columns(_ms("impression_time").alias("time_ms"))
    elif "impression_time" in behaviors.columns:
        found = _dtype(behaviors, "impression_time")
        findings.problem(name, f"column impression_time is {found}, must be a date and time")
    findings.files.append(summary_of(name, table, item=None))
    needed = [n for n in _NEEDED if n != "next_read_time"]
    findings.nulls(name, behaviors, needed, _SHOW)
    findings.apply(name, _lists_only(findings, name, behaviors), _BEHAVIOR_RULES, _SHOW)
    if isinstance(_dtype(behaviors, "article_ids_inview"), pl.List):
        in_view = int(behaviors["article_ids_inview"].list.len().sum())
        # In view is shown.
        findings.facts |= {"candidates": in_view, "candidates shown": in_view}
        if isinstance(_dtype(behaviors, "article_ids_clicked"), pl.List) and in_view:
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
    history = _lists_only(findings, name, history)
    findings.apply(name, history, _HISTORY_RULES, show)
    if "article_id_fixed" in history.columns:
        lengths = history["article_id_fixed"].list.len()
        findings.facts["clicks before the log per user"] = quantiles_of(lengths)
    both = ("user_id", "impression_time")
    if "impression_time_fixed" in history.columns and set(both) <= set(behaviors.columns):
        first = behaviors.group_by("user_id").agg(pl.col("impression_time").min().alias("first"))
        late = history.join(first, on="user_id", how="inner")
        findings.apply(name, late, [
            Rule("a click of the history is later than the user's first row in the log",
                 _TIMES.list.max() > pl.col("first"), is_note=True),
        ], ("user_id",))  # fmt: skip
        missing = first.join(history, on="user_id", how="anti")
        findings.apply(name, missing, [
            Rule("a user of behaviors.parquet has no history", pl.col("user_id").is_not_null(),
                 is_note=True),
        ])  # fmt: skip


def _check_articles(
    findings: Findings, path: Path, behaviors: pl.DataFrame, history: pl.DataFrame, known: pl.Series
) -> None:
    for frame, column, file in ((behaviors, "article_ids_inview", "behaviors.parquet"),
                                (history, "article_id_fixed", "history.parquet")):  # fmt: skip
        if not isinstance(_dtype(frame, column), pl.List):
            continue
        flat = frame.select("user_id", pl.col(column).alias("article_id")).explode("article_id")
        findings.apply(findings.name(path / file), flat, [
            Rule("an article is not in articles.parquet",
                 ~pl.col("article_id").is_in(known.implode()), is_note=True),
        ], ("user_id",))  # fmt: skip


def _lists_only(findings: Findings, name: str, frame: pl.DataFrame) -> pl.DataFrame:
    """Without the columns that should be lists and are not, which is found."""
    wrong = [
        column
        for column in ("article_ids_inview", "article_ids_clicked", *_LISTS)
        if column in frame.columns and not isinstance(_dtype(frame, column), pl.List)
    ]
    for column in wrong:
        findings.problem(name, f"column {column} is {_dtype(frame, column)}, must be lists")
    return frame.drop(wrong)


def _read(findings: Findings, path: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    name = findings.name(path)
    try:
        frame = pl.read_parquet(path)
    except FileNotFoundError:
        findings.problem(name, "there is no such file")
        return pl.DataFrame()
    except (pl.exceptions.PolarsError, OSError) as error:
        findings.problem(name, f"is not a whole Parquet file ({str(error).splitlines()[0]})")
        return pl.DataFrame()
    for column in columns:
        if column not in frame.columns:
            findings.problem(name, f"column {column} is missing")
    if not len(frame):
        findings.problem(name, "has no rows")
    return frame.with_row_index("row")


def _dtype(frame: pl.DataFrame, column: str) -> pl.DataType | None:
    return frame.schema.get(column)


def _ms(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.Datetime("ms")).dt.epoch("ms")
