"""The versions of one model that a replica holds, which of them answers, and what overload does.

Knows versions and rankers as values: no Ray, no event loop, no files. `load` may block and is
called from any thread; `find` never blocks. A call whose deadline has passed is not ranked; where
the settings say so, a call that is ranked while many others wait has fewer candidates ranked.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence

from ifa_ray.errors import CheckpointError, RankerError, ServingError
from ifa_ray.ranking.ranker import Ranker
from ifa_ray.schema import RankRequest, RankResponse, validate_request, validate_response
from ifa_ray.serving.settings import AppSettings

MAX_DEADLINE_MS = 3_600_000


class DeadlineError(ServingError):
    """A call was still waiting when its deadline passed; it was not ranked."""


def check_deadline(deadline_s: float | None, now_s: float, waited_s: float) -> None:
    """Refuses work that nobody waits for any more.

    Args:
        deadline_s: on the clock of `now_s`; None waits for ever.
        now_s: now.
        waited_s: for the message.

    Raises:
        DeadlineError: if it has passed.
    """
    if deadline_s is not None and now_s >= deadline_s:
        raise DeadlineError(
            f"deadline_ms passed after {1e3 * waited_s:.0f} ms in the queue: not ranked."
        )


def fewer_candidates(calls: int, settings: AppSettings) -> int | None:
    """How many candidates of a request to rank at most; None ranks all.

    Args:
        calls: at the replica, the one to be ranked included.
        settings: of the application.
    """
    beyond = settings.degrade_beyond_calls
    return settings.degraded_candidates if beyond is not None and calls > beyond else None


def shortened(requests: Sequence[RankRequest], limit: int) -> list[RankRequest]:
    """Requests with their first `limit` candidates, and at least k; the same object if unchanged.

    Which come first is up to the caller: retrieval that sends its best ones first loses least.
    """
    kept = []
    for request in requests:
        size = max(limit, request.k)
        if size < len(request.candidates_C):
            channels_C = request.channels_C
            request = dataclasses.replace(
                request,
                candidates_C=request.candidates_C[:size],
                channels_C=None if channels_C is None else channels_C[:size],
            )
        kept.append(request)
    return kept


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
        """Opens the slot with one version.

        Args:
            first: the version to start with.
            load_version: reads a version from the checkpoint store; raises CheckpointError where it
                does not exist. None fixes the slot to `first`.
            name: for messages.
        """
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
            both = {each.version: each for each in (self._held[0], loaded)}
            self._held = tuple(both[v] for v in sorted(both, reverse=True))
            return loaded


def score(
    loaded: Loaded, requests: Sequence[RankRequest], limit: int | None = None
) -> list[RankResponse]:
    """Checks requests, ranks them with one version, checks the answers: each once, here.

    A custom ranker need not check anything, nor know its version, nor measure itself: the answer's
    version is set here, and where it names no `rank_ms`, its share of the call's CPU time on this
    thread.

    Args:
        loaded: the version.
        requests: of any users.
        limit: ranks the first `limit` candidates of each request, at least k; None ranks all.
            Answers to requests that lost candidates are marked `degraded`.

    Raises:
        RequestError: if a request breaks the contract; none was ranked.
        RankerError: if an answer does.
    """
    for request in requests:
        validate_request(request)
    asked = list(requests) if limit is None else shortened(requests, limit)
    started = time.thread_time()
    responses = getattr(loaded.ranker, "rank_valid", loaded.ranker.rank)(asked)
    share_ms = 1e3 * (time.thread_time() - started) / max(1, len(asked))
    if len(responses) != len(asked):
        raise RankerError(f"len(responses) == {len(responses)}, must be {len(asked)}.")
    for request, response in zip(asked, responses, strict=True):
        validate_response(request, response)
    return [
        dataclasses.replace(
            response,
            model_version=loaded.version,
            rank_ms=response.rank_ms or share_ms,
            degraded=one is not whole,
        )
        for response, one, whole in zip(responses, asked, requests, strict=True)
    ]
