"""What a platform computes of its users from their histories: the retrieval stage's view.

Knows histories and the observed catalogue; nothing hidden. Long profiles are computed over the
whole history at the start of a day, as a nightly job would; recent positives at each request.

Letters: U users, D content width, R recent positives, M long interests, A loved authors, S seen.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from ifa_ray.data.history import HistoryStore
from ifa_ray.schema import ACTIONS
from simulator.catalog import ObservedCatalog
from simulator.config import WorldConfig
from simulator.retrieval import RetrievalQuery

__all__ = ["LongProfiles", "long_profiles", "make_query"]

NUM_RECENT = 4
RECENT_WINDOW = 200
NUM_LONG = 4
NUM_AUTHORS = 16
POSITIVE = np.uint8(1 << ACTIONS.index("long_view"))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LongProfiles:
    """Profiles of U users over their whole histories.

    Attributes:
        content_UMD: float32, mean content of the positives in each of the user's top categories.
        category_UM: int32, those categories, -1 where there are fewer.
        share_UM: float32, their shares of the user's positives.
        authors_UA: int32, authors by number of positives, most first, -1 where there are fewer.
    """

    content_UMD: npt.NDArray[np.float32]
    category_UM: npt.NDArray[np.int32]
    share_UM: npt.NDArray[np.float32]
    authors_UA: npt.NDArray[np.int32]

    def take(self, rows: npt.NDArray[np.int64]) -> LongProfiles:
        """Some users' profiles."""
        return LongProfiles(
            **{f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)}
        )

    def put(self, rows: npt.NDArray[np.int64], other: LongProfiles) -> None:
        """Replaces some users' profiles, in place."""
        for field in dataclasses.fields(self):
            getattr(self, field.name)[rows] = getattr(other, field.name)


def long_profiles(
    catalog: ObservedCatalog, histories: HistoryStore, user_ids: npt.NDArray[np.int32]
) -> LongProfiles:
    """Computes the long profiles of some users from all that they have seen."""
    items, num_users = catalog.items, len(user_ids)
    views = [histories.view(int(user)) for user in user_ids]
    positives = [view.ids_T[(view.actions_T & POSITIVE) != 0] for view in views]
    user_P = np.repeat(np.arange(num_users), [len(ids) for ids in positives])
    item_P = np.concatenate([np.empty(0, np.int32), *positives])

    num_categories = int(items.category_N.max()) + 1
    bin_P = user_P * num_categories + items.category_N[item_P]
    count_UG = _counts(bin_P, num_users, num_categories)
    category_UM = _most_frequent(count_UG, NUM_LONG)
    d = items.content_ND.shape[1]
    content_UMD = np.zeros((num_users, NUM_LONG, d), np.float32)
    rows = np.arange(num_users)[:, None]
    kept_UM = np.maximum(count_UG[rows, category_UM], 1)
    for dim in range(d):
        total = np.bincount(bin_P, items.content_ND[item_P, dim], num_users * num_categories)
        total_UM = total.reshape(num_users, num_categories)[rows, category_UM]
        content_UMD[:, :, dim] = np.where(category_UM >= 0, total_UM / kept_UM, 0)

    num_authors = len(catalog.author_start_A) - 1
    author_UA = _most_frequent(
        _counts(user_P * num_authors + items.author_id_N[item_P], num_users, num_authors),
        NUM_AUTHORS,
    )
    share_UM = np.where(category_UM >= 0, kept_UM, 0) / np.maximum(count_UG.sum(axis=1), 1)[:, None]
    return LongProfiles(
        content_UMD=content_UMD,
        category_UM=category_UM,
        share_UM=share_UM.astype(np.float32),
        authors_UA=author_UA,
    )


def make_query(
    config: WorldConfig,
    histories: HistoryStore,
    profiles: LongProfiles,
    *,
    user_id_U: npt.NDArray[np.int32],
    day_U: npt.NDArray[np.int32],
    session_U: npt.NDArray[np.int32],
    round_U: npt.NDArray[np.int32],
    time_ms_U: npt.NDArray[np.int64],
    num_candidates: int,
) -> RetrievalQuery:
    """The query of users who ask now; `profiles` has a row for each of them."""
    seen_US = np.full((len(user_id_U), config.max_history), -1, np.int32)
    recent_UR = np.full((len(user_id_U), NUM_RECENT), -1, np.int32)
    for row, user in enumerate(user_id_U):
        view = histories.view(int(user), limit=config.max_history)
        seen_US[row, : len(view)] = view.ids_T
        liked = np.flatnonzero(view.actions_T[-RECENT_WINDOW:] & POSITIVE)[-NUM_RECENT:]
        recent_UR[row, : len(liked)] = view.ids_T[-RECENT_WINDOW:][liked]
    return RetrievalQuery(
        user_id_U=user_id_U,
        day_U=day_U,
        session_U=session_U,
        round_U=round_U,
        time_ms_U=time_ms_U,
        recent_UR=recent_UR,
        long_UMD=profiles.content_UMD,
        authors_UA=profiles.authors_UA,
        seen_US=seen_US,
        num_candidates=num_candidates,
    )


def _counts(bins: npt.NDArray[np.int64], num_users: int, size: int) -> npt.NDArray[np.int64]:
    return np.bincount(bins, minlength=num_users * size).reshape(num_users, size)


def _most_frequent(count_UX: npt.NDArray[np.int64], top: int) -> npt.NDArray[np.int32]:
    """The `top` columns of largest count, int32 [U, top]; -1 where the count is 0.

    Ties go to the lower number: column and count are packed into one key.
    """
    size = count_UX.shape[1]
    key_UX = count_UX * size + (size - 1 - np.arange(size))
    start = max(0, size - top)
    key_UM = -np.sort(-np.partition(key_UX, start, axis=1)[:, start:], axis=1)
    columns = np.full((len(count_UX), top), -1, np.int32)
    columns[:, : size - start] = np.where(key_UM >= size, size - 1 - key_UM % size, -1)
    return columns
