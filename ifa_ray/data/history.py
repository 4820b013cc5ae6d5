"""Growing histories of many users in flat columns; knows numpy only.

The user shards and the trainer both rebuild a request's history from (user, watermark) here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ifa_ray.errors import LogError
from ifa_ray.schema import History


class HistoryStore:
    """Every user's impressions, oldest first, appended in place.

    A user's columns double when they are full, so appending n impressions costs O(n) in all and
    an impression costs 13 to 26 bytes.
    """

    def __init__(self) -> None:
        self._columns: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._lengths: dict[int, int] = {}

    def length(self, user_id: int) -> int:
        """The user's watermark: how many impressions are stored."""
        return self._lengths.get(user_id, 0)

    def append(
        self,
        user_id: int,
        ids: npt.NDArray[np.int32],
        actions: npt.NDArray[np.uint8],
        times_ms: npt.NDArray[np.int64],
    ) -> None:
        """Appends impressions, oldest first."""
        start, count = self.length(user_id), len(ids)
        stop = start + count
        columns = self._columns.get(user_id)
        if columns is None or stop > len(columns[0]):
            grown = tuple(
                np.empty(max(16, 2 * stop), dtype) for dtype in (np.int32, np.uint8, np.int64)
            )
            if columns is not None:
                for new, old in zip(grown, columns, strict=True):
                    new[:start] = old[:start]
            columns = (grown[0], grown[1], grown[2])
            self._columns[user_id] = columns
        for column, values in zip(columns, (ids, actions, times_ms), strict=True):
            column[start:stop] = values
        self._lengths[user_id] = stop

    def append_sorted(
        self,
        user_ids: npt.NDArray[np.int32],
        ids: npt.NDArray[np.int32],
        actions: npt.NDArray[np.uint8],
        times_ms: npt.NDArray[np.int64],
    ) -> None:
        """Appends many users' impressions; rows in order of time for each user, users in any."""
        if len(user_ids) == 0:
            return
        order = np.argsort(user_ids, kind="stable")
        users, starts = np.unique(user_ids[order], return_index=True)
        for user, rows in zip(users, np.split(order, starts[1:]), strict=True):
            self.append(int(user), ids[rows], actions[rows], times_ms[rows])

    def view(self, user_id: int, watermark: int | None = None, limit: int | None = None) -> History:
        """The user's first `watermark` impressions (all by default), the latest `limit` of them.

        Raises:
            LogError: if fewer than `watermark` impressions are stored.
        """
        length = self.length(user_id)
        stop = length if watermark is None else watermark
        if stop > length:
            raise LogError(f"watermark == {stop} of user {user_id}, must be <= {length} stored.")
        if user_id not in self._columns:
            return History.empty()
        start = 0 if limit is None else max(0, stop - limit)
        ids, actions, times = (column[start:stop] for column in self._columns[user_id])
        return History(ids_T=ids, actions_T=actions, times_ms_T=times)
