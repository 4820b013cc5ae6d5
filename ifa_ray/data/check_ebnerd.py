"""Checks a split of EB-NeRD: behaviors, histories and, where they are, articles."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ifa_ray.data.check_rules import Findings, Rule, quantiles_of, summary_of
from ifa_ray.data.ebnerd_files import (
    ARTICLE_COLUMNS,
    BEHAVIOR_COLUMNS,
    HISTORY_COLUMNS,
    UNREADABLE,
    find_articles,
    with_wide_ids,
    wrong_kinds,
)

_INVIEW, _CLICKED = pl.col("article_ids_inview"), pl.col("article_ids_clicked")
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
_LISTS = HISTORY_COLUMNS[1:]
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
        if not {"user_id", column} <= set(frame.columns):
            continue
        flat = frame.select("user_id", pl.col(column).alias("article_id")).explode("article_id")
        findings.apply(findings.name(path / file), flat, [
            Rule("an article is not in articles.parquet",
                 ~pl.col("article_id").is_in(known.implode()), is_note=True),
        ], ("user_id",))  # fmt: skip


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
