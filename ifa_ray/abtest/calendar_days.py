"""Which days of a log are the test and which were before it; knows days, nothing of arms.

Days are numbers: those since 1970 (UTC), or as a log counts them.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping

import polars as pl

from ifa_ray.abtest.user_days import DAY_MS
from ifa_ray.config import require
from ifa_ray.errors import ConfigError

__all__ = ["PERIOD", "calendar_of"]

PERIOD = re.compile(r"(\d{4}-\d\d-\d\d):(\d{4}-\d\d-\d\d)")
"""FROM:TO, both included."""


def calendar_of(
    frames: Mapping[tuple[str, int], tuple[pl.LazyFrame, pl.LazyFrame | None]], pre: str | None
) -> tuple[int, tuple[int, int] | None]:
    """The test's first day, and the first and last day before it, as days since 1970."""
    spans = [
        frame.select(pl.col("day").min().alias("low"), pl.col("day").max().alias("high"))
        .collect(engine="streaming")
        .row(0)
        for frame, _ in frames.values()
    ]
    low = min(span[0] for span in spans if span[0] is not None)
    high = max(span[1] for span in spans if span[1] is not None)
    if pre is None:
        return low, None
    dates = PERIOD.fullmatch(pre)
    if dates:
        begin, end = (_day_of(text) for text in dates.groups())
        require(begin <= end, "pre", pre, "FROM before TO")
    else:
        begin, end = low, low + int(pre) - 1
        require(int(pre) >= 1, "pre", pre, ">= 1 day")
    if not (low <= end < high):
        raise ConfigError(f"pre == {pre!r}, must leave days before and after it in the logs.")
    return end + 1, (begin, end)


def _day_of(text: str) -> int:
    try:
        date = datetime.date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"pre == {text!r}, must be a date as 2026-01-31.") from None
    moment = datetime.datetime(date.year, date.month, date.day, tzinfo=datetime.UTC)
    return int(moment.timestamp() * 1000) // DAY_MS
