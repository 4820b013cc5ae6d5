"""An inverted file over the content vectors: cells of alike items, each in order of upload.

Knows the observed catalogue's vectors only; no users. Video ids are in order of upload, so what is
live at a time is a prefix of every cell, and one index serves all times.

Every process builds its own and gets the same one: the first centroids are a keyed choice of
items, and all sums are of integers, so no rounding depends on a batch, a thread or a BLAS.

Letters: N items, n items of a sample, L cells, D content width.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from ifa_ray.config import require
from simulator.crn import Purpose, hash_keys

__all__ = ["CellIndex", "build_index"]

ROUNDS = 6
SAMPLE_PER_CELL = 64
_CHUNK = 16_384
# Up to here a sum of products of two int8 is an integer that float32 holds.
_MAX_WIDTH = 1_040


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CellIndex:
    """Items by cell.

    Attributes:
        centroid_LD: int16, unit vectors times 127, rounded.
        start_L: int64, L + 1 of them: cell i holds places start[i] to start[i + 1].
        ids_N: int32, the item of each place; within a cell increasing.
        vectors_ND: int8, the content of each place.
    """

    centroid_LD: npt.NDArray[np.int16]
    start_L: npt.NDArray[np.int64]
    ids_N: npt.NDArray[np.int32]
    vectors_ND: npt.NDArray[np.int8]


def build_index(seed: int, content_q_ND: npt.NDArray[np.float32]) -> CellIndex:
    """Spherical k-means of about sqrt(N) cells over a sample, then every item to its best cell.

    Costs O(N sqrt(N) D); a few seconds for a million items.

    Args:
        seed: of the keyed choice of items.
        content_q_ND: float32 holding integers in [-127, 127].

    Raises:
        ConfigError: if D > 1040.
    """
    n, width = content_q_ND.shape
    require(width <= _MAX_WIDTH, "content_width", width, f"<= {_MAX_WIDTH}: exact sums")
    num_cells = max(1, round(n**0.5))
    order = np.argsort(hash_keys(seed, Purpose.CENTROID, np.arange(n)), kind="stable")
    sample_nD = content_q_ND[np.sort(order[: SAMPLE_PER_CELL * num_cells])]
    centroid_LD = content_q_ND[order[:num_cells]]
    for _ in range(ROUNDS):
        cell_n = _best_cell(sample_nD, centroid_LD)
        total_LD = np.stack(
            [np.bincount(cell_n, column, num_cells) for column in sample_nD.T.astype(np.float64)],
            axis=1,
        )  # exact: sums of integers
        length_L = np.sqrt((total_LD**2).sum(axis=1))
        moved_LD = np.rint(127 * total_LD / np.maximum(length_L, 1)[:, None])
        centroid_LD = np.where(length_L[:, None] > 0, moved_LD, centroid_LD).astype(np.float32)
    cell_N = _best_cell(content_q_ND, centroid_LD)
    place_N = np.argsort(cell_N, kind="stable").astype(np.int32)
    return CellIndex(
        centroid_LD=centroid_LD.astype(np.int16),
        start_L=np.searchsorted(cell_N[place_N], np.arange(num_cells + 1)),
        ids_N=place_N,
        vectors_ND=content_q_ND[place_N].astype(np.int8),
    )


def _best_cell(
    vectors_nD: npt.NDArray[np.float32], centroid_LD: npt.NDArray[np.float32]
) -> npt.NDArray[np.int64]:
    """The cell of largest inner product, the lowest of equals; exact, as all terms are integers."""
    cell_n = np.empty(len(vectors_nD), np.int64)
    for start in range(0, len(vectors_nD), _CHUNK):
        part = slice(start, start + _CHUNK)
        cell_n[part] = (vectors_nD[part] @ centroid_LD.T).argmax(axis=1)
    return cell_n
