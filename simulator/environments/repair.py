"""Makes slates of any choice of indices: what an agent may choose, and what is shown then.

Knows indices only. Libraries sample slots independently of each other, so repeated indices are
common and are repaired; an index that is no candidate's is a mistake and is refused.

Letters: B requests, C candidates, K slate size.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ifa_ray.errors import RankerError

__all__ = ["naive_repair", "repair", "validate_slates"]

Slates = npt.NDArray[np.int64]


def validate_slates(actions: npt.ArrayLike, shape: tuple[int, ...], num_candidates: int) -> Slates:
    """Checks actions and returns them as int64.

    Args:
        actions: places of candidates.
        shape: [K], or [B, K].
        num_candidates: C.

    Raises:
        RankerError: if they have another shape, are no integers, or an index is out of range.
    """
    slates = np.asarray(actions)
    if slates.shape != shape:
        raise RankerError(f"action has shape {slates.shape}, must be {shape}.")
    if not np.issubdtype(slates.dtype, np.integer):
        raise RankerError(f"action has dtype {slates.dtype}, must be of integers.")
    wrong = np.argwhere((slates < 0) | (slates >= num_candidates))
    if len(wrong):
        where = ", ".join(map(str, wrong[0]))
        raise RankerError(
            f"action[{where}] == {slates[tuple(wrong[0])]}, must be in [0, {num_candidates})."
        )
    return slates.astype(np.int64)


def repair(slates_BK: Slates, num_candidates: int) -> tuple[Slates, npt.NDArray[np.int64]]:
    """Keeps the first occurrence of each index; the other slots get the lowest indices left over.

    O(B K^2), whatever C is.

    Returns:
        Slates without repetitions, and how many slots of each were replaced, int64 [B].
    """
    rows, K = np.arange(len(slates_BK))[:, None], slates_BK.shape[1]
    same_BKK = slates_BK[:, :, None] == slates_BK[:, None, :]
    repeated_BK = np.tril(same_BKK, k=-1).any(axis=2)
    # At most K - 1 indices are kept where one is repeated, so the first 2 K hold K free ones.
    width = min(num_candidates, 2 * K)
    free_BW = np.ones((len(slates_BK), width), bool)
    inside = slates_BK < width
    free_BW[np.nonzero(inside)[0], slates_BK[inside]] = False
    order_BW = np.argsort(~free_BW, axis=1, kind="stable")
    nth_BK = np.cumsum(repeated_BK, axis=1) - 1
    spare_BK = order_BW[rows, np.maximum(nth_BK, 0)]
    return np.where(repeated_BK, spare_BK, slates_BK), repeated_BK.sum(axis=1)


def naive_repair(slate_K: npt.NDArray[np.int64], num_candidates: int) -> npt.NDArray[np.int64]:
    """As `repair`, of one slate, as the rule reads; O(K C)."""
    chosen, repaired = {int(index) for index in slate_K}, []
    spare = (index for index in range(num_candidates) if index not in chosen)
    for index in slate_K.tolist():
        repaired.append(next(spare) if index in repaired else index)
    return np.array(repaired, np.int64)
