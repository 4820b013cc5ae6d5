"""Lives of users that any process can tell, for tests of the sequence store."""

import numpy as np

from ifa_ray.schema import History
from ifa_ray.serving.sequence_store import Append, part

START_MS = 1_700_000_000_000


def life_of(user_id, length, items=2**31 - 1):
    """The first behaviours of a user; a longer life begins with the shorter one."""
    T = np.arange(length, dtype=np.int64)
    mixed = (T * 2654435761 + user_id * 40503 + 12345) % (2**31 - 1)
    return History(
        ids_T=(mixed % items).astype(np.int32),
        actions_T=(mixed // 7 % 128).astype(np.uint8),
        times_ms_T=START_MS + np.cumsum(mixed // 11 % 3 * 1000),
    )


def append_of(user_id, begin, stop, **kwargs):
    """Behaviours [begin, stop) of a life."""
    return Append(
        user_id=user_id, begin=begin, history=part(life_of(user_id, stop, **kwargs), begin, stop)
    )


def assert_same_history(one, other):
    for field in ("ids_T", "actions_T", "times_ms_T"):
        left, right = getattr(one, field), getattr(other, field)
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)
