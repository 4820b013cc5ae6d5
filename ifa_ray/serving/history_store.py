"""The interface of a history store, and the one that an application's settings name.

Ours keeps histories on disk in SQLite; a platform's own is a class of the same methods, named in
the settings (`store_class`), as is `ifa_ray.serving.sharded_histories`. No Ray, HTTP or ranker.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ifa_ray.config import require
from ifa_ray.plugins import load_store_class
from ifa_ray.schema import MAX_HISTORY, History
from ifa_ray.serving.sequence_store import Append, Appended, SequenceStore, check_layout
from ifa_ray.serving.settings import AppSettings


class HistoryStore(Protocol):
    """Users' histories, each a list that only grows until it is erased.

    Impression i of a user is the same whenever it is read: cached attention states rest on that. A
    store that several replicas share may have `attend(forget, run)` besides, to have the states of
    erased users forgotten (`ifa_ray.serving.sharded_histories`). Several threads of a replica call
    at once. Errors: `RequestError` where the caller is wrong, `StoreError` where the store is.
    """

    def append(self, appends: Sequence[Append]) -> list[Appended]:
        """Stores all of a call or none; what is stored already is compared, not stored twice.

        Raises:
            RequestError: if an append breaks a rule (`sequence_store.check_append`), or none can
                be appended here.
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
        ConfigError: if a custom class cannot be imported, or lacks a method; if the folder's
            histories are spread over shards.
        StoreError: if the store cannot be opened.
    """
    if settings.sequence_store is None:
        return None
    if settings.store_class is None:
        check_layout(Path(settings.sequence_store), None)
        return SequenceStore(Path(settings.sequence_store), max_bytes=settings.store_bytes)
    store: HistoryStore = load_store_class(settings.store_class)(
        location=settings.sequence_store,
        max_bytes=settings.store_bytes,
        **(settings.store_options or {}),
    )
    attends = hasattr(store, "attend")
    require(
        attends or not settings.state_bytes or settings.num_replicas == 1,
        "state_bytes",
        settings.state_bytes,
        f"0 with num_replicas == {settings.num_replicas} and a store "
        "without `attend`: an erasure would reach the states of one replica alone",
    )
    return store
