"""The versions of one model that a replica holds, and which of them answers a request.

Knows versions and rankers as values: no Ray, no event loop, no files. `load` may block and is
called from any thread; `find` never blocks.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence

from ifa_ray.errors import CheckpointError, RankerError
from ifa_ray.ranker import Ranker
from ifa_ray.schema import RankRequest, RankResponse, validate_request, validate_response
from ifa_ray.serving.load import shortened

__all__ = ["Loaded", "Slot", "score", "score_first"]


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """One version in memory."""

    version: int
    ranker: Ranker


@dataclasses.dataclass(frozen=True, eq=False)
class _Held:
    """What a slot holds at one moment.

    Attributes:
        versions: newest first.
        pinned: of `versions`, the one that answers; None lets the newest.
    """

    versions: tuple[Loaded, ...]
    pinned: Loaded | None = None

    @property
    def current(self) -> Loaded:
        return self.pinned or self.versions[0]


class Slot:
    """The newest version of one model, the one that late requests still need, and a pinned one.

    In a simulation a day's requests must be scored by its version even when a newer one is here
    (`exact`), or the log would depend on which came first. Both versions are held by one reference
    that is replaced whole, so a reader sees the versions before a swap or after it, never between.
    The newest version never goes back; which one answers does, while one is pinned.
    """

    def __init__(
        self, first: Loaded, load_version: Callable[[int], Ranker] | None = None, name: str = "slot"
    ) -> None:
        """Opens the slot with one version.

        Args:
            first: the version to start with.
            load_version: reads a version from the checkpoint store; raises CheckpointError where it
                does not exist. None pins the slot to `first` for good.
            name: for messages.
        """
        self._held = _Held((first,))
        self._load_version = load_version
        self._lock = threading.Lock()
        self._name = name

    @property
    def newest(self) -> Loaded:
        """The newest version in memory."""
        return self._held.versions[0]

    @property
    def current(self) -> Loaded:
        """What answers a request that asks for no version: the pinned one, else the newest."""
        return self._held.current

    @property
    def pinned(self) -> int | None:
        """The version that `pin` chose."""
        pinned = self._held.pinned
        return None if pinned is None else pinned.version

    @property
    def versions(self) -> list[int]:
        """Versions in memory, newest first."""
        return [loaded.version for loaded in self._held.versions]

    def find(self, min_version: int = 0, *, exact: bool = False) -> Loaded | None:
        """The version that must answer, or None where it is not in memory."""
        held = self._held
        if not exact:
            return held.current if held.current.version >= min_version else None
        return next((loaded for loaded in held.versions if loaded.version == min_version), None)

    def load(self, version: int, *, exact: bool = False) -> Loaded:
        """Brings a version into memory; returns what then answers `find(version, exact=exact)`.

        An older version than the newest is read only if it is asked for exactly, as after the
        restart of a replica in the middle of a day.

        Raises:
            CheckpointError: if the version does not exist, or the slot is pinned to another.
        """
        with self._lock:
            found = self.find(version, exact=exact)
            if found is not None:
                return found
            held = self._held
            if held.pinned is not None and not exact:
                raise CheckpointError(
                    f"version == {version}, must be <= {held.pinned.version}, to which "
                    f"{self._name} is pinned."
                )
            loaded = self._read(version)
            # The second place goes to the version that was newest, or to the one just asked for.
            # A pinned one keeps a place of its own: it answers everybody else.
            self._hold(held.pinned, held.versions[0], loaded)
            return loaded

    def bring(self, version: int) -> Loaded:
        """A version to pin, read if it is not in memory; what answers does not change.

        Raises:
            CheckpointError: as `load`.
        """
        with self._lock:
            return self.find(version, exact=True) or self._read(version)

    def pin(self, loaded: Loaded | None) -> None:
        """Lets one version answer, whichever comes, until it is called with None.

        The newest version stays beside it, to answer again from the moment it is unpinned.
        """
        with self._lock:
            self._hold(loaded, self._held.versions[0])

    def _hold(self, pinned: Loaded | None, *others: Loaded) -> None:
        kept = {loaded.version: loaded for loaded in (*others, *([pinned] if pinned else []))}
        versions = sorted(kept.values(), key=lambda x: x.version, reverse=True)
        self._held = _Held(tuple(versions), pinned)

    def _read(self, version: int) -> Loaded:
        if self._load_version is None:
            raise CheckpointError(
                f"version == {version}, must be {self.newest.version}: {self._name} is pinned."
            )
        return Loaded(version, self._load_version(version))


def score(loaded: Loaded, requests: Sequence[RankRequest]) -> list[RankResponse]:
    """Checks requests, ranks them with one version, checks the answers.

    A ranker of one's own need not check anything, nor know what a version is, nor measure itself:
    the answer's version is set here, and where it names no `rank_ms`, its share of the call's CPU
    time on this thread.

    Raises:
        RequestError: if a request breaks the contract; none was ranked.
        RankerError: if an answer does.
    """
    for request in requests:
        validate_request(request)
    started = time.thread_time()
    responses = loaded.ranker.rank(list(requests))
    share_ms = 1e3 * (time.thread_time() - started) / max(1, len(requests))
    if len(responses) != len(requests):
        raise RankerError(f"len(responses) == {len(responses)}, must be {len(requests)}.")
    for request, response in zip(requests, responses, strict=True):
        validate_response(request, response)
    return [
        dataclasses.replace(
            response,
            model_version=loaded.version,
            rank_ms=response.rank_ms or share_ms,
        )
        for response in responses
    ]


def score_first(
    loaded: Loaded, requests: Sequence[RankRequest], limit: int | None
) -> list[RankResponse]:
    """As `score`, of the first `limit` candidates, at least k, of each request; None is all.

    Answers to requests that lost candidates are marked `degraded`.

    Raises:
        RequestError, RankerError: as `score`.
    """
    if limit is None:
        return score(loaded, requests)
    kept = shortened(requests, limit)
    return [
        dataclasses.replace(response, degraded=one is not whole)
        for response, one, whole in zip(score(loaded, kept), kept, requests, strict=True)
    ]
