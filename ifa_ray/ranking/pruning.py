"""Pruning by an upper bound: which candidates can be in a slate, without every tower of every one.

A ranking rule is a sum of weights times log-probabilities, and none of its terms is above 0. So the
impression's term alone bounds a score from above: its tower is computed for all candidates, the
others that the rule names for a few that look best by it, and then for every candidate whose bound
reaches the worst of these that is wanted. No other can be in the slate, whatever the model: the
slates are those of scoring everything. In information retrieval this is known as WAND (Broder et
al., CIKM 2003), over towers in place of postings. How many are spared is for the model to say; if
none is, the towers that the rule leaves out still are.

In bfloat16 the towers of the rule are computed roughly for all, and exactly for those whose rough
score, by the error seen on the best, could be one of the wanted. Knows models and rules; no
requests.

Letters: C candidates, P of them, L objectives.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from ifa_ray.models.base import RankModel, log_probabilities_from
from ifa_ray.models.inputs import TowerInputs
from ifa_ray.ranking_rule import RankingRule
from ifa_ray.schema import OBJECTIVES

DECIMALS = 5
"""Scores are rounded before they are compared: sums in another order, as with other thread counts
or instruction sets, differ by about 1e-6 and must not change a slate."""

# Fewer candidates are scored whole: what is spared would be less than what pruning costs, half a
# millisecond.
_WORTH_FROM = 2_000

# Candidates that are scored exactly before anything is left out, for each that is wanted, and at
# least: the more, the better it is known what a score must reach, and how rough a rough one is.
_TIMES_WANTED = 4
_AT_LEAST = {torch.float32: 64, torch.bfloat16: 512}


def worth_pruning(num_candidates: int, wanted: int, dtype: torch.dtype) -> bool:
    """True if there are enough candidates to leave some out."""
    return num_candidates >= max(_WORTH_FROM, 4 * _first_look(wanted, dtype))


def prune(
    model: RankModel, inputs: TowerInputs, rule: RankingRule, wanted: int, dtype: torch.dtype
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Finds all candidates that can be among the best.

    Args:
        model: whose `scores_apart`.
        inputs: of one request.
        rule: by which the best are meant, once scores are rounded to `DECIMALS`.
        wanted: how many of the best.
        dtype: of the products that are computed for all candidates.

    Returns:
        Their places, ascending, [P]; and their log p(objective|can), [P, L], NaN where the rule
        leaves an objective out.
    """
    C, exactly = inputs.channel_BC.shape[1], dtype == torch.float32
    logits_CL = torch.full((C, len(OBJECTIVES)), torch.nan, device=inputs.user_BU.device)
    for_all = rule.objectives[:1] if exactly else rule.objectives
    for_some = rule.objectives[1:] if exactly else rule.objectives

    def score(places_P: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Computes what is not known exactly yet of some candidates."""
        places = torch.from_numpy(places_P).to(logits_CL.device)
        if for_some:
            some = inputs.take(places) if len(places) < C else inputs
            logits_CL[places[:, None], list(for_some)] = model.logits_of(some, only=for_some)[0]
        return _log_p(logits_CL[places])

    logits_CL[:, list(for_all)] = model.logits_of(inputs, dtype, for_all)[0]
    rough_C = (
        rule.bound(_log_p(logits_CL[:, :1])[:, 0]) if exactly else rule.scores(_log_p(logits_CL))
    )
    look = _first_look(wanted, dtype)
    looked_P = np.sort(np.argpartition(-rough_C, look)[:look])
    looked_PL = score(looked_P)
    scores_P = rule.scores(looked_PL)
    worst_wanted = np.partition(scores_P, look - wanted)[look - wanted]
    doubt = 10.0**-DECIMALS
    if not exactly:
        # How far rough scores are off where both are known; twice as far, where they are not.
        doubt += 2 * np.abs(scores_P - rough_C[looked_P]).max()
    left_out_C = rough_C + doubt < worst_wanted  # NaN is not: its score is to be seen
    left_out_C[looked_P] = True
    others_P = np.flatnonzero(~left_out_C)
    if not len(others_P):
        return looked_P, looked_PL
    if 2 * (len(looked_P) + len(others_P)) > C:
        return np.arange(C), score(np.arange(C))
    places_P = np.concatenate([looked_P, others_P])
    log_p_PL = np.concatenate([looked_PL, score(others_P)])
    order = np.argsort(places_P)
    return places_P[order], log_p_PL[order]


def _first_look(wanted: int, dtype: torch.dtype) -> int:
    """The number of candidates that are scored exactly before any is left out."""
    return max(_TIMES_WANTED * wanted, _AT_LEAST[dtype])


def _log_p(logits_CL: torch.Tensor) -> npt.NDArray[np.float32]:
    return log_probabilities_from(logits_CL).cpu().numpy()
