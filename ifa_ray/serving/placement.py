"""Where something of a user belongs, by hash: a shard of the histories, a replica with its state.

Rendezvous hashing: every name has a weight for every key, and the heaviest has the key. A name that
comes takes its share from all others and moves nothing else, one that goes leaves its keys to their
second choices. Whoever knows the names comes to the same answer, in any process. Knows no Ray.

Bodies are not read on the way to a replica, so whose they are is told beside them, by a name that
Serve takes from HTTP and gRPC.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

__all__ = ["SESSION_HEADER", "SESSION_METADATA", "OfUser", "preferred", "session_of", "shard_of"]

SESSION_HEADER = "x-session-id"
"""Of HTTP, unless whoever starts Ray sets `RAY_SERVE_SESSION_ID_HEADER_KEY`."""
SESSION_METADATA = "session_id"
"""Of gRPC."""


class OfUser(Protocol):
    """A request or an append."""

    @property
    def user_id(self) -> int:
        """Whose it is."""
        ...


def session_of(calls: Sequence[OfUser]) -> str:
    """What is told of a call: its user; of several users nothing, as no replica is theirs."""
    users = {one.user_id for one in calls}
    return str(users.pop()) if len(users) == 1 else ""


def preferred(key: str, names: Sequence[str]) -> list[str]:
    """The names, the one that has the key first, then who has it where those before are gone.

    O(names log names), and a hash each: 1 to 2 microseconds.
    """
    return sorted(names, key=lambda name: (_weight(key, name), name), reverse=True)


def shard_of(user_id: int, count: int) -> int:
    """The shard of a user among `count`. Files are laid out by it: it must never change."""
    return int(max(range(count), key=lambda shard: _weight(str(user_id), str(shard))))


def _weight(key: str, name: str) -> bytes:
    # A NUL between them, for "1" of "12" is not "11" of "2".
    return hashlib.blake2b(f"{name}\0{key}".encode(), digest_size=8).digest()
