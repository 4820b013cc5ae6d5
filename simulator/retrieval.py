"""The retrieval stage: several noisy channels, each user's C unique candidates.

Knows the observed catalogue and what a query carries; no latent topics, no hidden user state, no
ranker. Cost per query is O(N D / stripes) for the content channels and O(C) for the rest.

Letters: U users (queries), C candidates, N items, n items of a stripe, D content width, R recent
positives, M long interests, A authors, S seen items, P proposals, Q a channel's quota.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ifa_ray.errors import RequestError
from simulator.catalog import ObservedCatalog
from simulator.config import WorldConfig
from simulator.crn import Purpose, hash_keys, normal, uniform
from simulator.queries import Candidates, Channel, RetrievalQuery

__all__ = ["QUOTAS", "Candidates", "Channel", "RetrievalQuery", "retrieve"]


QUOTAS: Mapping[Channel, float] = {
    Channel.RECENT: 0.30,
    Channel.LONG: 0.25,
    Channel.AUTHOR: 0.05,
    Channel.POPULAR: 0.20,
    Channel.FRESH: 0.05,
}
"""Shares of C asked from each channel; exploration fills what they and their overlaps leave."""

OVERSAMPLING = 2
FRESH_WINDOW = 10

# Masks of seen items of one chunk of queries stay below this many bytes.
CHUNK_CELLS = 8_000_000

# Primes: a stride that is prime and above N visits every item once before it repeats.
STRIDES = np.array([
    15_485_863, 32_452_843, 49_979_687, 67_867_967, 86_028_121, 104_395_301, 122_949_823,
    141_650_939, 160_481_183, 179_424_673, 198_491_317, 217_645_177, 236_887_691, 256_203_161,
    275_604_541, 295_075_147, 314_606_869, 334_214_459, 353_868_013, 373_587_883,
])  # fmt: skip

_UNWANTED = np.float32(-1e9)


def retrieve(catalog: ObservedCatalog, config: WorldConfig, query: RetrievalQuery) -> Candidates:
    """Exactly C unique, uploaded, unseen candidates for each user.

    A user's row depends on that user's query alone, bit for bit.

    Raises:
        RequestError: if a user has fewer than C uploaded, unseen items left.
    """
    size = max(1, CHUNK_CELLS // len(catalog.items))
    parts = [
        _retrieve_chunk(
            catalog, config, query.take(np.arange(start, min(start + size, len(query))))
        )
        for start in range(0, len(query), size)
    ]
    if not parts:
        empty = (0, query.num_candidates)
        return Candidates(ids_UC=np.empty(empty, np.int32), channels_UC=np.empty(empty, np.int8))
    return Candidates(
        ids_UC=np.concatenate([part.ids_UC for part in parts]),
        channels_UC=np.concatenate([part.channels_UC for part in parts]),
    )


def _retrieve_chunk(
    catalog: ObservedCatalog, config: WorldConfig, query: RetrievalQuery
) -> Candidates:
    live_U = catalog.num_live(query.time_ms_U)
    seen_UN = np.zeros((len(query), len(catalog.items)), bool)
    known = query.seen_US >= 0
    seen_UN[np.nonzero(known)[0], query.seen_US[known]] = True

    quota = {channel: int(share * query.num_candidates) for channel, share in QUOTAS.items()}
    recent, long = _by_content(
        catalog, config, query, live_U, seen_UN, quota[Channel.RECENT], quota[Channel.LONG]
    )
    proposals = {
        Channel.RECENT: recent,
        Channel.LONG: long,
        Channel.AUTHOR: _by_author(catalog, query, quota[Channel.AUTHOR]),
        Channel.POPULAR: _popular(catalog, query, live_U, quota[Channel.POPULAR]),
        Channel.FRESH: _fresh(catalog, query, live_U, quota[Channel.FRESH]),
    }
    kept_U = np.zeros(len(query), np.int64)
    taken_UN = seen_UN
    rows, ids, channels = [], [], []
    for channel, proposal_UP in proposals.items():
        row, item = _first_unseen(proposal_UP, taken_UN, live_U, quota[channel])
        taken_UN[row, item] = True
        kept_U += np.bincount(row, minlength=len(query))
        rows.append(row)
        ids.append(item)
        channels.append(np.full(len(row), channel, np.int8))
    row, item = _explore(catalog, query, live_U, taken_UN, query.num_candidates - kept_U)
    rows.append(row)
    ids.append(item)
    channels.append(np.full(len(row), Channel.EXPLORE, np.int8))
    return _assemble(query, np.concatenate(rows), np.concatenate(ids), np.concatenate(channels))


def _by_content(
    catalog: ObservedCatalog,
    config: WorldConfig,
    query: RetrievalQuery,
    live_U: npt.NDArray[np.int64],
    seen_UN: npt.NDArray[np.bool_],
    num_recent: int,
    num_long: int,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Nearest items to any recent positive, and to any long interest, [U, Q] each, -1 padded.

    Small candidate sets search one stripe of the catalogue, as an approximate index probes some
    of its cells: the candidates are then a sample of those of the full search.
    """
    stripes = max(1, config.num_candidates // query.num_candidates)
    stripe_U = (hash_keys(catalog.seed, Purpose.STRIPE, *query.keys)[:, 0] % stripes).astype(int)
    recent_URD = catalog.items.content_ND[query.recent_UR]
    recent_URD[query.recent_UR < 0] = 0
    recent_URD = _noisy(catalog, config, query, recent_URD, 0)
    long_UMD = _noisy(catalog, config, query, query.long_UMD, recent_URD.shape[1])
    recent_UQ = np.full((len(query), num_recent), -1, np.int32)
    long_UQ = np.full((len(query), num_long), -1, np.int32)
    for stripe in np.unique(stripe_U):
        group = np.flatnonzero(stripe_U == stripe)
        ids_n = np.arange(stripe, live_U[group].max(), stripes, dtype=np.int32)
        content_nD = catalog.content_q_ND[stripe : live_U[group].max() : stripes]
        unwanted_Gn = seen_UN[group, stripe : live_U[group].max() : stripes]
        unwanted_Gn |= ids_n >= live_U[group, None]
        recent_UQ[group] = _nearest(content_nD, ids_n, recent_URD[group], unwanted_Gn, num_recent)
        long_UQ[group] = _nearest(content_nD, ids_n, long_UMD[group], unwanted_Gn, num_long)
    return recent_UQ, long_UQ


def _noisy(
    catalog: ObservedCatalog,
    config: WorldConfig,
    query: RetrievalQuery,
    vectors_UVD: npt.NDArray[np.float32],
    offset: int,
) -> npt.NDArray[np.float32]:
    """Query vectors with keyed noise, rounded to integers; missing (zero) vectors stay zero."""
    _, v, d = vectors_UVD.shape
    vector, dim = offset + np.arange(v)[:, None], np.arange(d)
    keys = (key[:, :, None] for key in query.keys)
    noise_UVD = normal(catalog.seed, Purpose.QUERY_NOISE, *keys, vector, dim)
    known_UV = (vectors_UVD != 0).any(axis=2)
    noisy_UVD = vectors_UVD + config.retrieval_noise / np.sqrt(d) * noise_UVD
    noisy_UVD = np.clip(np.rint(127 * noisy_UVD), -127, 127)
    return (noisy_UVD * known_UV[:, :, None]).astype(np.float32)


def _nearest(
    content_nD: npt.NDArray[np.float32],
    ids_n: npt.NDArray[np.int32],
    vectors_GVD: npt.NDArray[np.float32],
    unwanted_Gn: npt.NDArray[np.bool_],
    quota: int,
) -> npt.NDArray[np.int32]:
    """Ids of the `quota` largest inner products, by the best of each user's vectors.

    Vectors hold integers, so sums are exact in float32 in any order; ties go to the lowest ids.
    Adds what it found to `unwanted_Gn`.
    """
    g, v, d = vectors_GVD.shape
    found = np.full((g, quota), -1, np.int32)
    if quota == 0 or len(ids_n) == 0:
        return found
    score_Gn = (vectors_GVD.reshape(g * v, d) @ content_nD.T).reshape(g, v, -1).max(axis=1)
    score_Gn[unwanted_Gn] = _UNWANTED
    score_Gn[~(vectors_GVD != 0).any(axis=(1, 2))] = _UNWANTED
    place = max(0, len(ids_n) - quota)
    threshold_G = np.partition(score_Gn, place, axis=1)[:, place]
    keep_Gn = (score_Gn >= threshold_G[:, None]) & (score_Gn > _UNWANTED)
    row, column = np.nonzero(keep_Gn)
    place_in_row = _place_in_row(row, g)
    fits = place_in_row < quota
    row, column = row[fits], column[fits]
    found[row, place_in_row[fits]] = ids_n[column]
    unwanted_Gn[row, column] = True
    return found


def _by_author(
    catalog: ObservedCatalog, query: RetrievalQuery, quota: int
) -> npt.NDArray[np.int32]:
    """Items of loved authors, drawn with replacement; the most loved are drawn more often."""
    draw = np.arange(OVERSAMPLING * quota)
    known_U = (query.authors_UA >= 0).sum(axis=1)
    skew_UP = uniform(catalog.seed, Purpose.AUTHOR_CHANNEL, *query.keys, draw) ** 1.5
    which_UP = (skew_UP * known_U[:, None]).astype(np.int64)
    author_UP = np.take_along_axis(query.authors_UA, which_UP, axis=1)
    start_UP = catalog.author_start_A[author_UP]
    size_UP = catalog.author_start_A[author_UP + 1] - start_UP
    place_UP = (uniform(catalog.seed, Purpose.AUTHOR_ITEM, *query.keys, draw) * size_UP).astype(int)
    item_UP = catalog.author_items_N[np.minimum(start_UP + place_UP, len(catalog.items) - 1)]
    return np.where((author_UP >= 0) & (size_UP > 0), item_UP, -1).astype(np.int32)


def _popular(
    catalog: ObservedCatalog, query: RetrievalQuery, live_U: npt.NDArray[np.int64], quota: int
) -> npt.NDArray[np.int32]:
    """Items drawn with replacement by their share of the platform's impressions."""
    u_UP = uniform(
        catalog.seed, Purpose.POPULAR_CHANNEL, *query.keys, np.arange(OVERSAMPLING * quota)
    )
    reach_UP = u_UP * catalog.popularity_sum_N[live_U - 1][:, None]
    return np.searchsorted(catalog.popularity_sum_N, reach_UP).astype(np.int32)


def _fresh(
    catalog: ObservedCatalog, query: RetrievalQuery, live_U: npt.NDArray[np.int64], quota: int
) -> npt.NDArray[np.int32]:
    """Items drawn from the latest uploads."""
    u_UP = uniform(
        catalog.seed, Purpose.FRESH_CHANNEL, *query.keys, np.arange(OVERSAMPLING * quota)
    )
    age_UP = (u_UP * np.minimum(FRESH_WINDOW * quota, live_U)[:, None]).astype(np.int64)
    return (live_U[:, None] - 1 - age_UP).astype(np.int32)


def _explore(
    catalog: ObservedCatalog,
    query: RetrievalQuery,
    live_U: npt.NDArray[np.int64],
    taken_UN: npt.NDArray[np.bool_],
    missing_U: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Any items, until each user has C: a keyed walk that visits no item twice."""
    bits_U = hash_keys(catalog.seed, Purpose.EXPLORE, *query.keys)[:, 0]
    start_U = (bits_U % live_U.astype(np.uint64)).astype(np.int64)
    stride_U = STRIDES[(bits_U >> np.uint64(40)) % len(STRIDES)]
    # Every step before `steps` may hit a taken item, so this many always suffice, if any do.
    taken = int(taken_UN.sum(axis=1).max(initial=0))
    steps = min(int(missing_U.max(initial=0)) + taken, int(live_U.max(initial=0)))
    walk_UP = (start_U[:, None] + stride_U[:, None] * np.arange(steps)) % live_U[:, None]
    free_UP = ~taken_UN[np.arange(len(query))[:, None], walk_UP]
    free_UP &= np.arange(steps) < live_U[:, None]
    row, step = np.nonzero(free_UP)
    fits = _place_in_row(row, len(query)) < missing_U[row]
    row, step = row[fits], step[fits]
    found_U = np.bincount(row, minlength=len(query))
    if (found_U < missing_U).any():
        short = int(np.flatnonzero(found_U < missing_U)[0])
        raise RequestError(
            f"user {query.user_id_U[short]}: {query.num_candidates - missing_U[short]} + "
            f"{found_U[short]} uploaded, unseen items, must be >= "
            f"num_candidates == {query.num_candidates}."
        )
    return row, walk_UP[row, step].astype(np.int32)


def _first_unseen(
    proposal_UP: npt.NDArray[np.int32],
    taken_UN: npt.NDArray[np.bool_],
    live_U: npt.NDArray[np.int64],
    quota: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Rows and ids of each user's first `quota` proposals that are live, untaken and no repeats."""
    valid_UP = (proposal_UP >= 0) & (proposal_UP < live_U[:, None])
    row, place = np.nonzero(valid_UP)
    item = proposal_UP[row, place]
    free = ~taken_UN[row, item]
    row, item = row[free], item[free]
    # Of equal (row, item) pairs the first stays: `unique` reports first occurrences.
    _, first = np.unique(row * np.int64(taken_UN.shape[1]) + item, return_index=True)
    first.sort()
    row, item = row[first], item[first]
    fits = _place_in_row(row, len(taken_UN)) < quota
    return row[fits], item[fits]


def _place_in_row(row: npt.NDArray[np.int64], num_rows: int) -> npt.NDArray[np.int64]:
    """For sorted row numbers: how many earlier entries have the same row."""
    start = np.searchsorted(row, np.arange(num_rows))
    return np.arange(len(row)) - start[row]


def _assemble(
    query: RetrievalQuery,
    row: npt.NDArray[np.int64],
    item: npt.NDArray[np.int32],
    channel: npt.NDArray[np.int8],
) -> Candidates:
    """Sorts entries by user and video id into [U, C]."""
    order = np.argsort((row << 32) | item.astype(np.int64))
    shape = (len(query), query.num_candidates)
    return Candidates(ids_UC=item[order].reshape(shape), channels_UC=channel[order].reshape(shape))
