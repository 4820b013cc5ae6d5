"""The retrieval stage: several noisy channels, each user's C unique candidates.

Knows the observed catalogue and what a query carries; no latent topics, no hidden user state, no
ranker. `ChannelRetrieval` is the default; another stage is any class with its `retrieve` method
(`simulator.world.queries.Retrieval`), given to a world by a function of catalogue and config:

    class Newest:
        def __init__(self, catalog, config): ...
        def retrieve(self, query): return Candidates(ids_UC=..., channels_UC=...)

    world = World(config, seed, retrieval=Newest)

It must keep the contract: exactly C unique, uploaded, unseen ids, increasing in each row, a row
depending on its own query alone.

The content channels search an inverted file of our own, not a library's: a million items, the 3,000
nearest to any of four vectors take 0.83 ms at a recall of 0.984, faiss's IndexIVFFlat 4.5 ms at
0.980 (one core of an AMD EPYC, faiss-cpu 1.15). A library has no union of vectors and no stripes,
and trains on floats, whose sums another BLAS rounds otherwise; here a candidate set is part of a
log that must come out the same to the bit.

Letters: U users (queries), C candidates, N items, D content width, V query vectors, R recent
positives, M long interests, A authors, P proposals.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ifa_ray.errors import RequestError
from simulator.world.arrays import Floats, Ints, Longs
from simulator.world.catalog import ObservedCatalog
from simulator.world.config import WorldConfig
from simulator.world.crn import Purpose, hash_keys, normal, uniform
from simulator.world.queries import Candidates, Channel, RetrievalQuery
from simulator.world.retrieval_search import (
    CHANNEL_BITS,
    CellIndex,
    build_index,
    fill_rows,
    first_reaching,
)

QUOTAS: Mapping[Channel, float] = {
    Channel.RECENT: 0.30,
    Channel.LONG: 0.25,
    Channel.AUTHOR: 0.05,
    Channel.POPULAR: 0.20,
    Channel.FRESH: 0.05,
}
"""Shares of C asked from each channel, in this order; exploration fills what they and their
overlaps leave."""

PROBED = 16
"""Live items in the cells that a content channel opens, per candidate of its quota."""

OVERSAMPLING = 2
FRESH_WINDOW = 10

# Draws of one chunk of queries: they stay in the cache between drawing and use.
_CHUNK_DRAWS = 262_144

# Primes: a stride that is prime and above N visits every item once before it repeats.
STRIDES = np.array([
    15_485_863, 32_452_843, 49_979_687, 67_867_967, 86_028_121, 104_395_301, 122_949_823,
    141_650_939, 160_481_183, 179_424_673, 198_491_317, 217_645_177, 236_887_691, 256_203_161,
    275_604_541, 295_075_147, 314_606_869, 334_214_459, 353_868_013, 373_587_883,
])  # fmt: skip


class ChannelRetrieval:
    """The default stage: content, authors, popularity, fresh items and exploration.

    A query of several stripes searches one of them in each cell of the index, so that its
    candidates are a sample of what the full search would find, not its very best.
    """

    def __init__(
        self, catalog: ObservedCatalog, config: WorldConfig, *, probed: int = PROBED
    ) -> None:
        self._catalog, self._config, self._probed = catalog, config, probed
        self.index: CellIndex = build_index(catalog.seed, catalog.content_q_ND)
        n = len(catalog.items)
        parts = np.arange(n) * (catalog.popularity_sum_N[-1] / n)
        self._guide_N = np.searchsorted(catalog.popularity_sum_N, parts).astype(np.int32)

    def retrieve(self, query: RetrievalQuery) -> Candidates:
        """Exactly C unique, uploaded, unseen candidates for each user.

        A user's row depends on that user's query alone, bit for bit.

        Raises:
            RequestError: if a user has fewer than C uploaded, unseen items left.
        """
        draws = sum(_num_proposals(query.num_candidates))
        size = max(1, _CHUNK_DRAWS // max(1, draws))
        packed_UC = np.empty((len(query), query.num_candidates), np.int32)
        for start in range(0, len(query), size):
            rows = np.arange(start, min(start + size, len(query)))
            self._fill(query.take(rows), packed_UC[start : start + size])
        packed_UC.sort(axis=1)
        channels_UC = (packed_UC & ((1 << CHANNEL_BITS) - 1)).astype(np.int8)
        packed_UC >>= CHANNEL_BITS
        return Candidates(ids_UC=packed_UC, channels_UC=channels_UC)

    def _fill(self, query: RetrievalQuery, packed_UC: Ints) -> None:
        catalog, num_candidates = self._catalog, query.num_candidates
        live_U = catalog.num_live(query.time_ms_U)
        author, popular, fresh = _num_proposals(num_candidates)
        proposals_UP = np.empty((len(query), author + popular + fresh), np.int32)
        proposals_UP[:, :author] = by_author(catalog, query, author)
        first_reaching(
            catalog.popularity_sum_N,
            self._guide_N,
            popular_reach(catalog, query, live_U, popular),
            proposals_UP[:, author : author + popular],
        )
        proposals_UP[:, author + popular :] = among_fresh(catalog, query, live_U, fresh)
        count_U = np.full(len(query), num_candidates)
        fill_rows(
            self.index,
            live_U,
            query.seen_US,
            content_vectors(catalog, self._config, query),
            proposals_UP,
            np.array([author, popular, fresh]),
            quotas(num_candidates),
            query_stripes(catalog, query),
            query.stripes,
            self._probed,
            *walks(catalog, query, live_U),
            packed_UC,
            count_U,
        )
        require_full(query, count_U)


def quotas(num_candidates: int) -> Longs:
    """Most candidates that each channel of `QUOTAS` brings."""
    return np.array([int(share * num_candidates) for share in QUOTAS.values()])


def _num_proposals(num_candidates: int) -> tuple[int, int, int]:
    """Draws of the author, popular and fresh channels."""
    author, popular, fresh = (OVERSAMPLING * int(q) for q in quotas(num_candidates)[2:])
    return author, popular, fresh


def require_full(query: RetrievalQuery, count_U: Longs) -> None:
    """Raises what `ChannelRetrieval.retrieve` says it raises."""
    short_U = np.flatnonzero(count_U < query.num_candidates)
    if len(short_U):
        raise RequestError(
            f"user {query.user_id_U[short_U[0]]}: {count_U[short_U[0]]} uploaded, unseen items, "
            f"must be >= num_candidates == {query.num_candidates}."
        )


def query_stripes(catalog: ObservedCatalog, query: RetrievalQuery) -> Longs:
    """The stripe of each cell that every user's query searches."""
    bits_U = hash_keys(catalog.seed, Purpose.STRIPE, *query.keys)[:, 0]
    return (bits_U % np.uint64(query.stripes)).astype(np.int64)


def content_vectors(
    catalog: ObservedCatalog, config: WorldConfig, query: RetrievalQuery
) -> npt.NDArray[np.int16]:
    """Query vectors of the recent and the long channel with keyed noise, [U, 2, V, D].

    Rounded to integers; zeros where there are none.
    """
    recent_URD = catalog.items.content_ND[query.recent_UR]
    recent_URD[query.recent_UR < 0] = 0
    vectors_UVD = np.concatenate([recent_URD, query.long_UMD], axis=1)
    num_users, v, d = vectors_UVD.shape
    keys = (key[:, :, None] for key in query.keys)
    noise_UVD = normal(
        catalog.seed, Purpose.QUERY_NOISE, *keys, np.arange(v)[:, None], np.arange(d)
    )
    known_UV1 = (vectors_UVD != 0).any(axis=2, keepdims=True)
    noisy_UVD = vectors_UVD + config.retrieval_noise / np.sqrt(d) * noise_UVD
    noisy_UVD = np.clip(np.rint(127 * noisy_UVD), -127, 127) * known_UV1
    return noisy_UVD.astype(np.int16).reshape(num_users, 2, v // 2, d)


def by_author(catalog: ObservedCatalog, query: RetrievalQuery, draws: int) -> Ints:
    """Items of loved authors, drawn with replacement; the most loved are drawn more often."""
    draw = np.arange(draws)
    known_U = (query.authors_UA >= 0).sum(axis=1)
    u_UP = uniform(catalog.seed, Purpose.AUTHOR_CHANNEL, *query.keys, draw)
    which_UP = (u_UP * np.sqrt(u_UP) * known_U[:, None]).astype(np.int64)
    author_UP = np.take_along_axis(query.authors_UA, which_UP, axis=1)
    start_UP = catalog.author_start_A[author_UP]
    size_UP = catalog.author_start_A[author_UP + 1] - start_UP
    place_UP = (uniform(catalog.seed, Purpose.AUTHOR_ITEM, *query.keys, draw) * size_UP).astype(int)
    item_UP = catalog.author_items_N[np.minimum(start_UP + place_UP, len(catalog.items) - 1)]
    return np.where((author_UP >= 0) & (size_UP > 0), item_UP, -1).astype(np.int32)


def popular_reach(
    catalog: ObservedCatalog, query: RetrievalQuery, live_U: Longs, draws: int
) -> Floats:
    """Where in the running sum of the live items' shares of impressions to draw, [U, P]."""
    u_UP = uniform(catalog.seed, Purpose.POPULAR_CHANNEL, *query.keys, np.arange(draws))
    return u_UP * catalog.popularity_sum_N[live_U - 1][:, None]


def among_fresh(catalog: ObservedCatalog, query: RetrievalQuery, live_U: Longs, draws: int) -> Ints:
    """Items drawn with replacement from the latest uploads."""
    u_UP = uniform(catalog.seed, Purpose.FRESH_CHANNEL, *query.keys, np.arange(draws))
    window_U = np.minimum(FRESH_WINDOW * draws // OVERSAMPLING, live_U)
    return (live_U[:, None] - 1 - (u_UP * window_U[:, None]).astype(np.int64)).astype(np.int32)


def walks(catalog: ObservedCatalog, query: RetrievalQuery, live_U: Longs) -> tuple[Longs, Longs]:
    """Where each user's exploration begins, and its stride."""
    bits_U = hash_keys(catalog.seed, Purpose.EXPLORE, *query.keys)[:, 0]
    start_U = (bits_U % live_U.astype(np.uint64)).astype(np.int64)
    return start_U, STRIDES[(bits_U >> np.uint64(40)) % np.uint64(len(STRIDES))]
