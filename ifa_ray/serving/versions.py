"""The versions of one model that a replica holds, and the one check of requests and answers.

Knows versions and rankers as values: no Ray, no event loop, no files. `load` may block and is
called from any thread; `find` never blocks.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence

from ifa_ray.errors import CheckpointError, RankerError
from ifa_ray.ranking.ranker import Ranker
from ifa_ray.schema import RankRequest, RankResponse, validate_request, validate_response


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """One version in memory."""

    version: int
    ranker: Ranker


class Slot:
    """The newest version of one model in memory, and the older one that late requests still need.

    In a simulation a day's requests must be scored by its version even when a newer one is here
    (`exact`), or the log would depend on which came first. Both are held by one reference that is
    replaced whole, so a reader sees the versions before a swap or after it, never between. The
    newest version never goes back.
    """

    def __init__(
        self, first: Loaded, load_version: Callable[[int], Ranker] | None = None, name: str = "slot"
    ) -> None:
        """Opens the slot with one version; without `load_version` it is fixed to that."""
        self._held: tuple[Loaded, ...] = (first,)  # newest first
        self._load_version = load_version
        self._lock = threading.Lock()
        self._name = name

    @property
    def newest(self) -> Loaded:
        """The version that answers a request that asks for none."""
        return self._held[0]

    @property
    def versions(self) -> list[int]:
        """Versions in memory, newest first."""
        return [loaded.version for loaded in self._held]

    def find(self, min_version: int = 0, *, exact: bool = False) -> Loaded | None:
        """The version that must answer, or None where it is not in memory."""
        held = self._held
        if not exact:
            return held[0] if held[0].version >= min_version else None
        return next((loaded for loaded in held if loaded.version == min_version), None)

    def load(self, version: int, *, exact: bool = False) -> Loaded:
        """Brings a version into memory; returns what then answers `find(version, exact=exact)`.

        An older version than the newest is read only if it is asked for exactly, as after the
        restart of a replica in the middle of a day.

        Raises:
            CheckpointError: if the version does not exist, or the slot is fixed to another.
        """
        with self._lock:
            found = self.find(version, exact=exact)
            if found is not None:
                return found
            if self._load_version is None:
                raise CheckpointError(
                    f"version == {version}, must be {self.newest.version}: {self._name} is fixed "
                    "to it by its settings."
                )
            loaded = Loaded(version, self._load_version(version))
            # The second place goes to the version that was newest, or to the one just asked for.
            both = (self._held[0], loaded)
            self._held = tuple(sorted(both, key=lambda each: each.version, reverse=True))
            return loaded


def score(loaded: Loaded, requests: Sequence[RankRequest]) -> list[RankResponse]:
    """Checks requests, ranks them with one version, checks the answers: each once, here.

    A custom ranker need not check anything, nor know its version, nor measure itself: the answer's
    version is set here, and where it names no `rank_ms`, its share of the call's CPU time on this
    thread.

    Raises:
        RequestError: if a request breaks the contract; none was ranked.
        RankerError: if an answer does.
    """
    for request in requests:
        validate_request(request)
    started = time.thread_time()
    responses = getattr(loaded.ranker, "rank_valid", loaded.ranker.rank)(requests)
    share_ms = 1e3 * (time.thread_time() - started) / max(1, len(requests))
    if len(responses) != len(requests):
        raise RankerError(f"len(responses) == {len(responses)}, must be {len(requests)}.")
    for request, response in zip(requests, responses, strict=True):
        validate_response(request, response)
    return [
        dataclasses.replace(
            response, model_version=loaded.version, rank_ms=response.rank_ms or share_ms
        )
        for response in responses
    ]
