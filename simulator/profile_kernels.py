"""The compiled loop that counts what users have watched long; knows arrays only.

Sums of content are added impression by impression, oldest first, in float64, so they are those of
`np.bincount` bit for bit, whoever else is in the batch.

Letters: U users, P impressions of all of them, N items, G categories, A authors, D content width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from simulator.compiled import compiled

__all__ = ["count_positives"]

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]


@compiled
def count_positives(
    length_U: Longs,
    item_P: Ints,
    actions_P: npt.NDArray[np.uint8],
    positive: np.uint8,
    category_N: Ints,
    author_N: Ints,
    content_ND: npt.NDArray[np.float32],
    num_authors: int,
    seen_UG: Longs,
    liked_UG: Longs,
    total_UGD: npt.NDArray[np.float64],
    authors_UA: Ints,
) -> None:
    """Counts each user's impressions and positives, and finds the authors with most positives.

    Args:
        length_U: how many of the impressions are each user's, user by user.
        item_P: the impressions.
        actions_P: their actions, packed.
        positive: bits of the actions that make an impression a positive.
        category_N: of the catalogue.
        author_N: of the catalogue.
        content_ND: of the catalogue.
        num_authors: all author numbers are below it.
        seen_UG: impressions by category; is added to.
        liked_UG: positives by category; is added to.
        total_UGD: sum of the content of the positives; is added to.
        authors_UA: is filled, most positives first, of equals the lower number; the rest is left.
    """
    count_A = np.zeros(num_authors, np.int64)
    touched_A = np.empty(num_authors, np.int64)
    start = 0
    for user in range(len(length_U)):
        num_touched = 0
        for p in range(start, start + length_U[user]):
            item = item_P[p]
            category = category_N[item]
            seen_UG[user, category] += 1
            if actions_P[p] & positive:
                liked_UG[user, category] += 1
                for d in range(content_ND.shape[1]):
                    total_UGD[user, category, d] += np.float64(content_ND[item, d])
                author = author_N[item]
                if count_A[author] == 0:
                    touched_A[num_touched] = author
                    num_touched += 1
                count_A[author] += 1
        start += length_U[user]
        _most_counted(count_A, touched_A[:num_touched], authors_UA[user])
        for author in touched_A[:num_touched]:
            count_A[author] = 0


@compiled
def _most_counted(count_A: Longs, touched: Longs, best: Ints) -> None:
    """Fills `best` by insertion: most counted first, of equals the lower number."""
    filled = 0
    for author in touched:
        place = filled
        while place > 0:
            other = best[place - 1]
            more = count_A[author] > count_A[other]
            if not more and (count_A[author] < count_A[other] or author > other):
                break
            place -= 1
        if place < len(best):
            filled = min(filled + 1, len(best))
            for later in range(filled - 1, place, -1):
                best[later] = best[later - 1]
            best[place] = author
