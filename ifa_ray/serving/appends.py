"""Impressions to append to histories: what crosses the boundary, and its rules; no store, no HTTP.

Letters: T behaviours.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ifa_ray.errors import RequestError
from ifa_ray.schema import MAX_TIME_MS, MIN_TIME_MS, History

__all__ = [
    "MAX_BATCH",
    "MAX_LENGTH",
    "Append",
    "Appended",
    "SequenceConflictError",
    "check_append",
]

MAX_BATCH = 10_000
"""Behaviours of one user in one append."""
MAX_LENGTH = 10_000_000
"""Behaviours of one user."""


class SequenceConflictError(RequestError):
    """An append does not follow what is stored; the message says from where on it must."""


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
