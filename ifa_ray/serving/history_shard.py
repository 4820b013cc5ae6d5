"""One shard of the histories: a store on disk, and what its readers must know of erasures; no Ray.

Several replicas keep states of the users whose histories lie here. An erasure reaches the replica
that asked for it; the others learn of it with the next watermark that they read, before they use
any state, and at the latest when they ask for news. So each erasure has a number, each reader says
up to which it knows them, and is told the rest. Numbers are not on disk: after a restart a reader
is told that any user may have been erased, and makes states anew.

Why a request never mixes what was before an erasure with what came after: a watermark waits until
nobody erases the user, and is read between two looks at the number, which must be equal; a read is
refused if the user was erased since that number, or is being erased.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import re
import secrets
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from ifa_ray.errors import ConfigError, StoreError
from ifa_ray.schema import History
from ifa_ray.serving.appends import Append, Appended
from ifa_ray.serving.sequence_store import STORE_FILE, SequenceStore

__all__ = ["ErasedMeanwhileError", "HistoryShard", "News", "Seen", "check_layout", "shard_folder"]

_REMEMBERED = 100_000
"""Erasures; a reader who is further behind is told that any user may have been erased."""


class ErasedMeanwhileError(StoreError):
    """The user was erased between a watermark and the read that followed; both must be repeated."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """Up to which erasure a reader knows.

    Attributes:
        life: of the shard's process; another one counts anew.
        number: of the latest.
    """

    life: str
    number: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class News:
    """What a reader did not know yet.

    Attributes:
        seen: what it knows now.
        erased: users; None if it may be any user of the shard.
    """

    seen: Seen
    erased: tuple[int, ...] | None


class HistoryShard:
    """The histories of the users that belong to shard `number` of `count`."""

    def __init__(self, folder: Path, number: int, count: int, max_bytes: int) -> None:
        """Opens the shard's store, made where there is none.

        Args:
            folder: of all shards that lie on this disk.
            number: of this one, from 0.
            count: of shards.
            max_bytes: of this one's file.

        Raises:
            ConfigError: if the folder's histories are of another number of shards.
            StoreError: as `SequenceStore`.
        """
        check_layout(folder, count)
        self._store = SequenceStore(shard_folder(folder, number, count), max_bytes=max_bytes)
        self._life = secrets.token_hex(8)
        self._lock = threading.Lock()  # of these three, never held while the disk is
        self._number = 0
        self._erased: collections.deque[int] = collections.deque(maxlen=_REMEMBERED)
        self._erasing: collections.Counter[int] = collections.Counter()

    def append(self, appends: Sequence[Append]) -> list[Appended]:
        """As `SequenceStore.append`."""
        return self._store.append(appends)

    def watermark(self, user_id: int, at_ms: int | None, seen: Seen | None) -> tuple[int, News]:
        """As `SequenceStore.watermark`, and the erasures that the reader did not know."""
        while True:
            with self._lock:
                number, busy = self._number, self._erasing[user_id] > 0
            if busy:
                time.sleep(1e-3)
                continue
            found = self._store.watermark(user_id, at_ms)
            with self._lock:
                if self._number == number and not self._erasing[user_id]:
                    return found, self._news(seen)

    def read(self, user_id: int, since: int, limit: int, seen: Seen | None) -> History:
        """As `SequenceStore.read`.

        Args:
            user_id: of whom.
            since: of the first.
            limit: of how many.
            seen: as the watermark told before; None asks for what is there.

        Raises:
            ErasedMeanwhileError: if the user was erased since.
        """
        history = self._store.read(user_id, since, limit)
        if seen is not None:
            with self._lock:
                erased = self._news(seen).erased
                if erased is None or user_id in erased or self._erasing[user_id]:
                    raise ErasedMeanwhileError(f"user {user_id} was erased during the request.")
        return history

    def extent(self, user_id: int) -> tuple[int, int | None]:
        """As `SequenceStore.extent`."""
        return self._store.extent(user_id)

    def erase(self, user_id: int) -> int:
        """As `SequenceStore.erase`; readers learn of it."""
        with self._lock:
            self._erasing[user_id] += 1
        try:
            return self._store.erase(user_id)
        finally:  # after an error too: the user may be gone, and only the log not emptied
            with self._lock:
                self._erasing[user_id] -= 1
                self._erasing += collections.Counter()  # without those of zero
                self._erased.append(user_id)
                self._number += 1

    def news(self, seen: Seen | None) -> News:
        """The erasures that a reader did not know."""
        with self._lock:
            return self._news(seen)

    def close(self) -> None:
        """Gives the store up."""
        self._store.close()

    def _news(self, seen: Seen | None) -> News:
        now = Seen(life=self._life, number=self._number)
        if seen is None or seen.life != self._life:
            return News(seen=now, erased=None)
        missed = self._number - seen.number
        if missed > len(self._erased):
            return News(seen=now, erased=None)
        first = len(self._erased) - missed
        return News(seen=now, erased=tuple(itertools.islice(self._erased, first, None)))


def shard_folder(folder: Path, number: int, count: int) -> Path:
    """Where a shard lies."""
    return folder / f"shard={number}-of-{count}"


def check_layout(folder: Path, count: int | None) -> None:
    """Refuses a folder whose histories are spread otherwise: they are not moved between shards.

    Args:
        folder: of the histories; there may be none yet.
        count: of shards; None is one store without.

    Raises:
        ConfigError: naming what it was.
    """
    found: set[int | None] = {
        int(match[1])
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := re.fullmatch(r"shard=\d+-of-(\d+)", path.name))
    }
    if (folder / STORE_FILE).exists():
        found.add(None)
    for other in found - {count}:
        raise ConfigError(
            f"store_shards == {count}, must be {other}: {folder} holds histories that are spread "
            "so, and they are not moved. Keep the number, or name another folder."
        )
