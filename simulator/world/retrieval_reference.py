"""Reference implementation of the retrieval stage: one user at a time in plain numpy.

Draws as `simulator.world.retrieval` does and finds the same candidates (a test).
With `probed=None` every cell is searched: the exact nearest neighbours, against which recall is
measured.

Letters: C candidates, N items, n some of them, D content width, V query vectors, P proposals.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from simulator.world import retrieval
from simulator.world.arrays import Bools, Longs
from simulator.world.catalog import ObservedCatalog
from simulator.world.config import WorldConfig
from simulator.world.queries import Candidates, Channel, RetrievalQuery
from simulator.world.retrieval_search import MIN_CELLS, CellIndex, build_index


class ReferenceRetrieval:
    """`simulator.world.retrieval.ChannelRetrieval`, O(N D) a user where every cell is searched.

    Args:
        catalog: the observed one.
        config: of the world.
        probed: as there; None searches every cell.
        index: as built by `build_index`, if the caller has it already.
    """

    def __init__(
        self,
        catalog: ObservedCatalog,
        config: WorldConfig,
        *,
        probed: int | None = None,
        index: CellIndex | None = None,
    ) -> None:
        self._catalog, self._config, self._probed = catalog, config, probed
        self._index = index or build_index(catalog.seed, catalog.content_q_ND)
        self._cell_N = np.empty(len(catalog.items), np.int64)
        self._rank_N = np.empty(len(catalog.items), np.int64)
        for cell, start in enumerate(self._index.start_L[:-1]):
            ids_n = self._index.ids_N[start : self._index.start_L[cell + 1]]
            self._cell_N[ids_n] = cell
            self._rank_N[ids_n] = np.arange(len(ids_n))

    def retrieve(self, query: RetrievalQuery) -> Candidates:
        """As `ChannelRetrieval.retrieve`."""
        shape = (len(query), query.num_candidates)
        found = Candidates(ids_UC=np.empty(shape, np.int32), channels_UC=np.empty(shape, np.int8))
        for row in range(len(query)):
            channel_of = self._channel_of(query.take(np.array([row])))
            found.ids_UC[row] = sorted(channel_of)
            found.channels_UC[row] = [channel_of[item] for item in sorted(channel_of)]
        return found

    def _channel_of(self, query: RetrievalQuery) -> dict[int, int]:
        """One user's candidates and what brought each."""
        catalog, num_candidates = self._catalog, query.num_candidates
        live_U = catalog.num_live(query.time_ms_U)
        live = int(live_U[0])
        seen = set(query.seen_US[0].tolist())
        quota = dict(zip(retrieval.QUOTAS, retrieval.quotas(num_candidates).tolist(), strict=True))
        chosen: dict[int, int] = {}

        def take(proposals_P: npt.NDArray[np.integer], channel: Channel, limit: int) -> None:
            for item in proposals_P.tolist():
                if limit == 0:
                    return
                if 0 <= item < live and item not in seen and item not in chosen:
                    chosen[item] = channel
                    limit -= 1

        stripe = int(retrieval.query_stripes(catalog, query)[0])
        vectors_QVD = retrieval.content_vectors(catalog, self._config, query)[0]
        for channel, vectors_VD in zip((Channel.RECENT, Channel.LONG), vectors_QVD, strict=True):
            nearest_n = self._nearest(vectors_VD, live, stripe, query.stripes, quota[channel])
            take(nearest_n, channel, quota[channel])
        author, popular, fresh = (
            retrieval.OVERSAMPLING * quota[c]
            for c in (Channel.AUTHOR, Channel.POPULAR, Channel.FRESH)
        )
        reach_P = retrieval.popular_reach(catalog, query, live_U, popular)[0]
        proposals = {
            Channel.AUTHOR: retrieval.by_author(catalog, query, author)[0],
            Channel.POPULAR: np.searchsorted(catalog.popularity_sum_N, reach_P),
            Channel.FRESH: retrieval.among_fresh(catalog, query, live_U, fresh)[0],
        }
        for channel, proposal_P in proposals.items():
            take(proposal_P, channel, quota[channel])
        start_U, stride_U = retrieval.walks(catalog, query, live_U)
        walk_P = (start_U[0] + stride_U[0] * np.arange(live)) % live
        take(walk_P, Channel.EXPLORE, num_candidates - len(chosen))
        retrieval.require_full(query, np.array([len(chosen)]))
        return chosen

    def _nearest(
        self, vectors_VD: npt.NDArray[np.int16], live: int, stripe: int, stripes: int, quota: int
    ) -> Longs:
        """Live items of a stripe of the opened cells, best first, of equals the lowest id."""
        known_KD = vectors_VD[(vectors_VD != 0).any(axis=1)].astype(np.int64)
        if len(known_KD) == 0 or quota == 0:
            return np.empty(0, np.int64)
        cell_n, rank_n = self._cell_N[:live], self._rank_N[:live]
        eligible_n = rank_n % stripes == (stripe + cell_n) % stripes
        if self._probed is not None:
            eligible_n &= self._opened(known_KD, live, self._probed * quota * stripes)[cell_n]
        item_n = np.flatnonzero(eligible_n)
        content_nD = self._catalog.content_q_ND[item_n].astype(np.int64)
        score_n = (content_nD @ known_KD.T).max(axis=1)
        return item_n[np.argsort(-score_n, kind="stable")]

    def _opened(self, known_KD: Longs, live: int, budget: int) -> Bools:
        """The cells that are opened: the best, until `budget` live items lie in them."""
        score_L = (self._index.centroid_LD.astype(np.int64) @ known_KD.T).max(axis=1)
        size_L = np.bincount(self._cell_N[:live], minlength=len(score_L))
        order_L = np.argsort(-score_L, kind="stable")
        before_L = np.cumsum(size_L[order_L]) - size_L[order_L]
        opened_L = np.zeros(len(score_L), bool)
        opened_L[order_L[before_L < budget]] = True
        opened_L[order_L[: MIN_CELLS * len(known_KD)]] = True
        return opened_L
