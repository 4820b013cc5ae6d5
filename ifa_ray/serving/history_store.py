"""What a store of histories must do, whoever wrote it, and which one an application has.

`ifa_ray.serving.sequence_store` is ours, and `ifa_ray.serving.sharded_store` puts several of them
into one. One of a platform's own is a class of these methods, named in the settings; no Ray, no
HTTP, no ranker.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ifa_ray.plugins import load_store_class
from ifa_ray.schema import MAX_HISTORY, History
from ifa_ray.serving.appends import Append, Appended
from ifa_ray.serving.history_shard import check_layout
from ifa_ray.serving.sequence_store import SequenceStore
from ifa_ray.serving.settings import AppSettings
from ifa_ray.serving.sharded_store import ShardedStore

__all__ = ["HistoryStore", "open_store"]


class HistoryStore(Protocol):
    """Users' histories, each a list that only grows until it is erased.

    Behaviour i of a user is the same whenever it is read: sequence states, and what a shadow logs,
    rest on that. Several threads of a replica call at once. Errors are those of `ifa_ray.errors`:
    `RequestError` where the caller is wrong, `StoreError` where the store is.
    """

    def append(self, appends: Sequence[Append]) -> list[Appended]:
        """Stores all of a call or none; what is stored already is compared, not stored twice.

        Raises:
            RequestError: if an append breaks a rule (`ifa_ray.serving.appends.check_append`), or
                none can be appended here.
            SequenceConflictError: if it does not follow what is stored.
            StoreError: if it cannot be stored.
        """
        ...

    def watermark(self, user_id: int, at_ms: int | None = None) -> int:
        """How many behaviours are stored; those alone that had happened by `at_ms`, if given."""
        ...

    def read(self, user_id: int, since: int = 0, limit: int = MAX_HISTORY) -> History:
        """Behaviours [since, since + limit), as far as they are stored, oldest first."""
        ...

    def extent(self, user_id: int) -> tuple[int, int | None]:
        """The watermark, and when the last behaviour happened: None of a user without any."""
        ...

    def erase(self, user_id: int) -> int:
        """Removes a user; returns how many behaviours there were."""
        ...

    def close(self) -> None:
        """Gives up what it holds; nothing is called after it."""
        ...


def open_store(settings: AppSettings) -> HistoryStore | None:
    """The store that the settings name; None where they name none.

    Raises:
        ConfigError: if a class of one's own cannot be imported, or lacks a method; if the folder's
            histories are spread over another number of shards.
        StoreError: if the store cannot be opened.
    """
    if settings.sequence_store is None:
        return None
    if settings.store_class is None:
        folder = Path(settings.sequence_store)
        if settings.store_shards is not None:
            from ifa_ray.serving.shard_actors import ActorShards

            return ShardedStore(
                ActorShards(
                    folder.absolute(),
                    settings.store_shards,
                    settings.store_bytes,
                    resource=settings.store_resource,
                )
            )
        check_layout(folder, None)
        return SequenceStore(folder, max_bytes=settings.store_bytes)
    made: HistoryStore = load_store_class(settings.store_class)(
        location=settings.sequence_store, max_bytes=settings.store_bytes
    )
    return made
