"""What the learned set step learns from: impressions in the order shown, each given those before.

Knows samples and traits; no ranker. A slot filled at random with an item that was no candidate is
missing here, though it stood above others: at most one slot of a slate, and rarely.

Letters: J shown candidates of a request in order, A controls, F repetition features.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ifa_ray.data.items import ItemTable
from ifa_ray.schema import TrainingSample
from ifa_ray.set_step.repetition import FEATURES, RepetitionWalk
from ifa_ray.set_step.response import CONTROLS, SetResponse
from ifa_ray.set_step.step import recent_of
from ifa_ray.set_step.traits import ItemTraits


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Lesson:
    """The shown candidates of a request, top first.

    Attributes:
        places_J: int64, their places among the candidates.
        controls_JA: float64, `CONTROLS`; the column of `own_logit` is 0.
        features_JF: float64, `FEATURES`, given the session and the items above.
    """

    places_J: npt.NDArray[np.int64]
    controls_JA: npt.NDArray[np.float64]
    features_JF: npt.NDArray[np.float64]


def lesson_of(sample: TrainingSample, items: ItemTable, traits: ItemTraits) -> Lesson:
    """The lesson of a sample whose positions are known."""
    positions_C = sample.positions_C
    assert positions_C is not None
    shown = np.flatnonzero(positions_C >= 0)
    places_J = shown[np.argsort(positions_C[shown], kind="stable")]
    request = sample.request
    rows_J = items.rows(request.candidates_C[places_J])
    walk = RepetitionWalk(traits, rows_J, recent_of(request, items))
    features_JF = np.empty((len(places_J), len(FEATURES)))
    for j in range(len(places_J)):
        features_JF[j] = walk.features_PF[j]
        walk.show(j)
    controls_JA = np.zeros((len(places_J), len(CONTROLS)))
    controls_JA[:, CONTROLS.index("one")] = 1
    controls_JA[:, CONTROLS.index("log_position")] = np.log1p(positions_C[places_J])
    if len(places_J):
        first = CONTROLS.index("slate_category")
        controls_JA[:, first : first + 4] = _likeness_to_slate(traits, rows_J)
    return Lesson(places_J=places_J, controls_JA=controls_JA, features_JF=features_JF)


def _likeness_to_slate(
    traits: ItemTraits, rows_J: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """How much each item is like all others of the slate, [J, 4], kinds as in `FEATURES`."""
    content_JX = traits.content_RX[rows_J]
    cosine_JJ = np.maximum(content_JX @ content_JX.T, 0.0).astype(np.float64)
    category_J, author_J = traits.category_R[rows_J], traits.author_R[rows_J]
    same_category_JJ = (category_J[:, None] == category_J).astype(np.float64)
    same_author_JJ = (author_J[:, None] == author_J).astype(np.float64)
    for itself_JJ in (cosine_JJ, same_category_JJ, same_author_JJ):
        np.fill_diagonal(itself_JJ, 0.0)
    return np.stack(
        [
            same_category_JJ.sum(axis=1),
            same_author_JJ.sum(axis=1),
            (cosine_JJ**2).sum(axis=1),
            cosine_JJ.max(axis=1),
        ],
        axis=1,
    )


class Teacher:
    """Teaches re-ranking what was shown in which order; a learner's hook after each step."""

    def __init__(self, response: SetResponse, items: ItemTable) -> None:
        self._response, self._items, self._traits = response, items, ItemTraits.of(items)

    def __call__(
        self, samples: Sequence[TrainingSample], logits_BCL: npt.NDArray[np.float32]
    ) -> None:
        """Learns from a batch, given the ranker's logits from before it learned from it."""
        lessons, logits, labels = [], [], []
        for sample, logits_CL in zip(samples, logits_BCL, strict=True):
            if sample.positions_C is None:
                warnings.warn(
                    "set_step == 'learned', but the log has no positions: the step learns "
                    "nothing from it and changes no slate.",
                    stacklevel=2,
                )
                continue
            lesson = lesson_of(sample, self._items, self._traits)
            lessons.append(lesson)
            logits.append(logits_CL[lesson.places_J, 1:])
            labels.append(sample.labels_CL[lesson.places_J, 1:])
        if lessons:
            self._response.learn(
                np.concatenate([lesson.controls_JA for lesson in lessons]),
                np.concatenate([lesson.features_JF for lesson in lessons]),
                np.concatenate(logits).astype(np.float64),
                np.concatenate(labels),
            )
