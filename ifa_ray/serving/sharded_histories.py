"""Histories in shards, each a Ray actor's, shared by all replicas: an extension (`store_class`).

An actor has its shard's name: whichever replica comes first starts it, the others find it. One that
dies is started again by Ray, with the calls that it was at; one whose replica dies is started again
by whoever asks next. Every call may be repeated, and SQLite has what was answered. Without a
resource all shards lie on one node; with one, shard i lies on the node with the resource `NAME-i`.

Several replicas cache states of the users of a shard; a user's generation (`Watermark`) tells them
that a state is of before an erasure.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ifa_ray.config import require
from ifa_ray.errors import IfaRayError, StoreError
from ifa_ray.schema import MAX_HISTORY, History
from ifa_ray.serving.sequence_store import (
    Append,
    Appended,
    SequenceStore,
    Watermark,
    check_append,
    check_layout,
    joined,
)

PATIENCE_S = 60.0
"""That a call waits for its shard, which may be restarting; then it is a `StoreError`."""

_NAMESPACE = "ifa_ray"
_THREADS = 8

_Call = tuple[int, str, tuple[Any, ...]]
"""Shard, method of `SequenceStore`, arguments."""


class ShardActor:
    """An actor's body: opens its shard when it is first asked, so that the caller hears errors."""

    def __init__(self, folder: Path, number: int, count: int, max_bytes: int) -> None:
        self._folder, self._number, self._count = folder, number, count
        self._max_bytes = max_bytes
        self._store: SequenceStore | None = None
        self._opening = threading.Lock()

    def ask(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """The result of a method of the store, or the error of ours that it raises.

        Returned, because Ray would put its traceback in place of the message.
        """
        try:
            with self._opening:
                if self._store is None:
                    check_layout(self._folder, self._count)
                    folder = shard_folder(self._folder, self._number, self._count)
                    self._store = SequenceStore(folder, max_bytes=self._max_bytes)
            return getattr(self._store, method)(*arguments)
        except IfaRayError as error:
            return error


def shard_folder(folder: Path, number: int, count: int) -> Path:
    """Where a shard lies."""
    return folder / f"shard={number}-of-{count}"


def shard_of(user_id: int, count: int) -> int:
    """The shard of a user, by rendezvous hashing. Files are laid out by it: it never changes."""

    def weight(shard: int) -> bytes:
        # A NUL between them, for "1" of "12" is not "11" of "2".
        return hashlib.blake2b(f"{shard}\0{user_id}".encode(), digest_size=8).digest()

    return int(max(range(count), key=weight))


class ShardedHistories:
    """A `HistoryStore` over shards, for any number of replicas."""

    def __init__(
        self, location: str, max_bytes: int, *, shards: int = 2, resource: str | None = None
    ) -> None:
        """Finds or starts the shards, and asks each whether it can open its store.

        Args:
            location: folder of the shards, on the disk of the node where each lies.
            max_bytes: of all files together.
            shards: fixed once histories are stored.
            resource: shard i lies on the node with Ray's resource `NAME-i`; None on one node.
        """
        require(1 <= shards <= 256, "shards", shards, "in [1, 256]")
        rule = f"absolute with resource == {resource!r}: nodes' folders differ"
        require(resource is None or Path(location).is_absolute(), "sequence_store", location, rule)
        self._folder, self._count, self._resource = Path(location).absolute(), shards, resource
        self._max_bytes = max_bytes // shards
        self._actors = [self._actor(shard) for shard in range(shards)]
        self._ask([(shard, "watermark", (0,)) for shard in range(shards)])

    def append(self, appends: Sequence[Append]) -> list[Appended]:
        """As `HistoryStore.append`, but of each shard all or none."""
        for one in appends:
            check_append(one)
        places: dict[int, list[int]] = {}
        for place, one in enumerate(appends):
            places.setdefault(shard_of(one.user_id, self._count), []).append(place)
        answers = self._ask(
            [(shard, "append", ([appends[i] for i in found],)) for shard, found in places.items()]
        )
        done: dict[int, Appended] = {}
        for found, answer in zip(places.values(), answers, strict=True):
            done.update(zip(found, answer, strict=True))
        return [done[place] for place in range(len(appends))]

    def watermark(self, user_id: int, at_ms: int | None = None) -> Watermark:
        """As `HistoryStore.watermark`."""
        return Watermark(*self._ask_one("watermark", user_id, at_ms))

    def read(
        self, user_id: int, begin: int = 0, stop: int = MAX_HISTORY, generation: int | None = None
    ) -> History:
        """As `HistoryStore.read`."""
        # A copy: what came is read-only, and would hold its place in the object store.
        return joined([self._ask_one("read", user_id, begin, stop, generation)])

    def erase(self, user_id: int) -> int:
        """As `HistoryStore.erase`."""
        return int(self._ask_one("erase", user_id))

    def close(self) -> None:
        """Nothing: other replicas may ask the shards, which end with whoever began them."""

    def _ask_one(self, method: str, user_id: int, *arguments: Any) -> Any:
        (found,) = self._ask([(shard_of(user_id, self._count), method, (user_id, *arguments))])
        return found

    def _ask(self, calls: Sequence[_Call]) -> list[Any]:
        """The answers to some calls, all at once; raises the first error among them."""
        until_s = time.monotonic() + PATIENCE_S
        asked = [self._actors[shard].ask.remote(method, given) for shard, method, given in calls]
        pairs = zip(calls, asked, strict=True)
        answers = [self._answer(call, reference, until_s) for call, reference in pairs]
        for answer in answers:
            if isinstance(answer, IfaRayError):
                raise answer
        return answers

    def _answer(self, call: _Call, reference: Any, until_s: float) -> Any:
        shard, method, given = call
        reason = ""
        while (left_s := until_s - time.monotonic()) > 0:
            try:
                return ray.get(reference, timeout=left_s)
            except GetTimeoutError:
                break
            except RayActorError as error:  # it ended with its replica, or for good
                reason = f" {error}"
            time.sleep(0.1)
            self._actors[shard] = self._actor(shard)
            reference = self._actors[shard].ask.remote(method, given)
        where = f"a node with {self._resource}-{shard}" if self._resource else "its node"
        return StoreError(
            f"shard {shard} of {self._count} in {self._folder}, on {where}, gave no answer in "
            f"{PATIENCE_S:g} s.{reason}"
        )

    def _actor(self, shard: int) -> Any:
        """The shard's actor, started if there is none."""
        if self._resource is None:
            nodes = sum(node["Alive"] for node in ray.nodes())
            rule = f"set on a cluster of {nodes} nodes: on another one a shard finds an empty disk"
            require(nodes == 1, "resource", None, rule)
            node = ray.get_runtime_context().get_node_id()
            place = {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}
        else:
            place = {"resources": {f"{self._resource}-{shard}": 1e-4}}
        made = ray.remote(ShardActor).options(
            # Applications that name the same folder share its shards.
            name=f"histories {self._folder} {shard}-of-{self._count}",
            namespace=_NAMESPACE,
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=-1,  # every call may be repeated: an append says where it begins
            max_concurrency=_THREADS,
            num_cpus=0,
            **place,
        )
        return made.remote(self._folder, shard, self._count, self._max_bytes)
