"""What makes two items alike for the set step: category, author, content.

Knows the catalogue's columns; knows numpy alone.

Letters: R rows of the catalogue (row 0 is the unknown item), X content width.
"""

from __future__ import annotations

import dataclasses
from typing import Self

import numpy as np
import numpy.typing as npt

from ifa_ray.data.items import ItemTable
from ifa_ray.schema import ACTIONS, History

_NOBODY = -1


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
        content_NX = items.content_ND.astype(np.float64)
        length_N1 = np.linalg.norm(content_NX, axis=1, keepdims=True)
        content_NX = np.divide(
            content_NX, length_N1, out=np.zeros_like(content_NX), where=length_N1 > 0
        )
        content_RX = np.concatenate([np.zeros((1, content_NX.shape[1])), content_NX])
        return cls(
            category_R=np.concatenate([[_NOBODY], items.category_N.astype(np.int64)]),
            author_R=np.concatenate([[_NOBODY], items.author_id_N.astype(np.int64)]),
            content_RX=content_RX.astype(np.float32),
        )


SESSION_GAP_MS = 30 * 60_000
"""A gap of half an hour ends a session, as in KuaiRand."""

MAX_RECENT = 30
FADING = 0.9

_GROUPS = ("above", "session", "clicked", "viewed")
_KINDS = ("category", "author", "content", "closest")
FEATURES = tuple(f"{group}_{kind}" for group in _GROUPS for kind in _KINDS)
"""Names of the F features, in order."""

_CLICK, _VIEW = 1 << ACTIONS.index("is_click"), 1 << ACTIONS.index("long_view")
# What fades with each item shown: the sums; the closest one stays the closest.
_FADING_F = np.array([1.0 if kind == "closest" else FADING for _ in _GROUPS for kind in _KINDS])
_WIDTH = len(_KINDS)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Recent:
    """The latest impressions of a session that is going on, oldest first.

    Attributes:
        rows_S: int64, rows of the catalogue, 0 for unknown items.
        clicked_S, viewed_S: bool.
    """

    rows_S: npt.NDArray[np.int64]
    clicked_S: npt.NDArray[np.bool_]
    viewed_S: npt.NDArray[np.bool_]


def recent_impressions(history: History, rows_T: npt.NDArray[np.int64], time_ms: int) -> Recent:
    """The impressions since the last gap of `SESSION_GAP_MS`, the latest `MAX_RECENT` of them.

    Args:
        history: as of now.
        rows_T: rows of its items; at least the latest `MAX_RECENT` (a shorter tail will do).
        time_ms: now; a gap before it ends the session too.
    """
    times_S = history.times_ms_T[-MAX_RECENT:]
    breaks = np.flatnonzero(np.diff(times_S, append=time_ms) >= SESSION_GAP_MS)
    begin = int(breaks[-1]) + 1 if len(breaks) else 0
    actions_S = history.actions_T[-MAX_RECENT:][begin:]
    return Recent(
        rows_S=rows_T[len(rows_T) - len(times_S) :][begin:],
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
        if len(recent.rows_S) == 0:
            return
        content_SX = traits.content_RX[recent.rows_S]
        cosine_PS = np.maximum(self._content_PX @ content_SX.T, 0.0).astype(np.float64)
        same_category_PS = self._category_P[:, None] == traits.category_R[recent.rows_S]
        same_author_PS = self._author_P[:, None] == traits.author_R[recent.rows_S]
        fading_S = FADING ** np.arange(len(recent.rows_S) - 1, -1, -1.0)
        for group, in_group_S in enumerate((None, recent.clicked_S, recent.viewed_S), start=1):
            of_group_S = np.ones_like(recent.clicked_S) if in_group_S is None else in_group_S
            if not of_group_S.any():
                continue
            weight_S = fading_S * of_group_S
            block = self.features_PF[:, group * _WIDTH : (group + 1) * _WIDTH]
            block[:, 0] = same_category_PS @ weight_S
            block[:, 1] = same_author_PS @ weight_S
            block[:, 2] = (cosine_PS**2) @ weight_S
            block[:, 3] = (cosine_PS * of_group_S).max(axis=1)

    def show(self, place: int) -> None:
        """Puts one item of the pool below everything shown so far."""
        cosine_P = np.maximum(self._content_PX @ self._content_PX[place], 0.0).astype(np.float64)
        self.features_PF *= _FADING_F
        above = self.features_PF[:, :_WIDTH]
        above[:, 0] += self._category_P == self._category_P[place]
        above[:, 1] += self._author_P == self._author_P[place]
        above[:, 2] += cosine_P**2
        np.maximum(above[:, 3], cosine_P, out=above[:, 3])


def repetition_features_naive(
    traits: ItemTraits,
    rows_P: npt.NDArray[np.int64],
    recent: Recent,
    above_rows: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """The same features from their definition, pair by pair: [P, F]; O(P (S + above) X)."""
    earlier = [*recent.rows_S.tolist(), *above_rows.tolist()]
    num_recent = len(recent.rows_S)
    features_PF = np.zeros((len(rows_P), len(FEATURES)))
    for p, row in enumerate(rows_P):
        for i, other in enumerate(earlier):
            weight = FADING ** (len(earlier) - 1 - i)
            cosine = max(0.0, float(traits.content_RX[row] @ traits.content_RX[other]))
            groups = ["above"] if i >= num_recent else ["session"]
            if i < num_recent:
                groups += ["clicked"] * bool(recent.clicked_S[i])
                groups += ["viewed"] * bool(recent.viewed_S[i])
            for group in groups:
                start = _GROUPS.index(group) * _WIDTH
                same_category = traits.category_R[row] == traits.category_R[other]
                same_author = traits.author_R[row] == traits.author_R[other]
                features_PF[p, start] += weight * same_category
                features_PF[p, start + 1] += weight * same_author
                features_PF[p, start + 2] += weight * cosine**2
                features_PF[p, start + 3] = max(features_PF[p, start + 3], cosine)
    return features_PF
