"""A metric that cannot be compared says why, and never ends the analysis."""

import numpy as np

from ifa_ray.abtest.effects import why_undefined
from ifa_ray.abtest.estimates import Totals, log_lift


def totals(numerator):
    return Totals(numerator_U=np.array([numerator]), denominator_U=np.ones(1))


def test_an_entropy_that_rounds_below_zero_is_nothing_to_count():
    pair = (totals(-3.2e-12), totals(1.0))
    assert log_lift(*pair) is None
    assert why_undefined([pair], ("mine", "twin")) == "nothing to count in replicate 0 of mine"


def test_the_arm_that_has_nothing_is_named():
    pairs = [(totals(1.0), totals(1.0)), (totals(1.0), totals(0.0))]
    assert why_undefined(pairs, ("mine", "twin")) == "nothing to count in replicate 1 of twin"
