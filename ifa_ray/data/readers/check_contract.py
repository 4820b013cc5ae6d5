"""Rules of the contract's tables: each by itself, and requests against impressions and items.

Knows polars frames of the contract's columns; not where they come from.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from ifa_ray.data.log_tables import LogTables, watermarks
from ifa_ray.data.readers.scan import (
    PLAY_RULES,
    Findings,
    flags,
    not_negative,
    notes,
    quantiles_of,
    rules,
    unique,
)
from ifa_ray.schema import ACTIONS, MAX_CANDIDATES

_CANDIDATES = pl.col("candidates").list
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
    findings.summarise(where, frame, rates=rates)
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
    findings.apply(f"{prefix}candidates", candidates, rules({says: unknown}), ("request_id",))
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
    rule = rules({"time_ms of the user goes back": pl.col("goes_back")})
    findings.apply(f"{prefix}impressions", clock, rule, SHOW["impressions"])
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
