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

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ifa_ray.schema import OBJECTIVES
from ifa_ray.set_step.repetition import FEATURES

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
