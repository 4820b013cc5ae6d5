"""Checks the contract's tables: row by row, and how they belong together.

Knows the columns of `ifa_ray.schema`, not where tables come from: those of a run's files are read
in `check_run`, an adapter's are in memory. The rules are those of `ifa_ray.data.log` and
`ifa_ray.training.samples`, which refuse the first that is broken; here each is counted.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from ifa_ray.data.check_rules import Findings, Rule, is_flag, quantiles_of, summary_of
from ifa_ray.data.log_tables import LogTables, watermarks
from ifa_ray.schema import ACTIONS, MAX_CANDIDATES

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
