"""What a replica does when there is more to do than it can: decisions, as values; performs none.

Two: a call whose deadline has passed is not ranked, for nobody waits for it; and, where the
settings say so, a call that is ranked while many others wait has fewer candidates ranked, which the
answer tells. A third, to take no more calls, is Serve's (`max_queued_requests`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ifa_ray.errors import ServingError
from ifa_ray.schema import RankRequest
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
