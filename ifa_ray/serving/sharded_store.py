"""Histories in several shards, each another process's, as one `HistoryStore`; no Ray.

Knows which user belongs to which shard, and what a replica must forget when another one erased
somebody. How a shard is reached is `Shards`' affair: `ifa_ray.serving.shard_actors` does it by Ray.

A call that names users of several shards is stored shard by shard: if one refuses, what the others
stored stays. Appends may be repeated, so whoever was refused repeats the whole call, corrected.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, Protocol

from ifa_ray.errors import IfaRayError
from ifa_ray.schema import MAX_HISTORY, History
from ifa_ray.serving.appends import Append, Appended, check_append
from ifa_ray.serving.history_shard import News, Seen
from ifa_ray.serving.placement import shard_of

__all__ = ["REFRESH_S", "ShardedStore", "Shards"]

REFRESH_S = 2.0
"""Between two questions of a replica for erasures, where no request of a shard's user comes."""

_LOG = logging.getLogger(__name__)

Forget = Callable[[Callable[[int], bool]], None]
"""Drops the states of the users that a function says yes to."""


class Shards(Protocol):
    """The processes that own shards 0 to `count` - 1."""

    count: int

    def ask(self, calls: Sequence[tuple[int, str, tuple[Any, ...]]]) -> list[Any]:
        """Calls methods of `ifa_ray.serving.history_shard.HistoryShard`, all at once.

        Args:
            calls: shard, method and arguments of each.

        Returns:
            What each returned, or the `IfaRayError` that it raised.
        """
        ...

    def close(self) -> None:
        """Lets go of the shards, which other replicas may still need."""
        ...


class ShardedStore:
    """A `HistoryStore` over shards. Any thread may call anything but `watermark`.

    `watermark` forgets states, and so is for the one thread that ranks: a state that another
    thread is about to store would come back.
    """

    def __init__(self, shards: Shards) -> None:
        """Asks every shard whether it is there.

        Raises:
            ConfigError, StoreError: if one is not, or cannot open its store.
        """
        self._shards = shards
        self._forget: Forget = lambda _: None
        self._of_thread = threading.local()
        self._closed = threading.Event()
        self._refreshing: threading.Thread | None = None
        self._seen: list[Seen] = [news.seen for news in self._of_all("news", None)]

    def attend(self, forget: Forget, run: Callable[[Callable[[], None]], Future[None]]) -> None:
        """Has states forgotten from now on whose users were erased by anybody.

        Args:
            forget: the states.
            run: has a function run by the thread that ranks.
        """
        self._forget = forget
        self._refreshing = threading.Thread(
            target=self._keep_up, args=(run,), name="erasures", daemon=True
        )
        self._refreshing.start()

    def append(self, appends: Sequence[Append]) -> list[Appended]:
        """As `HistoryStore.append`, but of each shard all or none."""
        for one in appends:
            check_append(one)
        places: dict[int, list[int]] = {}
        for place, one in enumerate(appends):
            places.setdefault(self._shard(one.user_id), []).append(place)
        answers = self._all(
            [(shard, "append", ([appends[i] for i in found],)) for shard, found in places.items()]
        )
        done: dict[int, Appended] = {}
        for found, answer in zip(places.values(), answers, strict=True):
            done.update(zip(found, answer, strict=True))
        return [done[place] for place in range(len(appends))]

    def watermark(self, user_id: int, at_ms: int | None = None) -> int:
        """As `HistoryStore.watermark`; forgets whose erasure it hears of."""
        shard = self._shard(user_id)
        watermark, news = self._one(shard, "watermark", user_id, at_ms, self._seen[shard])
        self._heed(shard, news)
        self._of_thread.told = (user_id, news.seen)
        return int(watermark)

    def read(self, user_id: int, since: int = 0, limit: int = MAX_HISTORY) -> History:
        """As `HistoryStore.read`.

        Raises:
            ErasedMeanwhileError: if the user was erased since this thread's watermark of them.
        """
        told, self._of_thread.told = getattr(self._of_thread, "told", None), None
        seen = told[1] if told is not None and told[0] == user_id else None
        history = self._one(self._shard(user_id), "read", user_id, since, limit, seen)
        # Copies: what came is read-only, and would hold its place in the object store.
        return History(
            ids_T=history.ids_T.copy(),
            actions_T=history.actions_T.copy(),
            times_ms_T=history.times_ms_T.copy(),
        )

    def extent(self, user_id: int) -> tuple[int, int | None]:
        """As `HistoryStore.extent`."""
        watermark, last_ms = self._one(self._shard(user_id), "extent", user_id)
        return watermark, last_ms

    def erase(self, user_id: int) -> int:
        """As `HistoryStore.erase`; other replicas' states go within `REFRESH_S` and their call."""
        return int(self._one(self._shard(user_id), "erase", user_id))

    def close(self) -> None:
        """Lets go of the shards; they and the histories stay."""
        self._closed.set()
        if self._refreshing is not None:
            self._refreshing.join()
        self._shards.close()

    def _keep_up(self, run: Callable[[Callable[[], None]], Future[None]]) -> None:
        while not self._closed.wait(REFRESH_S):
            try:
                before = list(self._seen)
                found = self._all([(shard, "news", (seen,)) for shard, seen in enumerate(before)])
                run(functools.partial(self._take, before, found)).result()
            except IfaRayError as error:
                _LOG.warning("asks again for erasures: %s", error)
            except (RuntimeError, CancelledError):  # the thread that ranks has ended
                return

    def _take(self, before: list[Seen], found: list[News]) -> None:
        for shard, news in enumerate(found):
            if self._seen[shard] == before[shard]:  # else a watermark has told meanwhile
                self._heed(shard, news)

    def _heed(self, shard: int, news: News) -> None:
        if news.erased is None:
            self._forget(lambda user_id: self._shard(user_id) == shard)
        elif news.erased:
            self._forget(set(news.erased).__contains__)
        self._seen[shard] = news.seen

    def _shard(self, user_id: int) -> int:
        return shard_of(user_id, self._shards.count)

    def _one(self, shard: int, method: str, *arguments: Any) -> Any:
        (answer,) = self._all([(shard, method, arguments)])
        return answer

    def _of_all(self, method: str, *arguments: Any) -> list[Any]:
        return self._all([(shard, method, arguments) for shard in range(self._shards.count)])

    def _all(self, calls: Sequence[tuple[int, str, tuple[Any, ...]]]) -> list[Any]:
        answers = self._shards.ask(calls)
        for answer in answers:
            if isinstance(answer, IfaRayError):
                raise answer
        return answers
