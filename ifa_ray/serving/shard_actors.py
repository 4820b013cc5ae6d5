"""Shards of the histories as Ray actors: who starts them, where, and what becomes of one that dies.

An actor has its shard's name and belongs to nobody: whichever replica comes first starts it, the
others find it, and so do later deployments. One that dies is started again by Ray, with the calls
that it was at; SQLite has what was answered. One that no replica has asked for `RETIRE_S` ends
itself, and the next question starts it anew. Two can never own one shard, for the store has a lock.

A shard must come back where its file is. Without a resource all shards lie on the node of the
replica that started them, and clusters of several nodes are refused; with one, shard i lies on the
node that says it has the resource `NAME-i` (`ray start --resources '{"NAME-0": 1}'`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ifa_ray.errors import ConfigError, IfaRayError, StoreError
from ifa_ray.serving.history_shard import HistoryShard

__all__ = ["PATIENCE_S", "RETIRE_S", "ActorShards", "ShardActor", "actor_name", "check_place"]

PATIENCE_S = 60.0
"""That a call waits for its shard, which may be restarting; then it is a `StoreError`."""
RETIRE_S = 60.0
"""Without a question. Replicas ask every `ifa_ray.serving.sharded_store.REFRESH_S`."""

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
    """The actors of a folder's shards, as `ifa_ray.serving.sharded_store.Shards`."""

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
            f"store_resource == None, must name a resource on a cluster of {nodes} nodes: a shard "
            "that came back on another node would find an empty disk."
        )


def actor_name(folder: Path, shard: int, count: int) -> str:
    """Of a shard's actor: applications that name the same folder share its shards."""
    return f"histories {folder} {shard}-of-{count}"
