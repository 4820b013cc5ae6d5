"""One estimated effect, and everything that is derived from it; knows nothing of logs.

Point, interval, acceptance region and p-value all come from the same three numbers, so they can
never contradict each other.
"""

from __future__ import annotations

import dataclasses
import math

from scipy import stats

__all__ = ["Estimate"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """An estimated log-lift of treatment over control with its t distribution.

    Attributes:
        log_lift: l, the log of the ratio of treatment's mean to control's; 0 is no effect. Of a
            metric that arms are compared in by difference, the difference.
        se: the standard error of `log_lift`; 0 where the arms are bitwise equal.
        df: degrees of freedom of the t distribution.
    """

    log_lift: float
    se: float
    df: float

    @property
    def relative(self) -> float:
        """The relative effect exp(l) - 1: 0.01 is +1%."""
        return math.expm1(self.log_lift)

    @property
    def p_value(self) -> float:
        """Two-sided p of no effect. 1 for bitwise equal arms, where t would be 0/0."""
        if self.log_lift == 0:
            return 1.0
        if self.se == 0:
            return 0.0
        return float(2 * stats.t.sf(abs(self.log_lift) / self.se, self.df))

    def interval(self, alpha: float) -> tuple[float, float]:
        """The 1 - alpha interval of the relative effect, exp(l -+ t SE) - 1."""
        margin = self._margin(alpha)
        return math.expm1(self.log_lift - margin), math.expm1(self.log_lift + margin)

    def bounds(self, alpha: float) -> tuple[float, float]:
        """The 1 - alpha interval as it is estimated: of logs, or of a difference in own units."""
        margin = self._margin(alpha)
        return self.log_lift - margin, self.log_lift + margin

    def acceptance_region(self, alpha: float) -> tuple[float, float]:
        """Relative effects that would not be significant, -+ t SE around 0 (the paper's Table 4).

        The effect lies outside it exactly where p < alpha.
        """
        margin = self._margin(alpha)
        return math.expm1(-margin), math.expm1(margin)

    def _margin(self, alpha: float) -> float:
        return float(stats.t.isf(alpha / 2, self.df)) * self.se
