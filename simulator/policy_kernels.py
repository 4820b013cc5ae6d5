"""The compiled loops of the earlier policy: closest vectors and largest scores; knows arrays only.

Letters: U users, C candidates, N items, V query vectors, D content width, K slate size, B a block
of candidates.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from simulator.compiled import compiled

__all__ = ["best_match", "largest"]

_BLOCK = 128


@compiled
def best_match(
    content_ND: npt.NDArray[np.float32],
    ids_UC: npt.NDArray[np.int32],
    long_UVD: npt.NDArray[np.float32],
    recent_UVD: npt.NDArray[np.float32],
    long_UC: npt.NDArray[np.float32],
    recent_UC: npt.NDArray[np.float32],
) -> None:
    """Inner product of each candidate with the closest of its user's vectors, at least 0.

    Summed dimension by dimension, the candidates of a block side by side: a matrix product's last
    bits may depend on the batch.

    Args:
        content_ND: of the catalogue.
        ids_UC: the candidates.
        long_UVD: one set of vectors.
        recent_UVD: another.
        long_UC: is filled, for the first set.
        recent_UC: is filled, for the second.
    """
    width = content_ND.shape[1]
    block_DB = np.empty((width, _BLOCK), np.float32)
    product_B = np.empty(_BLOCK, np.float32)
    for user in range(ids_UC.shape[0]):
        for start in range(0, ids_UC.shape[1], _BLOCK):
            size = min(_BLOCK, ids_UC.shape[1] - start)
            for b in range(size):
                item = ids_UC[user, start + b]
                for d in range(width):
                    block_DB[d, b] = content_ND[item, d]
            part = slice(start, start + size)
            _match_block(block_DB, long_UVD[user], product_B[:size], long_UC[user, part])
            _match_block(block_DB, recent_UVD[user], product_B[:size], recent_UC[user, part])


@compiled
def _match_block(
    block_DB: npt.NDArray[np.float32],
    vectors_VD: npt.NDArray[np.float32],
    product_B: npt.NDArray[np.float32],
    best_B: npt.NDArray[np.float32],
) -> None:
    best_B[:] = 0
    for v in range(vectors_VD.shape[0]):
        product_B[:] = 0
        for d in range(vectors_VD.shape[1]):
            factor = vectors_VD[v, d]
            for b in range(len(product_B)):
                product_B[b] += block_DB[d, b] * factor
        for b in range(len(product_B)):
            best_B[b] = max(best_B[b], product_B[b])


@compiled
def largest(score_UC: npt.NDArray[np.float64], best_UK: npt.NDArray[np.int64]) -> None:
    """Fills in the places of each row's K largest scores, largest first, of equals the first."""
    k = best_UK.shape[1]
    for user in range(len(score_UC)):
        score_C, best_K = score_UC[user], best_UK[user]
        filled = 0
        for c in range(len(score_C)):
            if filled == k and score_C[c] <= score_C[best_K[k - 1]]:
                continue
            place = min(filled, k - 1)
            while place > 0 and score_C[c] > score_C[best_K[place - 1]]:
                best_K[place] = best_K[place - 1]
                place -= 1
            best_K[place] = c
            filled = min(filled + 1, k)
