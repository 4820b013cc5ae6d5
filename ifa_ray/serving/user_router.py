"""Which replica a request goes to: its user's, where the sequence state is; no state is known here.

A class of Serve's request-router interface, which Ray 2.60 calls alpha. It runs in every process
that sends requests, the proxies included, so `ifa_ray` must be importable there.

The user is told beside the request, for bodies are not read on the way: the header `x-session-id`
of HTTP, `session_id` among gRPC's metadata, `handle.options(session_id=...)`; any text will do as
long as it is always the same. Without it the shorter queue of two replicas drawn at random is
taken, as Serve does by itself.

Affinity is for speed alone. A user whose replica is full or gone is sent to the next one, and
answered there from the history.
"""

from __future__ import annotations

import random
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from ifa_ray.serving.placement import preferred

__all__ = ["ROUTER", "UserRouter", "ranks_of"]

ROUTER = "ifa_ray.serving.user_router.UserRouter"
"""As `ray.serve.config.RequestRouterConfig` takes it."""


def ranks_of(session: str, names: list[str], draw: random.Random) -> list[list[str]]:
    """Replicas to try, one list after the other; the shortest queue of a list is taken.

    Args:
        session: of whom the request is; empty if nobody said.
        names: of replicas that run.
        draw: of the two that an anonymous request may go to.
    """
    if not session:
        return [draw.sample(names, min(2, len(names)))]
    return [[name] for name in preferred(session, names)]


class UserRouter(RequestRouter):
    """Sends a user's requests to one replica while it runs and its queue has room."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As Serve calls it."""
        super().__init__(*args, **kwargs)
        self._draw = random.Random()

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Replicas to try, best first; Serve asks again, later and later, while all are full."""
        session = ""
        if pending_request is not None:
            session = pending_request.metadata.session_id
            pending_request.routing_context.should_backoff = True
            # Serve finds a request by this id when it has a replica for it. Calls that were made
            # on behalf of one request share it, and all but the first would never be found.
            self._pending_requests_by_id[pending_request.metadata.internal_request_id] = (
                pending_request
            )
        running = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        return [
            [running[name] for name in names]
            for names in ranks_of(session, list(running), self._draw)
        ]
