"""Impressions to append to histories, and histories as chunks of bytes with checksums; no store.

The bytes of a chunk are its three columns one after the other, little-endian: 4 + 1 + 8 bytes an
impression. Letters: T impressions.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np

from ifa_ray.errors import RequestError, StoreError
from ifa_ray.schema import MAX_TIME_MS, MIN_TIME_MS, History

MAX_BATCH = 10_000
"""Behaviours of one user in one append."""
MAX_LENGTH = 10_000_000
"""Behaviours of one user."""


class SequenceConflictError(RequestError):
    """An append does not follow what is stored; the message says from where on it must."""


class ErasedMeanwhileError(StoreError):
    """The user was erased between a watermark and the read that followed; both must be repeated."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Append:
    """Behaviours [begin, begin + T) of a user.

    Attributes:
        user_id: any int >= 0.
        begin: how many behaviours of the user came before: what makes saying it twice harmless.
        history: 1 to `MAX_BATCH` behaviours, oldest first.
    """

    user_id: int
    begin: int
    history: History


@dataclasses.dataclass(frozen=True, kw_only=True)
class Appended:
    """What became of an `Append`.

    Attributes:
        user_id: that of the append.
        watermark: how many behaviours of the user are stored now.
        appended: how many of them are new.
    """

    user_id: int
    watermark: int
    appended: int


def check_append(one: Append) -> None:
    """Checks an append by itself, sizes first.

    Raises:
        RequestError: naming the field, its value and the rule.
    """
    history, T = one.history, len(one.history)
    if not 1 <= T <= MAX_BATCH:
        raise RequestError(f"len(ids) == {T}, must be in [1, {MAX_BATCH}].")
    if not 0 <= one.user_id < 2**63:
        raise RequestError(f"user_id == {one.user_id}, must be in [0, 2**63).")
    if not 0 <= one.begin <= MAX_LENGTH:
        raise RequestError(f"begin == {one.begin}, must be in [0, {MAX_LENGTH}].")
    columns: dict[str, tuple[np.ndarray, type[np.generic]]] = {
        "ids": (history.ids_T, np.int32),
        "actions": (history.actions_T, np.uint8),
        "times_ms": (history.times_ms_T, np.int64),
    }
    for field, (column, dtype) in columns.items():
        if column.shape != (T,):
            raise RequestError(f"{field} has shape {column.shape}, must be ({T},).")
        if column.dtype != dtype:
            raise RequestError(f"{field} has dtype {column.dtype}, must be {np.dtype(dtype)}.")
    if history.ids_T.min() < 0:
        raise RequestError(f"min(ids) == {history.ids_T.min()}, must be >= 0.")
    if (history.times_ms_T[1:] < history.times_ms_T[:-1]).any():
        raise RequestError("times_ms decreases, must be oldest first.")
    first, last = history.times_ms_T[0], history.times_ms_T[-1]
    if first < MIN_TIME_MS or last > MAX_TIME_MS:
        place, found = (0, first) if first < MIN_TIME_MS else (T - 1, last)
        raise RequestError(
            f"times_ms[{place}] == {found}, must be in [{MIN_TIME_MS}, {MAX_TIME_MS}]."
        )


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
