"""Ranking rules: how per-objective probabilities become one score.

Knows objectives' names and weights; knows no model and no request. A rule is a weighted geometric
mean of p(imp|can) and of p(l|imp) for the objectives l given an impression, written as text, so
that it can stand in a config: `imp^0.5*long_view^1*is_like^0.2`. Only its order matters, so the
weights need not sum to 1. The text is read by the few lines below; nothing in it is evaluated.

Letters: C candidates, L objectives.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import numpy.typing as npt

from ifa_ray.errors import ConfigError, unknown_name
from ifa_ray.schema import OBJECTIVES

RANKING_RULES = {"pitctr": "imp^1*is_click^1", "long_view": "imp^0.5*long_view^1"}
"""Rules by name. `pitctr` is the paper's, p(imp|can) p(cli|imp). `long_view` leans less on
p(imp|can), which repeats what the earlier policy showed."""

_IMPRESSION = "imp"
_NAMES = (_IMPRESSION, *OBJECTIVES[1:])
_TERM = re.compile(r"([a-z_]+)(?:\^(\d+(?:\.\d+)?))?")


@dataclasses.dataclass(frozen=True)
class RankingRule:
    """Weights of log p(imp|can) and of each log p(l|imp).

    Attributes:
        weights: one for each of `OBJECTIVES`, in their order; 0 where the rule leaves one out.
    """

    weights: tuple[float, ...]

    @property
    def objectives(self) -> tuple[int, ...]:
        """The places of those that scores depend on; the impression, which all build on, first."""
        return (0, *(place for place, weight in enumerate(self.weights) if place and weight))

    def bound(self, log_p_C: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """A bound that no score exceeds, float64 [C], by log p(imp|can) alone.

        A score is a sum of weights, none below 0, times logarithms of probabilities; what float32
        may lose of them is added.
        """
        lost = 2.0**-22 * (self.weights[0] + 2 * sum(self.weights[1:]))
        return (self.weights[0] - lost) * log_p_C.astype(np.float64)

    def scores(self, log_p_CL: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """One score per candidate from log p(objective|can), float64 [C].

        Columns that are not in `objectives` may hold anything.
        """
        # log p(l|imp) = log p(l|can) - log p(imp|can), so the impression's share shrinks by each.
        shares = (self.weights[0] - sum(self.weights[1:]), *self.weights[1:])
        terms = [
            share * log_p_CL[:, place].astype(np.float64)
            for place, share in enumerate(shares)
            if share != 0  # what is left out may be anything, infinite too
        ]
        # Weights that cancel exactly leave nothing only if all of them are 0, which no text gives.
        return np.sum(terms, axis=0)


def parse_ranking_rule(text: str) -> RankingRule:
    """Reads a rule's name, or its terms `NAME^WEIGHT` (or `NAME`, weight 1) joined by `*`.

    Raises:
        ConfigError: on anything else, with the near miss of a name.
    """
    if text.isidentifier() and text not in RANKING_RULES and text not in _NAMES:
        raise unknown_name("ranking_rule", text, (*RANKING_RULES, *_NAMES))
    weights: dict[str, float] = {}
    for term in RANKING_RULES.get(text, text).split("*"):
        match = _TERM.fullmatch(term.strip())
        if match is None:
            raise ConfigError(
                f"ranking_rule == {text!r}: term {term.strip()!r}, must be NAME or NAME^WEIGHT "
                "with a weight such as 0.5, terms joined by *, or one of "
                f"{', '.join(RANKING_RULES)}."
            )
        name, weight = match[1], float(match[2] or 1)
        if name not in _NAMES:
            raise unknown_name(f"ranking_rule == {text!r}: objective", name, _NAMES)
        if name in weights:
            raise ConfigError(f"ranking_rule == {text!r}: {name} is named twice, must be once.")
        if not 0 < weight <= 100:
            raise ConfigError(
                f"ranking_rule == {text!r}: weight of {name} == {weight:g}, must be in (0, 100]."
            )
        weights[name] = weight
    return RankingRule(tuple(weights.get(name, 0.0) for name in _NAMES))
