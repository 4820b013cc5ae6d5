"""Growing histories of many users in flat columns; knows numpy only.

The user shards and the trainer both rebuild a request's history from (user, watermark) here.
"""

from __future__ import annotations

import mmap
from pathlib import Path

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


BLOCK = 512
"""Impressions per block."""

_COLUMNS = {"ids": np.int32, "actions": np.uint8, "time_low": np.uint32, "time_high": np.uint16}
_TIME_LIMIT_MS = 1 << 48


class HistoryBlocks:
    """Every user's impressions, oldest first, appended in place.

    Appending n impressions costs O(n) in all; views are copies.

    Args:
        folder: where the columns are kept as files, made if it is absent and overwritten if not;
            None keeps them in memory. The files are a cache of a log: nothing reads them again.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for name in _COLUMNS:
                (folder / name).write_bytes(b"")
        self._slot_of: dict[int, int] = {}
        self._length_S = np.zeros(0, np.int64)
        self._blocks_SB = np.zeros((0, 0), np.int32)
        self._num_blocks = 0
        self._columns = {name: np.empty(0, dtype) for name, dtype in _COLUMNS.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks in use, their unfilled places included, and of the tables."""
        per_block = BLOCK * sum(np.dtype(dtype).itemsize for dtype in _COLUMNS.values())
        return self._num_blocks * per_block + self._length_S.nbytes + self._blocks_SB.nbytes

    def length(self, user_id: int) -> int:
        """The user's watermark: how many impressions are stored."""
        slot = self._slot_of.get(user_id)
        return 0 if slot is None else int(self._length_S[slot])

    def lengths(self, user_ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        """The watermarks of some users."""
        return self._lengths(self._slots(user_ids))

    def append(
        self,
        user_id: int,
        ids: npt.NDArray[np.int32],
        actions: npt.NDArray[np.uint8],
        times_ms: npt.NDArray[np.int64],
    ) -> None:
        """Appends one user's impressions, oldest first."""
        self.append_sorted(np.full(len(ids), user_id), ids, actions, times_ms)

    def append_sorted(
        self,
        user_ids: npt.NDArray[np.int32],
        ids: npt.NDArray[np.int32],
        actions: npt.NDArray[np.uint8],
        times_ms: npt.NDArray[np.int64],
    ) -> None:
        """Appends many users' impressions; rows in order of time for each user, users in any.

        Raises:
            LogError: if a time is negative or past the year 10889: it would not come back.
        """
        if len(user_ids) == 0:
            return
        if times_ms.min() < 0 or times_ms.max() >= _TIME_LIMIT_MS:
            raise LogError(
                f"time_ms in [{times_ms.min()}, {times_ms.max()}], "
                f"must be in [0, {_TIME_LIMIT_MS})."
            )
        order = np.argsort(user_ids, kind="stable")
        users, starts, counts = np.unique(user_ids[order], return_index=True, return_counts=True)
        slot_U = self._slots(users)
        for row in np.flatnonzero(slot_U < 0).tolist():
            slot_U[row] = self._slot_of[int(users[row])] = len(self._slot_of)
        before_U = self._reserve(slot_U, counts)
        place_P = np.arange(len(order)) + np.repeat(before_U - starts, counts)
        block_P = self._blocks_SB[np.repeat(slot_U, counts), place_P // BLOCK]
        at_P = block_P * np.int64(BLOCK) + place_P % BLOCK
        times_P = times_ms[order]
        self._columns["ids"][at_P] = ids[order]
        self._columns["actions"][at_P] = actions[order]
        self._columns["time_low"][at_P] = times_P & 0xFFFFFFFF
        self._columns["time_high"][at_P] = times_P >> 32

    def view(self, user_id: int, watermark: int | None = None, limit: int | None = None) -> History:
        """The user's first `watermark` impressions (all by default), the latest `limit` of them.

        Raises:
            LogError: if fewer than `watermark` impressions are stored.
        """
        length = self.length(user_id)
        stop = length if watermark is None else watermark
        if stop > length:
            raise LogError(f"watermark == {stop} of user {user_id}, must be <= {length} stored.")
        start = 0 if limit is None else max(0, stop - limit)
        if start >= stop:
            return History.empty()
        first, last = start // BLOCK, -(-stop // BLOCK)
        blocks_B = self._blocks_SB[self._slot_of[user_id], first:last]
        part = slice(start - first * BLOCK, stop - first * BLOCK)
        high_T = self._of_blocks("time_high", blocks_B).ravel()[part].astype(np.int64)
        return History(
            ids_T=self._of_blocks("ids", blocks_B).ravel()[part],
            actions_T=self._of_blocks("actions", blocks_B).ravel()[part],
            times_ms_T=high_T << 32 | self._of_blocks("time_low", blocks_B).ravel()[part],
        )

    def latest_ids(self, user_ids: npt.NDArray[np.int32], limit: int) -> npt.NDArray[np.int32]:
        """The latest `limit` ids of each user, oldest first, int32 [U, W], -1 padded at the end.

        W is `limit`, or the longest history if that is shorter.
        """
        slot_U = self._slots(user_ids)
        length_U = self._lengths(slot_U)
        width = min(limit, int(length_U.max(initial=0)))
        if width == 0:
            return np.empty((len(slot_U), 0), np.int32)
        blocks_UB = self._blocks_SB[slot_U, : -(-width // BLOCK)]
        ids_UW = self._of_blocks("ids", blocks_UB).reshape(len(slot_U), -1)[:, :width]
        ids_UW[np.arange(width) >= length_U[:, None]] = -1
        for row in np.flatnonzero(length_U > width).tolist():
            ids_UW[row] = self.view(int(user_ids[row]), limit=width).ids_T
        return ids_UW

    def window(
        self, user_ids: npt.NDArray[np.int32], width: int
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Ids and actions of each user's latest impressions, [U, W], the very latest last.

        The third array says which places are impressions; users with fewer have none at the front.
        """
        slot_U = self._slots(user_ids)
        length_U = self._lengths(slot_U)
        place_UW = length_U[:, None] - width + np.arange(width)
        known_UW = place_UW >= 0
        if not known_UW.any():
            shape = known_UW.shape
            return np.zeros(shape, np.int32), np.zeros(shape, np.uint8), known_UW
        place_UW = np.maximum(place_UW, 0)
        block_UW = self._blocks_SB[slot_U[:, None], place_UW // BLOCK]
        at_UW = block_UW * np.int64(BLOCK) + place_UW % BLOCK
        return self._columns["ids"][at_UW], self._columns["actions"][at_UW], known_UW

    def flat(
        self, user_ids: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
        """Lengths [U], then ids and actions [P] of all that some users have seen, user by user."""
        slot_U = self._slots(user_ids)
        length_U = self._lengths(slot_U)
        blocks_U = -(-length_U // BLOCK)
        nth_B = np.arange(blocks_U.sum()) - np.repeat(np.cumsum(blocks_U) - blocks_U, blocks_U)
        block_B = self._blocks_SB[np.repeat(slot_U, blocks_U), nth_B]
        filled_B = np.minimum(np.repeat(length_U, blocks_U) - nth_B * BLOCK, BLOCK)
        real_BX = np.arange(BLOCK) < filled_B[:, None]
        ids_P = self._of_blocks("ids", block_B)[real_BX]
        return length_U, ids_P, self._of_blocks("actions", block_B)[real_BX]

    def _slots(self, user_ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        """Rows of the tables, -1 for users of whom nothing is stored."""
        find = self._slot_of.get
        slots = (find(user, -1) for user in np.asarray(user_ids).tolist())
        return np.fromiter(slots, np.int64, len(user_ids))

    def _lengths(self, slot_U: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        length_U = np.zeros(len(slot_U), np.int64)
        length_U[slot_U >= 0] = self._length_S[slot_U[slot_U >= 0]]
        return length_U

    def _of_blocks(self, name: str, blocks: npt.NDArray[np.int32]) -> npt.NDArray:
        return self._columns[name].reshape(-1, BLOCK)[blocks]

    def _reserve(
        self, slot_U: npt.NDArray[np.int64], count_U: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Makes room for more impressions of some users; returns their lengths before."""
        if len(self._slot_of) > len(self._length_S):
            self._grow_tables(2 * len(self._slot_of), self._blocks_SB.shape[1])
        before_U = self._length_S[slot_U]
        after_U = before_U + count_U
        had_U, need_U = -(-before_U // BLOCK), -(-after_U // BLOCK)
        if need_U.max() > self._blocks_SB.shape[1]:
            self._grow_tables(len(self._length_S), int(1.25 * need_U.max()) + 1)
        new_U = need_U - had_U
        total = int(new_U.sum())
        nth_B = np.arange(total) - np.repeat(np.cumsum(new_U) - new_U, new_U)
        self._blocks_SB[np.repeat(slot_U, new_U), np.repeat(had_U, new_U) + nth_B] = (
            self._num_blocks + np.arange(total)
        )
        self._num_blocks += total
        if self._num_blocks * BLOCK > len(self._columns["ids"]):
            self._grow_columns(max(16, 2 * self._num_blocks) * BLOCK)
        self._length_S[slot_U] = after_U
        return before_U

    def _grow_tables(self, slots: int, blocks: int) -> None:
        length_S, blocks_SB = np.zeros(slots, np.int64), np.zeros((slots, blocks), np.int32)
        old_slots, old_blocks = self._blocks_SB.shape
        length_S[:old_slots] = self._length_S
        blocks_SB[:old_slots, :old_blocks] = self._blocks_SB
        self._length_S, self._blocks_SB = length_S, blocks_SB

    def _grow_columns(self, size: int) -> None:
        # Pages that nobody has written cost nothing yet, in memory and in a file alike.
        for name, dtype in _COLUMNS.items():
            if self._folder is None:
                grown = np.empty(size, dtype)
                grown[: len(self._columns[name])] = self._columns[name]
            else:  # the same pages, mapped once more: nothing is copied
                grown = _mapped(self._folder / name, size * np.dtype(dtype).itemsize).view(dtype)
            self._columns[name] = grown


def _mapped(path: Path, size: int) -> npt.NDArray[np.uint8]:
    """A file as an array of so many bytes; what is beyond its end is added as zeros."""
    with path.open("r+b") as file:
        file.truncate(size)
        pages = mmap.mmap(file.fileno(), size)
    if hasattr(mmap, "MADV_RANDOM"):  # a history is many short pieces: reading ahead is waste
        pages.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(pages, np.uint8)
