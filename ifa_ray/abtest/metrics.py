"""What is counted: the definition of each metric, and which of them a log can answer.

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


@dataclasses.dataclass(frozen=True, kw_only=True)
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
    below: str | None = None
    needs: tuple[str, ...] = ()


def answerable(available: Collection[str]) -> tuple[tuple[Metric, ...], dict[str, tuple[str, ...]]]:
    """The metrics that a log can answer, and for each of the others what is missing."""
    missing = {
        metric.name: tuple(need for need in metric.needs if need not in available)
        for metric in METRICS
    }
    kept = tuple(metric for metric in METRICS if not missing[metric.name])
    return kept, {name: lacks for name, lacks in missing.items() if lacks}


def _user(name: str, label: str, unit: str, *needs: str, good: int = 1) -> Metric:
    return Metric(
        name=name, label=label, unit=unit, group="user", good=good, above=name, needs=needs
    )


def _ratio(
    name: str, label: str, unit: str, above: str, below: str, *needs: str, good: int = 1
) -> Metric:
    return Metric(
        name=name, label=label, unit=unit, group="ratio", good=good, above=above, below=below,
        needs=needs,
    )  # fmt: skip


def _of_day(name: str, label: str, unit: str, *needs: str, below: str = "days") -> Metric:
    return Metric(
        name=name, label=label, unit=unit, group="diversity", good=0, above=name, below=below,
        needs=("items", *needs),
    )  # fmt: skip


def _twice(*metrics: Metric) -> tuple[Metric, ...]:
    """Each of whole days, and then each of their first k impressions."""
    first_k = [
        dataclasses.replace(
            metric,
            name=f"{metric.name}_k",
            label=f"{metric.label}, first k",
            above=f"{metric.above}_k",
            below=f"{metric.below}_k",
            needs=(*metric.needs, "time_ms"),
        )
        for metric in metrics
    ]
    return (*metrics, *first_k)


def _world(name: str, label: str, unit: str) -> Metric:
    return Metric(
        name=name, label=label, unit=unit, group="world", good=0, above=name, needs=("items",)
    )


METRICS: tuple[Metric, ...] = (
    _user(PRIMARY, "Watch time", "s per user"),
    _user("impressions", "Impressions", "per user"),
    _user("requests", "Requests", "per user", "request_id"),
    _user("sessions", "Sessions", "per user", "time_ms"),
    _user("active_days", "Active days", "per user"),
    _user("clicks", "Clicks", "per user", "is_click"),
    _user("long_views", "Long views", "per user", "long_view"),
    _user("completions", "Completions", "per user", "duration_ms"),
    _user("likes", "Likes", "per user", "is_like"),
    _user("comments", "Comments", "per user", "is_comment"),
    _user("follows", "Follows", "per user", "is_follow"),
    _user("forwards", "Forwards", "per user", "is_forward"),
    _user("hates", "Hates", "per user", "is_hate", good=-1),
    _user("d2q_time", "Duration-debiased watch (D2Q)", "per user", "duration_ms", "pre"),
    _ratio("click_rate", "Click rate", "per impression", "clicks", "impressions", "is_click"),
    _ratio("long_view_rate", "Long-view rate", "per impression", "long_views", "impressions",
           "long_view"),
    _ratio("completion_rate", "Completion rate", "per impression", "completions", "impressions",
           "duration_ms"),
    _ratio("like_rate", "Like rate", "per impression", "likes", "impressions", "is_like"),
    _ratio("hate_rate", "Hate rate", "per impression", "hates", "impressions", "is_hate", good=-1),
    _ratio("watch_per_impression", "Watch time", "s per impression", PRIMARY, "impressions"),
    _ratio("impressions_per_session", "Impressions", "per session", "impressions", "sessions",
           "time_ms"),
    _ratio("d2q", "Duration-debiased watch (D2Q)", "per impression", "d2q_time", "impressions",
           "duration_ms", "pre"),
    Metric(name="wtg", label="Watch-time gain (WTG)", unit="sd per impression", group="absolute",
           good=1, above="wtg", below="impressions", needs=("duration_ms", "pre")),
    *_twice(
        _of_day("categories", "Distinct categories", "per user-day"),
        _of_day("authors", "Distinct authors", "per user-day"),
        _of_day("entropy", "Category entropy", "nats"),
        _of_day("gini_simpson", "Gini-Simpson index", "of categories"),
        _of_day("distance", "Content distance", "1 \N{MINUS SIGN} cosine", "content",
                below="pairs"),
        _of_day("novelty", "Novelty", "bits per impression", "pre"),
        _of_day("misfit", "Departure from own taste", "nats (KL)", "pre", below="tasted"),
        _of_day("serendipity", "Serendipity", "per impression", "pre", "long_view",
                below="tasted"),
    ),
    _world("coverage", "Catalogue coverage", "share seen"),
    _world("gini", "Exposure Gini", "1 = one item has all"),
)  # fmt: skip
