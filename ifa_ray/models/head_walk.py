"""TWIN's general search: the heads' rankings walked until k unique behaviours are found.

Round by round each head offers its next best behaviour; what another offered before is passed over
(TWIN, section 4.3). Only the best k of each head can ever be offered, because one head alone
offers k unique ones. Knows scores only; nothing here has a gradient.

`walk_heads` is exact whatever the device; on a CPU it reads the scores about twice where a top-k of
torch reads them many times. `walk_heads_naive` says what it must give.

Letters: H heads, C candidates, T behaviours, K chosen of them, P = H K places in the walk.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["walk_heads", "walk_heads_naive"]

# Rows are cut into blocks of about T / (5 K) scores. The K-th largest of the blocks' maxima is at
# most the K-th largest score, and on random rows a tenth more than K scores reach it.
_BLOCKS_PER_CHOSEN = 5


def walk_heads_naive(scores_HCT: torch.Tensor, k: int) -> torch.Tensor:
    """The walk, step by step, O(C H T log T). Of equal scores the latest behaviour is first.

    Returns:
        int64 [C, k], in the order found.
    """
    found = []
    for scores_HT in scores_HCT.transpose(0, 1).tolist():
        rankings = [sorted(range(len(s)), key=lambda t: (s[t], t), reverse=True) for s in scores_HT]
        chosen: list[int] = []
        for offers in zip(*rankings, strict=True):
            chosen.extend(t for t in dict.fromkeys(offers) if t not in chosen)
        found.append(chosen[:k])
    return torch.tensor(found, dtype=torch.int64)


def walk_heads(scores_HCT: torch.Tensor, k: int) -> torch.Tensor:
    """As `walk_heads_naive` for k <= T, the chosen of each candidate in order of time."""
    H, C, T = scores_HCT.shape
    assert 1 <= k <= T, (k, T)
    if scores_HCT.device.type == "cpu":
        best_RK = _best_of_rows(scores_HCT.reshape(H * C, T), k)
        return torch.from_numpy(_walk(best_RK.reshape(H, C, k)))
    best_HCK = torch.topk(scores_HCT, k, dim=-1).indices
    return _walk_on_device(best_HCK)


def _best_of_rows(scores_RT: torch.Tensor, k: int) -> npt.NDArray[np.int64]:
    """The columns of each row's k largest scores, best first; of equal ones the last is first."""
    R, T = scores_RT.shape
    bounds_R = _lower_bounds(scores_RT, k)
    if np.isnan(bounds_R).any():  # a diverged model: its scores are refused later, by name
        scores_RT = torch.zeros_like(scores_RT)
        bounds_R = np.zeros_like(bounds_R)
    # torch compares, numpy collects: each is twice as fast as the other at that.
    reaching = np.flatnonzero((scores_RT >= torch.from_numpy(bounds_R)[:, None]).numpy())
    row, column = np.divmod(reaching, T)
    starts_R = np.searchsorted(reaching, np.arange(R + 1) * T)
    width = int(np.diff(starts_R).max())
    # Score and column in one integer: sorting values is vectorised, and no two are equal.
    keys = np.full((R, width), np.iinfo(np.int64).min)
    values = scores_RT.numpy().reshape(-1)[reaching] + np.float32(0)  # -0.0 becomes 0.0
    bits = values.view(np.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)
    keys[row, np.arange(len(reaching)) - starts_R[row]] = (ordered << 32) | column
    keys.sort(axis=1)
    return keys[:, : -k - 1 : -1] & 0xFFFFFFFF


def _lower_bounds(scores_RT: torch.Tensor, k: int) -> npt.NDArray[np.float32]:
    """For each row a value that its k-th largest score reaches, float32 [R]; NaN if one is NaN.

    Block j holds the columns j, j + W, j + 2 W, ...: neighbours in time, whose scores are alike,
    lie in different blocks.
    """
    T = scores_RT.shape[1]
    per_block = max(1, T // (_BLOCKS_PER_CHOSEN * k))
    blocks = T // per_block
    maxima = scores_RT[:, : per_block * blocks].unflatten(1, (per_block, blocks)).amax(dim=1)
    partitioned = np.partition(maxima.numpy(), blocks - k, axis=1)
    # NaN sorts last, so a row that holds one has it on the far side.
    worst_R = partitioned[:, blocks - k :].max(axis=1)
    return np.where(np.isnan(worst_R), worst_R, partitioned[:, blocks - k])


def _walk(best_HCK: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The first k unique behaviours when heads take turns, oldest first, int64 [C, K]."""
    H, C, K = best_HCK.shape
    P = H * K
    # Sorted by behaviour, then by place: the first of equal ones is where it was first offered.
    keys_CP = best_HCK.transpose(1, 2, 0).reshape(C, P) * P + np.arange(P)
    keys_CP.sort(axis=1)
    offer_CP, place_CP = np.divmod(keys_CP, P)
    place_CP[:, 1:][offer_CP[:, 1:] == offer_CP[:, :-1]] = P
    last_C1 = np.partition(place_CP, K - 1, axis=1)[:, K - 1 : K]
    return offer_CP[place_CP <= last_C1].reshape(C, K)


def _walk_on_device(best_HCK: torch.Tensor) -> torch.Tensor:
    """As `_walk`."""
    H, C, K = best_HCK.shape
    P = H * K
    places_P = torch.arange(P, device=best_HCK.device)
    keys_CP = (best_HCK.permute(1, 2, 0).reshape(C, P) * P + places_P).sort(dim=1).values
    offer_CP, place_CP = keys_CP // P, keys_CP % P
    place_CP[:, 1:][offer_CP[:, 1:] == offer_CP[:, :-1]] = P
    last_C1 = place_CP.kthvalue(K, dim=1, keepdim=True).values
    return offer_CP[place_CP <= last_C1].view(C, K)
