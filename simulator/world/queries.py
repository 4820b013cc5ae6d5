"""Values between users and the retrieval stage: queries, candidate sets, channel names.

Knows arrays only; the search for candidates is in `simulator.world.retrieval`.

Letters: U users (queries), C candidates, D content width, R recent positives, M long interests,
A loved authors, S seen items.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ifa_ray.data.history import HistoryBlocks
from ifa_ray.schema import ACTIONS
from simulator.world.arrays import Ints, Longs, RowArrays
from simulator.world.catalog import ObservedCatalog
from simulator.world.config import WorldConfig


class Channel(enum.IntEnum):
    """The retrieval channel that brought a candidate; logged, so never renumber."""

    RECENT = 0
    LONG = 1
    AUTHOR = 2
    POPULAR = 3
    FRESH = 4
    EXPLORE = 5
    RANDOM = 6
    """No retrieval channel: a slot that was filled at random (`is_rand`)."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RetrievalQuery:
    """The platform's knowledge of U users when they ask."""

    user_id_U: Ints  # keys of the random draws
    day_U: Ints
    session_U: Ints
    round_U: Ints
    time_ms_U: Longs
    recent_UR: Ints  # latest positives, -1 where there are fewer
    # content vectors of long interests; zeros where there are fewer
    long_UMD: npt.NDArray[np.float32]
    authors_UA: Ints  # most loved authors first, -1 where there are fewer
    # all impressions, or the latest `seen_limit`: not to be shown again; -1 where there are
    # fewer
    seen_US: Ints
    num_candidates: int
    # 1 searches everything; with more the candidates are a sample of what C times as many
    # would be, one in so many
    stripes: int = 1

    def __len__(self) -> int:
        return len(self.user_id_U)

    @property
    def keys(self) -> tuple[Ints, ...]:
        """User, day, session and round as columns, [U, 1] each."""
        return tuple(
            key[:, None] for key in (self.user_id_U, self.day_U, self.session_U, self.round_U)
        )

    def take(self, rows: Longs) -> RetrievalQuery:
        """Some of the queries."""
        arrays = {
            field.name: getattr(self, field.name)[rows]
            for field in dataclasses.fields(self)
            if field.name not in ("num_candidates", "stripes")
        }
        return RetrievalQuery(num_candidates=self.num_candidates, stripes=self.stripes, **arrays)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """The candidate sets of U users."""

    ids_UC: Ints  # unique in a row, in order of video id: the order says nothing
    channels_UC: npt.NDArray[np.int8]  # the first `Channel` that brought each


class Retrieval(Protocol):
    """A retrieval stage: `simulator.world.retrieval.ChannelRetrieval`, or a custom one."""

    def retrieve(self, query: RetrievalQuery) -> Candidates:
        """Exactly C unique, uploaded, unseen candidates for each user, from that user's query."""


NUM_RECENT = 4
RECENT_WINDOW = 200
NUM_LONG = 4
NUM_AUTHORS = 16
SMOOTHING = 10
POSITIVE = np.uint8(1 << ACTIONS.index("long_view"))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LongProfiles(RowArrays):
    """Profiles of U users over their whole histories."""

    # mean content of the positives in each of the categories that hold most positives beyond
    # the user's average; zeros where there are fewer
    content_UMD: npt.NDArray[np.float32]
    # log of the smoothed rate of positives in each category over the user's rate
    category_lift_UG: npt.NDArray[np.float32]
    authors_UA: Ints  # authors by number of positives, most first, -1 where there are fewer


def long_profiles(
    catalog: ObservedCatalog, histories: HistoryBlocks, user_ids: Ints
) -> LongProfiles:
    """Computes the long profiles of some users from all that they have seen."""
    items, num_users = catalog.items, len(user_ids)
    num_categories = int(items.category_N.max()) + 1
    length_U, item_P, actions_P = histories.flat(user_ids)
    row_P = np.repeat(np.arange(num_users), length_U)
    cell_P = row_P * num_categories + items.category_N[item_P]
    liked = np.flatnonzero(actions_P & POSITIVE)

    def per_category(cells: npt.NDArray, weights: npt.NDArray | None = None) -> npt.NDArray:
        """Sums in the order of the history, so that a row does not depend on the batch."""
        total = np.bincount(cells, weights, num_users * num_categories)
        return total.reshape(num_users, num_categories)

    seen_UG, liked_UG = per_category(cell_P), per_category(cell_P[liked])
    liked_item, liked_cell = item_P[liked], cell_P[liked]
    content_DP = items.content_ND[liked_item].T
    total_UGD = np.stack([per_category(liked_cell, content_P) for content_P in content_DP], axis=2)
    seen_U1, liked_U1 = seen_UG.sum(axis=1)[:, None], liked_UG.sum(axis=1)[:, None]
    # Positives beyond what the user's own rate would give, in integers, so that ties are exact:
    # a category that is merely shown often is no interest.
    excess_UG = liked_UG * seen_U1 - seen_UG * liked_U1
    category_UM = _largest_positive(excess_UG, NUM_LONG)
    rate_U1 = liked_U1 / np.maximum(seen_U1, 1)
    smoothed_UG = (liked_UG + SMOOTHING * rate_U1) / (seen_UG + SMOOTHING)
    lift_UG = np.log(np.maximum(smoothed_UG, 1e-3) / np.maximum(rate_U1, 1e-3))

    rows = np.arange(num_users)[:, None]
    kept_UM1 = np.maximum(liked_UG[rows, category_UM], 1)[:, :, None]
    known_UM1 = (category_UM >= 0)[:, :, None]
    content_UMD = np.where(known_UM1, total_UGD[rows, category_UM] / kept_UM1, 0)
    return LongProfiles(
        content_UMD=content_UMD.astype(np.float32),
        category_lift_UG=lift_UG.astype(np.float32),
        authors_UA=_top_authors(row_P[liked], items.author_id_N[liked_item], num_users),
    )


def _top_authors(row_P: Longs, author_P: Ints, num_users: int) -> Ints:
    """Each user's authors by number of positives, of equals the lower number, -1 padded, [U, A]."""
    pair_X, count_X = np.unique(row_P << 32 | author_P, return_counts=True)
    row_X, author_X = pair_X >> 32, pair_X & 0xFFFFFFFF
    order = np.lexsort((author_X, -count_X, row_X))
    nth_X = np.arange(len(row_X)) - np.searchsorted(row_X, row_X)  # row_X is sorted either way
    top = nth_X < NUM_AUTHORS
    authors_UA = np.full((num_users, NUM_AUTHORS), -1, np.int32)
    authors_UA[row_X[top], nth_X[top]] = author_X[order][top]
    return authors_UA


def make_query(
    config: WorldConfig,
    histories: HistoryBlocks,
    profiles: LongProfiles,
    *,
    user_id_U: Ints,
    day_U: Ints,
    session_U: Ints,
    round_U: Ints,
    time_ms_U: Longs,
    num_candidates: int,
    stripes: int = 1,
) -> RetrievalQuery:
    """The query of users who ask now; `profiles` has a row for each of them."""
    ids_UW, actions_UW, known_UW = histories.window(user_id_U, RECENT_WINDOW)
    liked_UW = known_UW & ((actions_UW & POSITIVE) != 0)
    # How many positives came at this one or later: 1 is the latest.
    nth_UW = np.cumsum(liked_UW[:, ::-1], axis=1)[:, ::-1]
    row, place = np.nonzero(liked_UW & (nth_UW <= NUM_RECENT))
    recent_UR = np.full((len(user_id_U), NUM_RECENT), -1, np.int32)
    oldest_U = np.minimum(nth_UW[:, 0], NUM_RECENT)
    recent_UR[row, oldest_U[row] - nth_UW[row, place]] = ids_UW[row, place]
    return RetrievalQuery(
        user_id_U=user_id_U,
        day_U=day_U,
        session_U=session_U,
        round_U=round_U,
        time_ms_U=time_ms_U,
        recent_UR=recent_UR,
        long_UMD=profiles.content_UMD,
        authors_UA=profiles.authors_UA,
        seen_US=histories.latest_ids(user_id_U, config.seen_limit),
        num_candidates=num_candidates,
        stripes=stripes,
    )


def _largest_positive(score_UX: Longs, top: int) -> Ints:
    """The `top` columns of largest score, of equals the lower; -1 where a score is not positive."""
    order_UM = np.argsort(-score_UX, axis=1, kind="stable")[:, :top]
    columns = np.full((len(score_UX), top), -1, np.int32)
    positive_UM = np.take_along_axis(score_UX, order_UM, axis=1) > 0
    columns[:, : order_UM.shape[1]] = np.where(positive_UM, order_UM, -1)
    return columns
