"""Learned re-ranking: how repetition moves the response to an item, estimated from the log.

For each objective l given an impression, with b_l the ranker's own logit, taken as given,

    logit p(l | impression, what came before) = b_l + a_l^T controls + w_l^T repetition

Serving uses w alone. It is a logistic regression with few weights and strong correlations, so it
is not learned by gradient steps but by Newton's, online: the precision matrix of all that was seen
so far (fading slowly, as the ranker that gives b changes) stands in for the Hessian. There is no
learning rate, and its state is buffers, not parameters: no optimiser touches it, and nothing flows
back into the ranker.

Letters: X impressions, J those of one request, L objectives given an impression, F repetition
features, A controls, G = A + F.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ifa_ray.data.items import ItemTable
from ifa_ray.reranking.repetition import FEATURES, KINDS, ItemTraits, RepetitionWalk, recent_of
from ifa_ray.schema import OBJECTIVES, TrainingSample

CONTROLS = ("one", "own_logit", "log_position", *(f"slate_{kind}" for kind in KINDS))
"""Held constant while repetition is judged. The last four say how much an item is like the
*whole* slate, above and below: a slate full of one category was shown to somebody who likes it, and
without them the step learns that repetition is good. With them it compares the first of its kind
with the third, in one slate."""

MEMORY = 0.999
"""Weight of a batch of impressions after the next one."""

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
        inputs_XG: npt.NDArray[np.float64],
        logits_XL: npt.NDArray[np.float64],
        labels_XL: npt.NDArray[np.uint8],
    ) -> None:
        """Takes one Newton step on impressions that were not learned from before.

        Args:
            inputs_XG: `CONTROLS` but for `own_logit`, which is filled in here, then `FEATURES`.
            logits_XL: the ranker's, of each objective given the impression, before it learned
                from these impressions.
            labels_XL: 1 where the objective happened.
        """
        if len(inputs_XG) == 0:
            return
        inputs = torch.from_numpy(inputs_XG)
        prior_GG = PRIOR * torch.eye(inputs.shape[1], dtype=torch.float64)
        for place in range(len(self.weights_LG)):
            logit_X = torch.from_numpy(logits_XL[:, place].astype(np.float64))
            label_X = torch.from_numpy(labels_XL[:, place].astype(np.float64))
            inputs[:, CONTROLS.index("own_logit")] = logit_X
            weights_G = self.weights_LG[place]
            p_X = torch.sigmoid(logit_X + inputs @ weights_G)
            curvature_GG = (inputs * (p_X * (1 - p_X))[:, None]).T @ inputs
            faded_GG = MEMORY * (self.precision_LGG[place] - prior_GG)
            self.precision_LGG[place] = faded_GG + prior_GG + curvature_GG
            slope_G = inputs.T @ (label_X - p_X)
            weights_G += torch.linalg.solve(self.precision_LGG[place], slope_G)

    def repetition_weights(self) -> npt.NDArray[np.float64]:
        """w, [L, F]: the part that is served."""
        return self.weights_LG[:, len(CONTROLS) :].cpu().numpy().copy()


def lesson_of(
    sample: TrainingSample, items: ItemTable, traits: ItemTraits
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The shown candidates of a sample whose positions are known, top first.

    Returns:
        Their places among the candidates, [J]; and `CONTROLS` (0 for `own_logit`) and `FEATURES`
        given the session and the items above, [J, G].
    """
    request, positions_C = sample.request, sample.positions_C
    assert positions_C is not None
    shown = np.flatnonzero(positions_C >= 0)
    places_J = shown[np.argsort(positions_C[shown], kind="stable")]
    rows_J = items.rows(request.candidates_C[places_J])
    inputs_JG = np.zeros((len(places_J), len(CONTROLS) + len(FEATURES)))
    if len(places_J):
        inputs_JG[:, CONTROLS.index("one")] = 1
        inputs_JG[:, CONTROLS.index("log_position")] = np.log1p(positions_C[places_J])
        inputs_JG[:, CONTROLS.index("slate_category") : len(CONTROLS)] = _slate(traits, rows_J)
    walk = RepetitionWalk(traits, rows_J, recent_of(request, items))
    for j in range(len(places_J)):
        inputs_JG[j, len(CONTROLS) :] = walk.features_PF[j]
        walk.show(j)
    return places_J, inputs_JG


def _slate(traits: ItemTraits, rows_J: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Similarity of each item to all others of the slate, [J, 4], in the order of `KINDS`."""
    content_JX = traits.content_RX[rows_J]
    cosine_JJ = np.maximum(content_JX @ content_JX.T, 0.0).astype(np.float64)
    same_category_JJ, same_author_JJ = (
        (trait_J[:, None] == trait_J).astype(np.float64)
        for trait_J in (traits.category_R[rows_J], traits.author_R[rows_J])
    )
    for itself_JJ in (cosine_JJ, same_category_JJ, same_author_JJ):
        np.fill_diagonal(itself_JJ, 0.0)
    sums = [each.sum(axis=1) for each in (same_category_JJ, same_author_JJ, cosine_JJ**2)]
    return np.stack([*sums, cosine_JJ.max(axis=1)], axis=1)


class Teacher:
    """Teaches re-ranking by what was shown in which order; a learner's hook after each step."""

    def __init__(self, response: SetResponse, items: ItemTable) -> None:
        self._response, self._items, self._traits = response, items, ItemTraits.of(items)

    def __call__(
        self, samples: Sequence[TrainingSample], logits_BCL: npt.NDArray[np.float32]
    ) -> None:
        """Learns from a batch, given the ranker's logits from before it learned from it."""
        inputs, logits, labels = [], [], []
        for sample, logits_CL in zip(samples, logits_BCL, strict=True):
            if sample.positions_C is None:
                warnings.warn(
                    "set_step == 'learned', but the log has no positions: the step learns "
                    "nothing from it and changes no slate.",
                    stacklevel=2,
                )
                continue
            places_J, inputs_JG = lesson_of(sample, self._items, self._traits)
            inputs.append(inputs_JG)
            logits.append(logits_CL[places_J, 1:])
            labels.append(sample.labels_CL[places_J, 1:])
        if inputs:
            self._response.learn(
                np.concatenate(inputs), np.concatenate(logits), np.concatenate(labels)
            )
