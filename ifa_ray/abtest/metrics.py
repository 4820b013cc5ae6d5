"""The definition of each metric, and which of them a log can answer.

Counts nothing and compares no arms: see `ifa_ray.abtest.measure`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Literal

PRIMARY = "watch_time"

COUNTS = {
    "is_click": "clicks",
    "long_view": "long_views",
    "is_like": "likes",
    "is_comment": "comments",
    "is_follow": "follows",
    "is_forward": "forwards",
    "is_hate": "hates",
}
"""Feedback column of the log: what its sum per user is called."""

Group = Literal["user", "ratio", "absolute", "diversity", "world"]


@dataclasses.dataclass(frozen=True)
class Metric:
    """One line of the report: sum of `above` over sum of `below`, per user where `below` is None.

    Attributes:
        name: its key in the result.
        label: for people.
        unit: of its level.
        group: `user`, `ratio`, `absolute` (its zero means something else than nothing, so arms are
            compared by difference), `diversity`, or `world` (one number per world, no users).
        good: +1 where more is better, -1 where less is, 0 where it is a matter of taste.
        above: column of the numerator.
        below: column of the denominator; None divides by the number of users.
        needs: columns of the log that it is made of; `items`, `content` and `pre` stand for a
            catalogue, its vectors, and a log from before the test.
    """

    name: str
    label: str
    unit: str
    group: Group
    good: int
    above: str
    below: str | None
    needs: tuple[str, ...]


def answerable(
    available: Collection[str],
) -> tuple[tuple[Metric, ...], dict[Metric, tuple[str, ...]]]:
    """The metrics that a log can answer, and for each of the others what is missing."""
    lacks = {metric: tuple(n for n in metric.needs if n not in available) for metric in METRICS}
    kept = tuple(metric for metric in METRICS if not lacks[metric])
    return kept, {metric: missing for metric, missing in lacks.items() if missing}


def _user(name: str, label: str, *needs: str, unit: str = "per user", good: int = 1) -> Metric:
    return Metric(name, label, unit, "user", good, name, None, needs)


def _rate(name: str, label: str, above: str, *needs: str, good: int = 1) -> Metric:
    return Metric(name, label, "per impression", "ratio", good, above, "impressions", needs)


def _of_day(
    name: str, label: str, unit: str, *needs: str, below: str = "days"
) -> tuple[Metric, Metric]:
    """Of whole days, and of their first k impressions."""
    needs = ("items", *needs)
    whole = Metric(name, label, unit, "diversity", 0, name, below, needs)
    first_k = Metric(
        f"{name}_k",
        f"{label}, first k",
        unit,
        "diversity",
        0,
        f"{name}_k",
        f"{below}_k",
        (*needs, "time_ms"),
    )
    return whole, first_k


WATCH_TIME = _user(PRIMARY, "Watch time", unit="s per user")

_DIVERSITY = (
    _of_day("categories", "Distinct categories", "per user-day"),
    _of_day("authors", "Distinct authors", "per user-day"),
    _of_day("entropy", "Category entropy", "nats"),
    _of_day("gini_simpson", "Gini-Simpson index", "of categories"),
    _of_day("distance", "Content distance", "1 \N{MINUS SIGN} cosine", "content", below="pairs"),
    _of_day("novelty", "Novelty", "bits per impression", "pre"),
    _of_day("misfit", "Departure from own taste", "nats (KL)", "pre", below="tasted"),
    _of_day("serendipity", "Serendipity", "per impression", "pre", "long_view", below="tasted"),
)

METRICS: tuple[Metric, ...] = (
    WATCH_TIME,
    _user("impressions", "Impressions"),
    _user("requests", "Requests", "request_id"),
    _user("sessions", "Sessions", "time_ms"),
    _user("active_days", "Active days"),
    _user("clicks", "Clicks", "is_click"),
    _user("long_views", "Long views", "long_view"),
    _user("completions", "Completions", "duration_ms"),
    _user("likes", "Likes", "is_like"),
    _user("comments", "Comments", "is_comment"),
    _user("follows", "Follows", "is_follow"),
    _user("forwards", "Forwards", "is_forward"),
    _user("hates", "Hates", "is_hate", good=-1),
    _user("d2q_time", "Duration-debiased watch (D2Q)", "duration_ms", "pre"),
    _rate("click_rate", "Click rate", "clicks", "is_click"),
    _rate("long_view_rate", "Long-view rate", "long_views", "long_view"),
    _rate("completion_rate", "Completion rate", "completions", "duration_ms"),
    _rate("like_rate", "Like rate", "likes", "is_like"),
    _rate("hate_rate", "Hate rate", "hates", "is_hate", good=-1),
    Metric(
        "watch_per_impression",
        "Watch time",
        "s per impression",
        "ratio",
        1,
        PRIMARY,
        "impressions",
        (),
    ),
    Metric(
        "impressions_per_session",
        "Impressions",
        "per session",
        "ratio",
        1,
        "impressions",
        "sessions",
        ("time_ms",),
    ),
    _rate("d2q", "Duration-debiased watch (D2Q)", "d2q_time", "duration_ms", "pre"),
    Metric(
        "wtg",
        "Watch-time gain (WTG)",
        "sd per impression",
        "absolute",
        1,
        "wtg",
        "impressions",
        ("duration_ms", "pre"),
    ),
    *(whole for whole, _ in _DIVERSITY),
    *(first_k for _, first_k in _DIVERSITY),
    Metric(
        "coverage", "Catalogue coverage", "share seen", "world", 0, "coverage", None, ("items",)
    ),
    Metric("gini", "Exposure Gini", "1 = one item has all", "world", 0, "gini", None, ("items",)),
)
