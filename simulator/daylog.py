"""The log of a day as it is written: columns collected round by round, put in order at the end.

Knows the contract's columns; no world, no Parquet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from ifa_ray.schema import IMPRESSION_COLUMNS, REQUEST_COLUMNS

__all__ = ["DayLog", "LogBook"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DayLog:
    """What one shard's users did in a day.

    Attributes:
        impressions: `IMPRESSION_COLUMNS`, ordered by (user_id, time_ms, position).
        requests: `REQUEST_COLUMNS`, ordered by request_id, which is (user_id, watermark);
            candidates int32 and channels int8 are [requests, C].
        num_users: users of the shard, present or not.
        num_requests: requests made, logged or not.
    """

    impressions: dict[str, np.ndarray]
    requests: dict[str, np.ndarray]
    num_users: int
    num_requests: int

    def summary(self) -> dict[str, int]:
        """Counts for a progress line."""
        return {
            "users": self.num_users,
            "active_users": len(np.unique(self.impressions["user_id"])),
            "requests": self.num_requests,
            "logged_requests": len(self.requests["request_id"]),
            "impressions": len(self.impressions["user_id"]),
            "clicks": int(self.impressions["is_click"].sum()),
            "play_time_ms": int(self.impressions["play_time_ms"].sum(dtype=np.int64)),
        }


class LogBook:
    """Collects columns in any order."""

    def __init__(self) -> None:
        self._impressions: list[Mapping[str, np.ndarray]] = []
        self._requests: list[Mapping[str, np.ndarray]] = []
        self.num_requests = 0

    def add_impressions(self, columns: Mapping[str, np.ndarray]) -> None:
        """Adds rows of `IMPRESSION_COLUMNS`."""
        self._impressions.append(columns)

    def add_requests(self, columns: Mapping[str, np.ndarray]) -> None:
        """Adds rows of `REQUEST_COLUMNS`."""
        if len(
            columns["request_id"]
        ):  # rounds that log nothing may have other numbers of candidates
            self._requests.append(columns)

    def finish(self, num_users: int, num_candidates: int) -> DayLog:
        """The whole day, in order and in the contract's types."""
        impressions = {
            name: np.concatenate(
                [np.empty(0, dtype), *(part[name] for part in self._impressions)], dtype=dtype
            )
            for name, dtype in IMPRESSION_COLUMNS.items()
        }
        order = np.lexsort(
            (impressions["position"], impressions["time_ms"], impressions["user_id"])
        )
        requests = {}
        for name, spec in REQUEST_COLUMNS.items():
            is_list = spec.startswith("list<")
            dtype = spec.removeprefix("list<").removesuffix(">")
            empty = np.empty((0, num_candidates) if is_list else 0, dtype)
            parts = [part[name] for part in self._requests]
            requests[name] = np.concatenate([empty, *parts], dtype=dtype)
        request_order = np.argsort(requests["request_id"])
        return DayLog(
            impressions={name: column[order] for name, column in impressions.items()},
            requests={name: column[request_order] for name, column in requests.items()},
            num_users=num_users,
            num_requests=self.num_requests,
        )
