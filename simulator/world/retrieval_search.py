"""The search of the retrieval stage: an inverted file of content vectors, and compiled loops.

Knows arrays only; no users beyond their query vectors. Video ids are in order of upload, so what is
live at a time is a prefix of every cell, and one index serves all times. All arithmetic is on
integers (see `simulator.world.arrays`): every process builds the same index, and a user's row is
computed from that user's inputs alone. Reference: `simulator.world.retrieval_reference`.

Letters: U users, C candidates, N items, n some of them, L cells, D content width, V query vectors,
K those of them that are known, P proposals, Q channels with quotas, S seen items, B buckets.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ifa_ray.config import require
from simulator.world.arrays import Floats, Ints, Longs, compiled
from simulator.world.crn import Purpose, hash_keys

CHANNEL_BITS = 3
"""A candidate is packed as id * 8 + channel, so that sorting by id carries the channel along."""

MIN_CELLS = 4
"""Cells opened per query vector at least, so that small quotas have a neighbourhood too."""

ROUNDS = 6
SAMPLE_PER_CELL = 64
# Up to here a sum of products of two int8 is an integer that float32 holds.
_MAX_WIDTH = 1_040
_SEEN, _TAKEN = 1, 2
_BUCKETS = 1_024
_LOWEST = -(2**31)

Flags = npt.NDArray[np.uint8]


class CellIndex(NamedTuple):
    """Items by cell."""

    centroid_LD: npt.NDArray[np.int16]  # unit vectors times 127, rounded
    start_L: Longs  # L + 1 of them: cell i holds places start[i] to start[i + 1]
    ids_N: Ints  # the item of each place; within a cell increasing
    vectors_ND: npt.NDArray[np.int8]  # the content of each place


def build_index(seed: int, content_q_ND: npt.NDArray[np.float32], chunk: int = 16_384) -> CellIndex:
    """Clusters items by spherical k-means of about sqrt(N) cells over a sample.

    The first centroids are a keyed choice of items. O(N sqrt(N) D); seconds for a million items.

    Args:
        seed: of the keyed choice of items.
        content_q_ND: float32 holding integers in [-127, 127].
        chunk: items that are compared with all centroids at once.

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
        cell_n = _best_cell(sample_nD, centroid_LD, chunk)
        columns = sample_nD.T.astype(np.float64)  # exact: sums of integers
        total_LD = np.stack([np.bincount(cell_n, each, num_cells) for each in columns], axis=1)
        length_L = np.sqrt((total_LD**2).sum(axis=1))
        moved_LD = np.rint(127 * total_LD / np.maximum(length_L, 1)[:, None])
        centroid_LD = np.where(length_L[:, None] > 0, moved_LD, centroid_LD).astype(np.float32)
    cell_N = _best_cell(content_q_ND, centroid_LD, chunk)
    place_N = np.argsort(cell_N, kind="stable").astype(np.int32)
    return CellIndex(
        centroid_LD=centroid_LD.astype(np.int16),
        start_L=np.searchsorted(cell_N[place_N], np.arange(num_cells + 1)),
        ids_N=place_N,
        vectors_ND=content_q_ND[place_N].astype(np.int8),
    )


def _best_cell(
    vectors_nD: npt.NDArray[np.float32], centroid_LD: npt.NDArray[np.float32], chunk: int
) -> Longs:
    """The cell of largest inner product, the lowest of equals; exact, as all terms are integers."""
    parts = (vectors_nD[start : start + chunk] for start in range(0, len(vectors_nD), chunk))
    return np.concatenate([(part @ centroid_LD.T).argmax(axis=1) for part in parts])


@compiled
def first_reaching(sum_N: Floats, guide_N: Ints, reach_UP: Floats, found_UP: Ints) -> None:
    """Fills `found_UP` with `np.searchsorted(sum_N, reach_UP)` in constant expected time.

    Twelve times as fast at 200,000 items. `guide_N` holds for each of N equal parts of the sum's
    range the first item that reaches it.
    """
    n = len(sum_N)
    scale = n / sum_N[-1]
    for row in range(reach_UP.shape[0]):
        for place in range(reach_UP.shape[1]):
            reach = reach_UP[row, place]
            # One part back, as the product may be rounded up to the next part.
            item = guide_N[max(min(int(reach * scale), n - 1) - 1, 0)]
            while item < n and sum_N[item] < reach:
                item += 1
            found_UP[row, place] = item


@compiled
def fill_rows(
    index: CellIndex,
    live_U: Longs,
    seen_US: Ints,
    vectors_UQVD: npt.NDArray[np.int16],
    proposals_UP: Ints,
    proposals_Q: Longs,
    quota_Q: Longs,
    stripe_U: Longs,
    stripes: int,
    probed: int,
    start_U: Longs,
    stride_U: Longs,
    packed_UC: Ints,
    count_U: Longs,
) -> None:
    """Fills each user's row with packed candidates, unsorted, and counts them, at most C.

    Args:
        index: of all items.
        live_U: items below this number exist.
        seen_US: never to be candidates; -1 is nothing.
        vectors_UQVD: query vectors of the content channels; zeros are none.
        proposals_UP: of the other channels with a quota, one after the other in a row.
        proposals_Q: number of proposals of each of these.
        quota_Q: of all channels with a quota, the content channels first.
        stripe_U: which part of each cell is searched.
        stripes: into how many parts cells are cut.
        probed: live items in the cells opened, per candidate of the full quota.
        start_U: where the walk of exploration begins.
        stride_U: its stride, coprime to all numbers of live items.
        packed_UC: is filled.
        count_U: is filled.
    """
    num_content = vectors_UQVD.shape[1]
    taken_N = np.zeros(len(index.ids_N), np.uint8)
    score_N, item_N = np.empty(len(taken_N), np.int32), np.empty(len(taken_N), np.int32)
    for user in range(len(live_U)):
        live, row_C = live_U[user], packed_UC[user]
        for item in seen_US[user]:
            if item >= 0:
                taken_N[item] = _SEEN
        filled, first = 0, 0
        for channel in range(len(quota_Q)):
            quota = quota_Q[channel]
            if channel < num_content:
                query_KD = _known_vectors(vectors_UQVD[user, channel])
                if len(query_KD) > 0 and quota > 0:
                    budget = probed * quota * stripes
                    found = _scan(
                        index,
                        query_KD,
                        live,
                        stripe_U[user],
                        stripes,
                        budget,
                        taken_N,
                        score_N,
                        item_N,
                    )
                    best_n = _best(score_N[:found], item_N[:found], quota)
                    filled = _take(best_n, live, quota, taken_N, channel, row_C, filled)
            else:
                proposal_P = proposals_UP[user, first : first + proposals_Q[channel - num_content]]
                filled = _take(proposal_P, live, quota, taken_N, channel, row_C, filled)
                first += len(proposal_P)
        filled = _explore(live, start_U[user], stride_U[user], taken_N, len(quota_Q), row_C, filled)
        count_U[user] = filled
        for place in range(filled):
            taken_N[row_C[place] >> CHANNEL_BITS] = 0
        for item in seen_US[user]:
            if item >= 0:
                taken_N[item] = 0
        if filled < len(row_C):
            return


@compiled
def _known_vectors(vectors_VD: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """The rows that are not all zero, [K, D]."""
    kept_KD = np.empty(vectors_VD.shape, np.int16)
    count = 0
    for v in range(len(vectors_VD)):
        kept_KD[count] = vectors_VD[v]
        count += vectors_VD[v].any()
    return kept_KD[:count]


@compiled
def _scan(
    index: CellIndex,
    query_KD: npt.NDArray[np.int16],
    live: int,
    stripe: int,
    stripes: int,
    budget: int,
    taken_N: Flags,
    score_N: Ints,
    item_N: Ints,
) -> int:
    """Scores the free items of a stripe of the best cells; returns how many.

    Cells are opened in order of the best inner product of their centroid with any of the vectors,
    at least `MIN_CELLS` for each vector, until `budget` live items lie in the open ones.
    """
    num_cells = len(index.centroid_LD)
    order_L = np.empty(num_cells, np.int64)
    for cell in range(num_cells):  # the largest score first, then the lowest cell
        order_L[cell] = (-np.int64(_best_product(query_KD, index.centroid_LD[cell])) << 32) | cell
    order_L.sort()
    count, reached = 0, 0
    least = min(MIN_CELLS * len(query_KD), num_cells)
    for opened in range(num_cells):
        if opened >= least and reached >= budget:
            break
        cell = order_L[opened] & 0xFFFFFFFF
        first = index.start_L[cell]
        num_live = int(np.searchsorted(index.ids_N[first : index.start_L[cell + 1]], live))
        reached += num_live
        # Shifted by the cell, so that no stripe is the first of every cell.
        for rank in range((stripe + cell) % stripes, num_live, stripes):
            item = index.ids_N[first + rank]
            if taken_N[item] == 0:
                score_N[count] = _best_product(query_KD, index.vectors_ND[first + rank])
                item_N[count] = item
                count += 1
    return count


@compiled
def _best_product(query_KD: npt.NDArray[np.int16], vector_D: npt.NDArray[np.int8]) -> np.int32:
    best = np.int32(_LOWEST)
    for k in range(len(query_KD)):
        total = np.int32(0)
        for d in range(query_KD.shape[1]):
            total += np.int32(query_KD[k, d]) * np.int32(vector_D[d])
        best = max(best, total)
    return best


@compiled
def _best(score_n: Ints, item_n: Ints, quota: int) -> Ints:
    """The `quota` items of largest score, of equals those of lowest id, in any order."""
    if len(score_n) <= quota:
        return item_n
    # Counting, not sorting: all above the bucket where the quota is reached are in.
    low = score_n.min()
    span, shift = score_n.max() - low, 0
    while (span >> shift) >= _BUCKETS:
        shift += 1
    count_B = np.zeros(_BUCKETS, np.int32)
    for score in score_n:
        count_B[(score - low) >> shift] += 1
    edge, above = _BUCKETS - 1, 0
    while above + count_B[edge] < quota:
        above += count_B[edge]
        edge -= 1
    best = np.empty(quota, np.int32)
    on_edge = np.empty(count_B[edge], np.int64)
    num_best, num_on_edge = 0, 0
    for place in range(len(score_n)):
        bucket = (score_n[place] - low) >> shift
        if bucket > edge:
            best[num_best] = item_n[place]
            num_best += 1
        elif bucket == edge:
            on_edge[num_on_edge] = (-np.int64(score_n[place]) << 32) | np.int64(item_n[place])
            num_on_edge += 1
    on_edge.sort()
    for place in range(quota - above):
        best[num_best + place] = on_edge[place] & 0xFFFFFFFF
    return best


@compiled
def _take(
    proposal_P: Ints, live: int, quota: int, taken_N: Flags, channel: int, row_C: Ints, filled: int
) -> int:
    """Takes the first `quota` proposals that are live and free; returns the end."""
    last = filled + quota
    for item in proposal_P:
        if filled == last:
            break
        if 0 <= item < live and taken_N[item] == 0:
            taken_N[item] = _TAKEN
            row_C[filled] = (item << CHANNEL_BITS) | channel
            filled += 1
    return filled


@compiled
def _explore(
    live: int, start: int, stride: int, taken_N: Flags, channel: int, row_C: Ints, filled: int
) -> int:
    """Any free items until the row is full: a walk that visits each live item once."""
    item, step = start, stride % live
    for _ in range(live):
        if filled == len(row_C):
            break
        if taken_N[item] == 0:
            taken_N[item] = _TAKEN
            row_C[filled] = (item << CHANNEL_BITS) | channel
            filled += 1
        item += step
        if item >= live:
            item -= live
    return filled
