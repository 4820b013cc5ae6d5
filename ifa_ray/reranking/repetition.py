"""Similarity of items for re-ranking: category, author, content; and features of repetition.

Knows the catalogue's columns and a history; numpy alone.

Letters: R rows of the catalogue (row 0 is the unknown item), X content width, P pool, S recent
impressions, F features.
"""

from __future__ import annotations

import dataclasses
from typing import Self

import numpy as np
import numpy.typing as npt

from ifa_ray.data.items import ItemTable
from ifa_ray.schema import ACTIONS, RankRequest


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ItemTraits:
    """The catalogue by row.

    Attributes:
        category_R, author_R: int64; -1 for the unknown item, which no candidate is.
        content_RX: float32, of length 1, or zeros where an item has no content vector.
    """

    category_R: npt.NDArray[np.int64]
    author_R: npt.NDArray[np.int64]
    content_RX: npt.NDArray[np.float32]

    @classmethod
    def of(cls, items: ItemTable) -> Self:
        """The traits of a catalogue; O(items), once."""
        content_RX = np.pad(items.content_ND.astype(np.float64), ((1, 0), (0, 0)))
        length_R1 = np.linalg.norm(content_RX, axis=1, keepdims=True)
        content_RX = content_RX / np.where(length_R1 > 0, length_R1, 1.0)
        return cls(
            category_R=np.concatenate([[-1], items.category_N.astype(np.int64)]),
            author_R=np.concatenate([[-1], items.author_id_N.astype(np.int64)]),
            content_RX=content_RX.astype(np.float32),
        )


SESSION_GAP_MS = 30 * 60_000
"""A gap of half an hour ends a session, as in KuaiRand."""

MAX_RECENT = 30
FADING = 0.9

GROUPS = ("above", "session", "clicked", "viewed")
KINDS = ("category", "author", "content", "closest")
FEATURES = tuple(f"{group}_{kind}" for group in GROUPS for kind in KINDS)
"""Names of the F features, in order."""

_CLICK, _VIEW = 1 << ACTIONS.index("is_click"), 1 << ACTIONS.index("long_view")
# Sums fade with each item shown; the closest one stays the closest.
_FADING_F = np.array([1.0 if kind == "closest" else FADING for _ in GROUPS for kind in KINDS])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Recent:
    """The latest impressions of the current session, oldest first.

    Attributes:
        rows_S: int64, rows of the catalogue, 0 for unknown items.
        clicked_S, viewed_S: bool.
    """

    rows_S: npt.NDArray[np.int64]
    clicked_S: npt.NDArray[np.bool_]
    viewed_S: npt.NDArray[np.bool_]


def recent_of(request: RankRequest, items: ItemTable) -> Recent:
    """The impressions since the last gap of `SESSION_GAP_MS`, the latest `MAX_RECENT` of them.

    A gap before the request ends the session too.
    """
    history, recent = request.history, slice(-MAX_RECENT, None)
    gaps = np.diff(history.times_ms_T[recent], append=request.time_ms) >= SESSION_GAP_MS
    begin = int(np.flatnonzero(gaps)[-1]) + 1 if gaps.any() else 0
    actions_S = history.actions_T[recent][begin:]
    return Recent(
        rows_S=items.rows(history.ids_T[recent])[begin:],
        clicked_S=(actions_S & _CLICK) != 0,
        viewed_S=(actions_S & _VIEW) != 0,
    )


class RepetitionWalk:
    """Features of a pool while a slate is filled from it, kept up item by item.

    Starting costs O(P S X), each item shown O(P X), whatever stands above it.

    Attributes:
        features_PF: float64, as things stand; written in place.
    """

    def __init__(self, traits: ItemTraits, rows_P: npt.NDArray[np.int64], recent: Recent) -> None:
        self._category_P = traits.category_R[rows_P]
        self._author_P = traits.author_R[rows_P]
        self._content_PX = traits.content_RX[rows_P]
        self.features_PF = np.zeros((len(rows_P), len(FEATURES)))
        content_SX = traits.content_RX[recent.rows_S]
        cosine_PS = np.maximum(self._content_PX @ content_SX.T, 0.0).astype(np.float64)
        same_category_PS = self._category_P[:, None] == traits.category_R[recent.rows_S]
        same_author_PS = self._author_P[:, None] == traits.author_R[recent.rows_S]
        fading_S = FADING ** np.arange(len(recent.rows_S) - 1, -1, -1.0)
        everything_S = np.ones_like(recent.clicked_S)
        groups = (everything_S, recent.clicked_S, recent.viewed_S)
        for group, in_group_S in enumerate(groups, start=1):
            if in_group_S.any():
                weight_S = fading_S * in_group_S
                block = self.features_PF[:, group * len(KINDS) : (group + 1) * len(KINDS)]
                block[:, 0] = same_category_PS @ weight_S
                block[:, 1] = same_author_PS @ weight_S
                block[:, 2] = (cosine_PS**2) @ weight_S
                block[:, 3] = (cosine_PS * in_group_S).max(axis=1)

    def show(self, place: int) -> None:
        """Puts one item of the pool below everything shown so far."""
        cosine_P = np.maximum(self._content_PX @ self._content_PX[place], 0.0).astype(np.float64)
        self.features_PF *= _FADING_F
        above = self.features_PF[:, : len(KINDS)]
        above[:, 0] += self._category_P == self._category_P[place]
        above[:, 1] += self._author_P == self._author_P[place]
        above[:, 2] += cosine_P**2
        np.maximum(above[:, 3], cosine_P, out=above[:, 3])
