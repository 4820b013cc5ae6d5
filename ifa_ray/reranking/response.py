"""The learned set step: how repetition moves the response to an item, estimated from the log.

Knows features, logits and labels; knows no request, no catalogue and no ranker. For each objective
l given an impression, with b_l the ranker's own logit, taken as given,

    logit p(l | impression, what came before) = b_l + a_l^T controls + w_l^T repetition

Serving uses w alone. It is a logistic regression with few weights and strong correlations, so it
is not learned by gradient steps but by Newton's, online: the precision matrix of all that was seen
so far (fading slowly, as the ranker that gives b changes) stands in for the Hessian. There is no
learning rate, and its state is buffers, not parameters: no optimiser touches it, and nothing flows
back into the ranker.

Letters: X impressions, L objectives given an impression, F repetition features, A controls,
G = A + F.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ifa_ray.data.items import ItemTable
from ifa_ray.reranking.repetition import FEATURES, ItemTraits, RepetitionWalk
from ifa_ray.reranking.step import recent_of
from ifa_ray.schema import OBJECTIVES, TrainingSample

CONTROLS = (
    "one", "own_logit", "log_position",
    "slate_category", "slate_author", "slate_content", "slate_closest",
)  # fmt: skip
"""What is held constant while repetition is judged. The last four say how much an item is like the
*whole* slate, above and below: a slate full of one category was shown to somebody who likes it, and
without them the step learns that repetition is good. With them it compares the first of its kind
with the third, in one slate."""

MEMORY = 0.999
"""What a batch of impressions still counts after the next one."""

PRIOR = 10.0
"""Precision of the weights before anything was seen, around 0."""


class SetResponse(nn.Module):
    """Weights and their precision, one regression for each objective after the first."""

    weights_LG: torch.Tensor
    precision_LGG: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        L, G = len(OBJECTIVES) - 1, len(CONTROLS) + len(FEATURES)
        self.register_buffer("weights_LG", torch.zeros(L, G, dtype=torch.float64))
        start_GG = PRIOR * torch.eye(G, dtype=torch.float64)
        self.register_buffer("precision_LGG", start_GG.repeat(L, 1, 1))

    @torch.no_grad()
    def learn(
        self,
        controls_XA: npt.NDArray[np.float64],
        features_XF: npt.NDArray[np.float64],
        logits_XL: npt.NDArray[np.float64],
        labels_XL: npt.NDArray[np.uint8],
    ) -> None:
        """Takes one Newton step on impressions that were not learned from before.

        Args:
            controls_XA: `CONTROLS` but for `own_logit`, which is filled in here.
            features_XF: of each impression, given what came before it.
            logits_XL: the ranker's, of each objective given the impression, before it learned
                from these impressions.
            labels_XL: 1 where the objective happened.
        """
        if len(features_XF) == 0:
            return
        inputs_XG = torch.from_numpy(np.concatenate([controls_XA, features_XF], axis=1))
        prior_GG = PRIOR * torch.eye(inputs_XG.shape[1], dtype=torch.float64)
        for place in range(len(self.weights_LG)):
            logit_X = torch.from_numpy(logits_XL[:, place].astype(np.float64))
            label_X = torch.from_numpy(labels_XL[:, place].astype(np.float64))
            inputs_XG[:, CONTROLS.index("own_logit")] = logit_X
            weights_G = self.weights_LG[place]
            p_X = torch.sigmoid(logit_X + inputs_XG @ weights_G)
            curvature_GG = (inputs_XG * (p_X * (1 - p_X))[:, None]).T @ inputs_XG
            faded_GG = MEMORY * (self.precision_LGG[place] - prior_GG)
            self.precision_LGG[place] = faded_GG + prior_GG + curvature_GG
            slope_G = inputs_XG.T @ (label_X - p_X)
            weights_G += torch.linalg.solve(self.precision_LGG[place], slope_G)

    def repetition_weights(self) -> npt.NDArray[np.float64]:
        """w, [L, F]: what is served."""
        return self.weights_LG[:, len(CONTROLS) :].cpu().numpy().copy()


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
