"""The compiled loops of the retrieval stage: one user after another, over reusable scratch memory.

Knows arrays only. All arithmetic is on integers (see `simulator.compiled`), and a user's row is
computed from that user's inputs alone. `simulator.retrieval_naive` does the same in plain numpy.

Letters: U users, C candidates, N items, n some of them, L cells, D content width, V query vectors,
K those of them that are known, P proposals, Q channels with quotas, S seen items, B buckets.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from simulator.compiled import compiled

__all__ = ["CHANNEL_BITS", "MIN_CELLS", "fill_rows", "first_reaching"]

CHANNEL_BITS = 3
"""A candidate is packed as id * 8 + channel, so that sorting by id carries the channel along."""

MIN_CELLS = 4
"""Cells opened per query vector at least, so that small quotas have a neighbourhood too."""

_SEEN, _TAKEN = 1, 2
_BUCKETS = 1_024
_LOWEST = -(2**31)

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Flags = npt.NDArray[np.uint8]


@compiled
def first_reaching(
    sum_N: npt.NDArray[np.float64],
    guide_N: Ints,
    reach_UP: npt.NDArray[np.float64],
    found_UP: Ints,
) -> None:
    """`np.searchsorted(sum_N, reach_UP)` in constant expected time.

    Args:
        sum_N: a running sum of shares.
        guide_N: for each of N equal parts of the sum's range, the first item that reaches it.
        reach_UP: in (0, sum_N[-1]).
        found_UP: is filled.
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
    centroid_LD: npt.NDArray[np.int16],
    start_L: Longs,
    ids_N: Ints,
    vectors_ND: npt.NDArray[np.int8],
    live_U: Longs,
    seen_US: Ints,
    recent_UVD: npt.NDArray[np.int16],
    long_UVD: npt.NDArray[np.int16],
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
    """Fills each user's row with packed candidates, unsorted, and says how many it found.

    Args:
        centroid_LD: of a `CellIndex`, as the next three.
        start_L: where its cells begin.
        ids_N: its items.
        vectors_ND: their content.
        live_U: items below this number exist.
        seen_US: never to be candidates; -1 is nothing.
        recent_UVD: query vectors of the recent channel; zeros are none.
        long_UVD: query vectors of the long channel.
        proposals_UP: of the other channels with a quota, one after the other in a row.
        proposals_Q: how many proposals each of these has.
        quota_Q: of all channels with a quota, the two content channels first.
        stripe_U: which part of each cell is searched.
        stripes: into how many parts cells are cut.
        probed: live items in the cells opened, per candidate of the full quota.
        start_U: where the walk of exploration begins.
        stride_U: its stride, coprime to all numbers of live items.
        packed_UC: is filled.
        count_U: is set to the number of candidates found, at most C.
    """
    num_candidates = packed_UC.shape[1]
    taken_N = np.zeros(len(ids_N), np.uint8)
    score_N = np.empty(len(ids_N), np.int32)
    item_N = np.empty(len(ids_N), np.int32)
    for user in range(len(live_U)):
        live, row_C = live_U[user], packed_UC[user]
        for item in seen_US[user]:
            if item >= 0:
                taken_N[item] = _SEEN
        filled = 0
        for channel in range(2):
            vectors_VD = recent_UVD[user] if channel == 0 else long_UVD[user]
            query_KD = _known_vectors(vectors_VD)
            quota = quota_Q[channel]
            if len(query_KD) > 0 and quota > 0:
                found = _scan(
                    centroid_LD, start_L, ids_N, vectors_ND, query_KD, live, stripe_U[user],
                    stripes, probed * quota * stripes, taken_N, score_N, item_N,
                )  # fmt: skip
                filled = _keep_best(
                    score_N[:found], item_N[:found], quota, taken_N, channel, row_C, filled
                )
        first = 0
        for channel in range(2, len(quota_Q)):
            last = first + proposals_Q[channel - 2]
            filled = _propose(
                proposals_UP[user, first:last], live, quota_Q[channel], taken_N, channel, row_C,
                filled,
            )  # fmt: skip
            first = last
        filled = _explore(live, start_U[user], stride_U[user], taken_N, len(quota_Q), row_C, filled)
        count_U[user] = filled
        for place in range(filled):
            taken_N[row_C[place] >> CHANNEL_BITS] = 0
        for item in seen_US[user]:
            if item >= 0:
                taken_N[item] = 0
        if filled < num_candidates:
            return


@compiled
def _known_vectors(vectors_VD: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """The rows that are not all zero, [K, D]."""
    kept_KD = np.empty(vectors_VD.shape, np.int16)
    count = 0
    for v in range(len(vectors_VD)):
        known = False
        for d in range(vectors_VD.shape[1]):
            kept_KD[count, d] = vectors_VD[v, d]
            known |= vectors_VD[v, d] != 0
        count += known
    return kept_KD[:count]


@compiled
def _scan(
    centroid_LD: npt.NDArray[np.int16],
    start_L: Longs,
    ids_N: Ints,
    vectors_ND: npt.NDArray[np.int8],
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
    num_cells = len(centroid_LD)
    # A heap: most cells are never opened. The least key is the largest score, then the lowest cell.
    closed_L = np.empty(num_cells, np.int64)
    for cell in range(num_cells):
        closed_L[cell] = (-np.int64(_best_product(query_KD, centroid_LD[cell])) << 32) | cell
    _heapify(closed_L)
    count, opened, reached = 0, 0, 0
    least = min(MIN_CELLS * len(query_KD), num_cells)
    while opened < least or (reached < budget and opened < num_cells):
        cell = closed_L[0] & 0xFFFFFFFF
        opened += 1
        closed_L[0] = closed_L[num_cells - opened]
        _sift_down(closed_L[: num_cells - opened], 0)
        first = start_L[cell]
        num_live = _num_below(ids_N[first : start_L[cell + 1]], live)
        reached += num_live
        # Shifted by the cell, so that no stripe is the first of every cell.
        for rank in range((stripe + cell) % stripes, num_live, stripes):
            place = first + rank
            item = ids_N[place]
            if taken_N[item] == 0:
                score_N[count] = _best_product(query_KD, vectors_ND[place])
                item_N[count] = item
                count += 1
    return count


@compiled
def _heapify(heap: Longs) -> None:
    """Orders a binary heap, the least first: cheaper than sorting where few are taken."""
    for parent in range(len(heap) // 2 - 1, -1, -1):
        _sift_down(heap, parent)


@compiled
def _sift_down(heap: Longs, place: int) -> None:
    """Restores the order below one place of a binary heap whose least key is first."""
    if len(heap) == 0:
        return
    key = heap[place]
    while 2 * place + 1 < len(heap):
        child = 2 * place + 1
        if child + 1 < len(heap) and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = key


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
def _num_below(ids_n: Ints, limit: int) -> int:
    """How many of increasing ids are below a limit."""
    low, high = 0, len(ids_n)
    while low < high:
        middle = (low + high) // 2
        if ids_n[middle] < limit:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _take(item: int, taken_N: Flags, channel: int, row_C: Ints, filled: int) -> int:
    taken_N[item] = _TAKEN
    row_C[filled] = (item << CHANNEL_BITS) | channel
    return filled + 1


@compiled
def _keep_best(
    score_n: Ints,
    item_n: Ints,
    quota: int,
    taken_N: Flags,
    channel: int,
    row_C: Ints,
    filled: int,
) -> int:
    """Takes the `quota` items of largest score, of equals those of lowest id; returns the end."""
    if len(score_n) <= quota:
        for item in item_n:
            filled = _take(item, taken_N, channel, row_C, filled)
        return filled
    # Counting, not sorting: all above the bucket where the quota is reached are in.
    low, high = score_n[0], score_n[0]
    for score in score_n:
        low, high = min(low, score), max(high, score)
    span, shift = high - low, 0
    while (span >> shift) >= _BUCKETS:
        shift += 1
    count_B = np.zeros(_BUCKETS, np.int32)
    for score in score_n:
        count_B[(score - low) >> shift] += 1
    edge, above = _BUCKETS - 1, 0
    while above + count_B[edge] < quota:
        above += count_B[edge]
        edge -= 1
    on_edge = np.empty(count_B[edge], np.int64)
    seen_on_edge = 0
    for place in range(len(score_n)):
        bucket = (score_n[place] - low) >> shift
        if bucket > edge:
            filled = _take(item_n[place], taken_N, channel, row_C, filled)
        elif bucket == edge:
            on_edge[seen_on_edge] = (-np.int64(score_n[place]) << 32) | np.int64(item_n[place])
            seen_on_edge += 1
    _heapify(on_edge)
    for last in range(seen_on_edge - 1, seen_on_edge - 1 - (quota - above), -1):
        filled = _take(on_edge[0] & 0xFFFFFFFF, taken_N, channel, row_C, filled)
        on_edge[0] = on_edge[last]
        _sift_down(on_edge[:last], 0)
    return filled


@compiled
def _propose(
    proposal_P: Ints, live: int, quota: int, taken_N: Flags, channel: int, row_C: Ints, filled: int
) -> int:
    """Takes the first `quota` proposals that are live and free; returns the end."""
    last = filled + quota
    for item in proposal_P:
        if filled == last:
            break
        if 0 <= item < live and taken_N[item] == 0:
            filled = _take(item, taken_N, channel, row_C, filled)
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
            filled = _take(item, taken_N, channel, row_C, filled)
        item += step
        if item >= live:
            item -= live
    return filled
