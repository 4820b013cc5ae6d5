"""Pieces of histories as bytes, with a checksum; knows numpy, no store and no user.

The bytes are those of the three columns, one after the other, little-endian: 4 + 1 + 8 bytes a
behaviour.

Letters: T behaviours.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from ifa_ray.schema import History

__all__ = ["CHUNK", "joined", "packed", "part", "unpacked"]

CHUNK = 256
"""Behaviours in a chunk; the last one of a history may hold fewer."""

_BYTES = 4 + 1 + 8


def part(history: History, start: int, stop: int | None) -> History:
    """Behaviours [start, stop) of a history, or all from start on; a view."""
    return History(
        ids_T=history.ids_T[start:stop],
        actions_T=history.actions_T[start:stop],
        times_ms_T=history.times_ms_T[start:stop],
    )


def joined(histories: Sequence[History]) -> History:
    """Histories one after the other."""
    if not histories:
        return History.empty()
    return History(
        ids_T=np.concatenate([one.ids_T for one in histories]),
        actions_T=np.concatenate([one.actions_T for one in histories]),
        times_ms_T=np.concatenate([one.times_ms_T for one in histories]),
    )


def packed(history: History) -> tuple[bytes, int]:
    """The bytes of a history, and their CRC-32."""
    data = b"".join(
        (
            history.ids_T.astype("<i4").tobytes(),
            history.actions_T.tobytes(),
            history.times_ms_T.astype("<i8").tobytes(),
        )
    )
    return data, zlib.crc32(data)


def unpacked(data: bytes, checksum: int) -> History | None:
    """The history of some bytes; None if they are not what was packed."""
    if not isinstance(data, bytes) or len(data) % _BYTES or zlib.crc32(data) != checksum:
        return None
    T = len(data) // _BYTES
    return History(
        ids_T=np.frombuffer(data, "<i4", T).astype(np.int32),
        actions_T=np.frombuffer(data, np.uint8, T, offset=4 * T),
        times_ms_T=np.frombuffer(data, "<i8", T, offset=5 * T).astype(np.int64),
    )
