"""Histories of many episodes at once, of which two may be the same user's same future.

Knows shards' histories, in whatever store a shard keeps them; nothing of what is in them. A store
is keyed by id, and two rows that were reset with one seed have one id: they are kept in different
shards.

Letters: B rows (episodes side by side), R some of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ifa_ray.schema import History
from simulator.world import ShardState

__all__ = ["RowHistories"]

# Finished episodes stay in their store until they are this many times the rows.
DEAD_PER_ROW = 4


class RowHistories:
    """The histories of B rows, in as many shards as the most frequent id needs: usually one.

    A store forgets nothing, so now and then all that lives is copied to new ones: O(1) amortised
    per episode, and memory for at most `DEAD_PER_ROW` + 1 episodes a row.

    Args:
        num_rows: B.
        new_shard: makes a shard of nobody, whose histories are empty; only these are used.
    """

    def __init__(self, num_rows: int, new_shard: Callable[[], ShardState]) -> None:
        self._new_shard = new_shard
        self._key_B = np.full(num_rows, -1, np.int64)
        self._layer_B = np.zeros(num_rows, np.int64)
        self._shards: list[ShardState] = []
        self._dead = 0

    def begin(
        self,
        rows: npt.NDArray[np.int64],
        key_R: npt.NDArray[np.int32],
        histories: Sequence[History],
    ) -> None:
        """Starts new episodes in some rows with histories that were lived before; copied."""
        self._dead += int((self._key_B[rows] >= 0).sum())
        self._key_B[rows] = -1
        stale = any(shard.histories.length(int(key)) for shard in self._shards for key in key_R)
        if stale or self._dead > DEAD_PER_ROW * len(self._key_B):
            self._rebuild()
        for row, key, history in zip(rows.tolist(), key_R.tolist(), histories, strict=True):
            self._add(row, key, history)

    def passes(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[np.ndarray, ShardState]]:
        """The rows in parts without equal ids, each with the shard that holds its histories."""
        for layer, shard in enumerate(self._shards):
            part = rows[self._layer_B[rows] == layer]
            if len(part):
                yield part, shard

    def view(self, row: int, limit: int | None = None) -> History:
        """A row's latest `limit` impressions, all by default."""
        shard = self._shards[self._layer_B[row]]
        return shard.histories.view(int(self._key_B[row]), limit=limit)

    def _add(self, row: int, key: int, history: History) -> None:
        taken = set(self._layer_B[self._key_B == key].tolist())
        layer = next(i for i in range(len(taken) + 1) if i not in taken)
        if layer == len(self._shards):
            self._shards.append(self._new_shard())
        self._key_B[row], self._layer_B[row] = key, layer
        store = self._shards[layer].histories
        store.append(key, history.ids_T, history.actions_T, history.times_ms_T)

    def _rebuild(self) -> None:
        """Copies what lives to new stores."""
        live = np.flatnonzero(self._key_B >= 0)
        kept = [self.view(row) for row in live.tolist()]
        keys = self._key_B[live].tolist()
        self._shards, self._dead = [], 0
        self._key_B[live] = -1
        for row, key, history in zip(live.tolist(), keys, kept, strict=True):
            self._add(row, key, history)
