"""What a platform computes of its users from their histories: the retrieval stage's view.

Knows histories and the observed catalogue; nothing hidden. Long profiles are computed over the
whole history at the start of a day, as a nightly job would; recent positives at each request.

Letters: U users, D content width, R recent positives, M long interests, G categories, A authors,
S seen, P impressions.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from ifa_ray.data.history import HistoryStore
from ifa_ray.schema import ACTIONS
from simulator.catalog import ObservedCatalog
from simulator.config import WorldConfig
from simulator.queries import RetrievalQuery

__all__ = ["LongProfiles", "long_profiles", "make_query"]

NUM_RECENT = 4
RECENT_WINDOW = 200
NUM_LONG = 4
NUM_AUTHORS = 16
SMOOTHING = 10
POSITIVE = np.uint8(1 << ACTIONS.index("long_view"))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LongProfiles:
    """Profiles of U users over their whole histories.

    Attributes:
        content_UMD: float32, mean content of the positives in each of the categories that hold
            most positives beyond the user's average; zeros where there are fewer.
        category_lift_UG: float32, log of the smoothed rate of positives in each category over the
            user's rate.
        authors_UA: int32, authors by number of positives, most first, -1 where there are fewer.
    """

    content_UMD: npt.NDArray[np.float32]
    category_lift_UG: npt.NDArray[np.float32]
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
    user_P = np.repeat(np.arange(num_users), [len(view) for view in views])
    item_P = np.concatenate([np.empty(0, np.int32), *(view.ids_T for view in views)])
    actions_P = np.concatenate([np.empty(0, np.uint8), *(view.actions_T for view in views)])
    liked_P = (actions_P & POSITIVE) != 0

    num_categories = int(items.category_N.max()) + 1
    bin_P = user_P * num_categories + items.category_N[item_P]
    seen_UG = _counts(bin_P, num_users, num_categories)
    liked_UG = _counts(bin_P[liked_P], num_users, num_categories)
    seen_U1, liked_U1 = seen_UG.sum(axis=1)[:, None], liked_UG.sum(axis=1)[:, None]
    # Positives beyond what the user's own rate would give, in integers, so that ties are exact:
    # a category that is merely shown often is no interest.
    excess_UG = liked_UG * seen_U1 - seen_UG * liked_U1
    category_UM = _largest_positive(excess_UG, NUM_LONG)
    rate_U1 = liked_U1 / np.maximum(seen_U1, 1)
    smoothed_UG = (liked_UG + SMOOTHING * rate_U1) / (seen_UG + SMOOTHING)
    lift_UG = np.log(np.maximum(smoothed_UG, 1e-3) / np.maximum(rate_U1, 1e-3))

    rows = np.arange(num_users)[:, None]
    content_UMD = np.zeros((num_users, NUM_LONG, items.content_ND.shape[1]), np.float32)
    bins, content_PD = bin_P[liked_P], items.content_ND[item_P[liked_P]]
    kept_UM = np.maximum(liked_UG[rows, category_UM], 1)
    for dim in range(content_UMD.shape[2]):
        total = np.bincount(bins, content_PD[:, dim], num_users * num_categories)
        total_UM = total.reshape(num_users, num_categories)[rows, category_UM]
        content_UMD[:, :, dim] = np.where(category_UM >= 0, total_UM / kept_UM, 0)

    num_authors = len(catalog.author_start_A) - 1
    author_P = user_P[liked_P] * num_authors + items.author_id_N[item_P[liked_P]]
    return LongProfiles(
        content_UMD=content_UMD,
        category_lift_UG=lift_UG.astype(np.float32),
        authors_UA=_largest_positive(_counts(author_P, num_users, num_authors), NUM_AUTHORS),
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


def _largest_positive(score_UX: npt.NDArray[np.int64], top: int) -> npt.NDArray[np.int32]:
    """The `top` columns of largest score, int32 [U, top]; -1 where a score is not positive.

    Ties go to the lower number: column and score are packed into one key.
    """
    size = score_UX.shape[1]
    key_UX = np.maximum(score_UX, 0) * size + (size - 1 - np.arange(size))
    start = max(0, size - top)
    key_UM = -np.sort(-np.partition(key_UX, start, axis=1)[:, start:], axis=1)
    columns = np.full((len(score_UX), top), -1, np.int32)
    columns[:, : size - start] = np.where(key_UM >= size, size - 1 - key_UM % size, -1)
    return columns
