"""The search stage of two-stage models: the impressions chosen for each candidate; no gradients.

TWIN searches with the heads and scores of its attention, SIM-soft with one head of its own. All C x
n scores are computed, exactly, but never kept: a chunk of them lives in a core's cache. Round by
round each head offers its next best impression; what another offered before is passed over (TWIN,
section 4.3). `walk_heads_naive` is the reference implementation.

Letters: H heads, C candidates, N of one chunk, n impressions, T of a row, D width, K chosen, P = H
K places in the walk, R rows (a candidate in a head), W blocks of a row, L layers (places in a
block), X pairs of row and block.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

# Rows are cut into blocks, at least 5 for each score that is looked for. The K-th largest of the
# blocks' maxima is at most the K-th largest score, so only blocks that reach it are looked into: a
# tenth more than K of them on random rows. Fewer than 500 blocks would be large ones.
_BLOCKS_PER_CHOSEN = 5
_MIN_BLOCKS = 500


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
    return HeadWalk(len(scores_HCT), k).walk(scores_HCT)


class HeadWalk:
    """`walk_heads` for one chunk of candidates after another.

    Where heads disagree, the walk ends long before the k-th place of any, so twice the least
    possible depth is tried first, and all k places for the candidates that it leaves with too few.
    Once these are many, as where heads agree, later chunks start with all k. What is found does not
    depend on it.
    """

    def __init__(self, num_heads: int, k: int) -> None:
        self._k = k
        self._depth = min(k, -(-2 * k // num_heads))

    def walk(self, scores_HCT: torch.Tensor) -> torch.Tensor:
        """The chosen of each candidate in order of time, int64 [C, k]."""
        (H, C, T), k, depth = scores_HCT.shape, self._k, self._depth
        assert 1 <= k <= T, (k, T)
        if scores_HCT.device.type != "cpu":
            return _walk_on_device(torch.topk(scores_HCT, k, dim=-1).indices)
        best_RK = _best_of_rows(scores_HCT.reshape(H * C, T), depth)
        chosen_CK, enough_C = _walk(best_RK.reshape(H, C, depth), k)
        if not enough_C.all():
            rest_HNT = scores_HCT[:, torch.from_numpy(np.flatnonzero(~enough_C))]
            N = rest_HNT.shape[1]
            best_RK = _best_of_rows(rest_HNT.reshape(H * N, T), k)
            chosen_CK[~enough_C], _ = _walk(best_RK.reshape(H, N, k), k)
            if 4 * N > C:
                self._depth = k
        return torch.from_numpy(chosen_CK)


def _best_of_rows(scores_RT: torch.Tensor, k: int) -> npt.NDArray[np.int64]:
    """The columns of each row's k largest scores, best first; of equal ones the last is first.

    Block j holds the columns j, j + W, j + 2 W, ...: neighbours in time, whose scores are alike,
    lie in different blocks, and maxima are taken of whole rows of W.
    """
    R, T = scores_RT.shape
    W = T // max(1, T // max(_BLOCKS_PER_CHOSEN * k, _MIN_BLOCKS))
    whole, tail = divmod(T, W)
    maxima_RW = scores_RT[:, : whole * W].unflatten(1, (whole, W)).amax(dim=1)
    last = maxima_RW[:, :tail]
    torch.maximum(last, scores_RT[:, whole * W :], out=last)
    bounds_R = _kth_largest(maxima_RW, k)
    if not np.isfinite(bounds_R).all():  # a diverged model: its scores are refused later, by name
        return _best_of_rows(torch.zeros_like(scores_RT), k)
    # torch compares, numpy collects: each is twice as fast as the other at that.
    reaching = np.flatnonzero((maxima_RW >= torch.from_numpy(bounds_R)[:, None]).numpy())
    row_X, block_X = np.divmod(reaching, W)
    layers = whole + (tail > 0)
    scores, start_X = scores_RT.numpy().reshape(-1), row_X * T + block_X
    values_LX = np.empty((layers, len(reaching)), np.float32)
    for layer in range(layers):
        # Of the last row's last block the last layer may lie outside; `clip` reads something else.
        scores[layer * W :].take(start_X, out=values_LX[layer], mode="clip")
    if tail:
        values_LX[-1, block_X >= tail] = -np.inf
    found = np.flatnonzero(np.ascontiguousarray((values_LX >= bounds_R[row_X]).T))
    pair, place = np.divmod(found, layers)
    columns = block_X[pair] + place * W
    return _ranked(values_LX[place, pair], row_X[pair], columns, R)[:, : -k - 1 : -1]


def _kth_largest(maxima_RW: torch.Tensor, k: int) -> npt.NDArray[np.float32]:
    """The k-th largest of each row, float32 [R]; NaN if the row holds one."""
    W = maxima_RW.shape[1]
    partitioned_RW = np.partition(maxima_RW.numpy(), W - k, axis=1)
    # NaN sorts last, so a row that holds one has it on the far side.
    worst_R = partitioned_RW[:, W - k :].max(axis=1)
    return np.where(np.isnan(worst_R), worst_R, partitioned_RW[:, W - k])


def _ranked(
    values: npt.NDArray[np.float32],
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    num_rows: int,
) -> npt.NDArray[np.int64]:
    """The columns of each row by value, then by column, largest last; rows must be sorted.

    Shorter rows begin with what is no column.
    """
    # Score and column in one integer: sorting values is vectorised, and no two are equal.
    bits = (values + np.float32(0)).view(np.int32)  # -0.0 becomes 0.0
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)
    count_R = np.bincount(rows, minlength=num_rows)
    place = np.arange(len(rows)) - (count_R.cumsum() - count_R)[rows]
    keys = np.full((num_rows, int(count_R.max())), np.iinfo(np.int64).min)
    keys[rows, place] = (ordered << 32) | columns
    keys.sort(axis=1)
    return keys & 0xFFFFFFFF


def _walk(
    best_HCK: npt.NDArray[np.int64], k: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The first k unique behaviours when heads take turns, as deep as K.

    Returns:
        int64 [C, k], oldest first; and where there are k of them, elsewhere they mean nothing.
    """
    H, C, K = best_HCK.shape
    P = H * K
    # Sorted by behaviour, then by place: the first of equal ones is where it was first offered.
    keys_CP = best_HCK.transpose(1, 2, 0).reshape(C, P) * P + np.arange(P)
    keys_CP.sort(axis=1)
    offer_CP, place_CP = np.divmod(keys_CP, P)
    place_CP[:, 1:][offer_CP[:, 1:] == offer_CP[:, :-1]] = P
    last_C1 = np.partition(place_CP, k - 1, axis=1)[:, k - 1 : k]
    enough_C = last_C1[:, 0] < P
    chosen_CK = np.zeros((C, k), np.int64)
    chosen_CK[enough_C] = offer_CP[(place_CP <= last_C1) & enough_C[:, None]].reshape(-1, k)
    return chosen_CK, enough_C


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


# Scores searched at once: 4 MiB of them, so that they are read from a cache and not from memory.
_CHUNK_SCORES = 1 << 20


@torch.no_grad()
def search(
    query_CD: torch.Tensor, key_nD: torch.Tensor, bias_nH: torch.Tensor, top_k: int
) -> torch.Tensor:
    """Chooses the behaviours that score best, O(C n D); see `ifa_ray.models.search` for several.

    Args:
        query_CD: scaled, so that a score is q.k + bias.
        key_nD: of n >= 1 behaviours.
        bias_nH: of each behaviour in each head.
        top_k: K, if there are so many behaviours.

    Returns:
        int64 [C, min(top_k, n)], oldest first.
    """
    C, (n, H) = len(query_CD), bias_nH.shape
    k = min(top_k, n)
    if k == n:
        return torch.arange(n, device=query_CD.device).expand(C, n)
    query_HCd = query_CD.view(C, H, -1).transpose(0, 1)
    key_Hdn = key_nD.view(n, H, -1).permute(1, 2, 0).contiguous()
    bias_H1n = bias_nH.T.contiguous()[:, None]  # read once a chunk: strided, it halves the speed
    step = min(C, max(1, _CHUNK_SCORES // (H * n)))
    # One buffer for all chunks: fresh memory would cost more than the product.
    buffer = query_CD.new_empty(H * step * n)
    chosen, heads = [], HeadWalk(H, k)
    for part_HNd in query_HCd.split(step, dim=1):
        N = part_HNd.shape[1]
        scores_HNn = buffer[: H * N * n].view(H, N, n)
        torch.baddbmm(bias_H1n, part_HNd, key_Hdn, out=scores_HNn)
        chosen.append(heads.walk(scores_HNn))
    return torch.cat(chosen)
