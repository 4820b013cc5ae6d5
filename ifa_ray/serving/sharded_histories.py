"""Histories in shards, each a Ray actor's, shared by all replicas: an extension (`store_class`).

An actor has its shard's name and belongs to nobody: whichever replica comes first starts it, the
others find it. One that dies is started again by Ray, with the calls that it was at; SQLite has
what was answered. One that no replica has asked for `RETIRE_S` ends itself. Without a resource all
shards lie on one node; with one, shard i lies on the node with the resource `NAME-i`.

Several replicas cache states of the users of a shard. An erasure reaches the replica that asked for
it; the others learn of it with the next history length that they read, before they use any state,
and at the latest when they ask for news. So each erasure has a number, each reader says up to which
it knows them, and is told the rest. A length waits until nobody erases the user, and is read
between two looks at the number, which must be equal; a read is refused if the user was erased
since.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import itertools
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ifa_ray.config import require
from ifa_ray.errors import ConfigError, IfaRayError, StoreError
from ifa_ray.schema import MAX_HISTORY, History
from ifa_ray.serving.sequence_store import (
    Append,
    Appended,
    ErasedMeanwhileError,
    SequenceStore,
    check_append,
    check_layout,
)

_REMEMBERED = 100_000
"""Erasures; a reader who is further behind is told that any user may have been erased."""


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


PATIENCE_S = 60.0
"""That a call waits for its shard, which may be restarting; then it is a `StoreError`."""
RETIRE_S = 60.0
"""Without a question. Replicas ask every `ifa_ray.serving.sharded_histories.REFRESH_S`."""

_NAMESPACE = "ifa_ray"
_THREADS = 8


class ShardActor:
    """An actor's body: opens its shard when it is first asked, and keeps errors' classes."""

    def __init__(
        self, folder: Path, number: int, count: int, max_bytes: int, retire_s: float
    ) -> None:
        """As for `HistoryShard`; nothing is opened yet, so that whoever asks hears what is wrong.

        Args:
            folder: as there.
            number: as there.
            count: as there.
            max_bytes: as there.
            retire_s: without a question, after which the actor ends itself.
        """
        self._settings = (folder, number, count, max_bytes)
        self._shard: HistoryShard | None = None
        self._opening = threading.Lock()
        self._heard_s = time.monotonic()
        threading.Thread(target=self._retire, args=(retire_s,), daemon=True).start()

    def ask(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """What a method of the shard returns, or the error of ours that it raises.

        Returned, because Ray would put its traceback in place of the message.
        """
        self._heard_s = time.monotonic()
        try:
            with self._opening:
                if self._shard is None:
                    self._shard = HistoryShard(*self._settings)
            return getattr(self._shard, method)(*arguments)
        except IfaRayError as error:
            return error

    def _retire(self, retire_s: float) -> None:
        while time.monotonic() < self._heard_s + retire_s:
            time.sleep(min(1.0, retire_s / 4))
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


class ActorShards:
    """The actors of a folder's shards, as `ifa_ray.serving.sharded_histories.Shards`."""

    def __init__(
        self, folder: Path, count: int, max_bytes: int, *, resource: str | None = None,
        retire_s: float = RETIRE_S,
    ) -> None:  # fmt: skip
        """Finds or starts them.

        Args:
            folder: of the shards, on the disk of the node where each lies.
            count: of shards.
            max_bytes: of all their files together, an equal part for each.
            resource: see above; None where Ray has one node.
            retire_s: as for `ShardActor`.

        Raises:
            ConfigError: without a resource on a cluster of several nodes.
        """
        check_place(resource, sum(node["Alive"] for node in ray.nodes()))
        self.count = count
        self._folder, self._resource = folder, resource
        self._max_bytes, self._retire_s = max_bytes // count, retire_s
        self._actors = [self._found_or_started(shard) for shard in range(count)]

    def ask(self, calls: Sequence[tuple[int, str, tuple[Any, ...]]]) -> list[Any]:
        """As `Shards.ask`; a shard that does not answer in `PATIENCE_S` is a `StoreError`."""
        deadline_s = time.monotonic() + PATIENCE_S
        asked = [self._actors[shard].ask.remote(method, given) for shard, method, given in calls]
        return [
            self._answer(call, reference, deadline_s)
            for call, reference in zip(calls, asked, strict=True)
        ]

    def close(self) -> None:
        """Nothing: other replicas may ask the actors, which end themselves."""

    def _answer(
        self, call: tuple[int, str, tuple[Any, ...]], reference: Any, until_s: float
    ) -> Any:
        shard, method, given = call
        reason = ""
        while (left_s := until_s - time.monotonic()) > 0:
            try:
                return ray.get(reference, timeout=left_s)
            except GetTimeoutError:
                break
            except RayActorError as error:  # it ended itself, or for good
                reason = f" {error}"
            time.sleep(0.1)
            self._actors[shard] = self._found_or_started(shard)
            reference = self._actors[shard].ask.remote(method, given)
        where = f"a node with {self._resource}-{shard}" if self._resource else "its node"
        return StoreError(
            f"shard {shard} of {self.count} in {self._folder}, on {where}, gave no answer in "
            f"{PATIENCE_S:g} s.{reason}"
        )

    def _found_or_started(self, shard: int) -> Any:
        if self._resource is None:
            node = ray.get_runtime_context().get_node_id()
            place = {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}
        else:
            place = {"resources": {f"{self._resource}-{shard}": 1e-4}}
        made = ray.remote(ShardActor).options(
            name=actor_name(self._folder, shard, self.count),
            namespace=_NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            max_restarts=-1,
            max_task_retries=-1,  # every call may be repeated: an append says where it begins
            max_concurrency=_THREADS,
            num_cpus=0,
            **place,
        )
        return made.remote(self._folder, shard, self.count, self._max_bytes, self._retire_s)


def check_place(resource: str | None, nodes: int) -> None:
    """Refuses shards that could come back on another node than the one with their file.

    Args:
        resource: of the nodes that shards lie on.
        nodes: of the cluster.

    Raises:
        ConfigError: without a resource on a cluster of several nodes.
    """
    if resource is None and nodes > 1:
        raise ConfigError(
            f"resource == None, must name a resource on a cluster of {nodes} nodes: a shard "
            "that came back on another node would find an empty disk."
        )


def actor_name(folder: Path, shard: int, count: int) -> str:
    """Of a shard's actor: applications that name the same folder share its shards."""
    return f"histories {folder} {shard}-of-{count}"


REFRESH_S = 2.0
"""Between two questions of a replica for erasures, where no request of a shard's user comes."""

_LOG = logging.getLogger(__name__)

Forget = Callable[[Callable[[int], bool]], None]
"""Drops the states of the users that a function says yes to."""


class Shards(Protocol):
    """The processes that own shards 0 to `count` - 1."""

    count: int

    def ask(self, calls: Sequence[tuple[int, str, tuple[Any, ...]]]) -> list[Any]:
        """Calls methods of `ifa_ray.serving.sharded_histories.HistoryShard`, all at once.

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


def shard_of(user_id: int, count: int) -> int:
    """The shard of a user, by rendezvous hashing. Files are laid out by it: it never changes."""

    def weight(shard: int) -> bytes:
        # A NUL between them, for "1" of "12" is not "11" of "2".
        return hashlib.blake2b(f"{shard}\0{user_id}".encode(), digest_size=8).digest()

    return int(max(range(count), key=weight))


class ShardedHistories(ShardedStore):
    """The store that `store_class` names: shards as Ray actors, for any number of replicas."""

    def __init__(
        self, location: str, max_bytes: int, *, shards: int = 2, resource: str | None = None
    ) -> None:
        """Opens the shards.

        Args:
            location: folder of the shards, on the disk of the node where each lies.
            max_bytes: of all files together.
            shards: fixed once histories are stored.
            resource: shard i lies on the node with Ray's resource `NAME-i`; None on one node.

        Raises:
            ConfigError: on a setting outside its rule, or another number of shards on disk.
        """
        require(1 <= shards <= 256, "shards", shards, "in [1, 256]")
        require(resource is None or Path(location).is_absolute(), "sequence_store", location,
                f"absolute with resource == {resource!r}: nodes' folders differ")  # fmt: skip
        super().__init__(
            ActorShards(Path(location).absolute(), shards, max_bytes, resource=resource)
        )
