import numpy as np
import pytest

from ifa_ray.abtest import Check, Decision, training_equal
from ifa_ray.abtest.checks import decide, no_lost_partitions, users_equal
from ifa_ray.abtest.effects import Effect, Versus
from ifa_ray.abtest.estimates import Estimate
from ifa_ray.abtest.text import percent

GOOD = Estimate(log_lift=0.01, se=0.001, df=4)
BAD = Estimate(log_lift=-0.01, se=0.001, df=4)


def verdict(estimate=GOOD, p_adjusted=None, replicates=5, **changes):
    """The verdict on an effect whose headline is the estimate."""
    versus = Versus(names=("ifa", "twin"), pairs=(), paired=True, users_decide=False, alpha=0.05)
    lifts = (None if estimate is None else estimate.log_lift,) * replicates

    class Known(Effect):
        decisive = estimate

    effect = Known(versus=versus, absolute=False, lifts=lifts, checkpoints=(), undefined=None)
    if p_adjusted is None and estimate is not None:
        p_adjusted = estimate.p_value
    return decide(effect, p_adjusted, **changes)


@pytest.mark.parametrize(
    ("changes", "decision"),
    [
        ({}, Decision.BETTER),
        ({"estimate": BAD}, Decision.WORSE),
        ({"p_adjusted": 0.05}, Decision.NOT_DISTINGUISHABLE),
        ({"p_adjusted": 0.0499}, Decision.BETTER),
        ({"replicates": 2, "estimate": None}, Decision.NO_VERDICT),
        ({"estimate": None}, Decision.NO_VERDICT),
        ({"failed_checks": ("equal users",)}, Decision.NO_VERDICT),
    ],
)
def test_verdict_rule(changes, decision):
    found, line = verdict(**changes)
    assert found is decision
    assert "ifa" in line


def test_verdict_line_says_what_was_measured():
    line = verdict()[1]
    low, high = GOOD.interval(0.05)
    for part in ("ifa is better than twin", "+1.01%", percent(low), percent(high), "95%"):
        assert part in line
    assert "2 replicates" in verdict(replicates=2)[1]
    assert "equal users" in verdict(failed_checks=("equal users",))[1]


def test_effect_that_is_gone_after_holm_says_so():
    effect = Estimate(log_lift=0.03, se=0.01, df=4)  # p = 0.04
    assert "gone after Holm" in verdict(effect, p_adjusted=0.08, arms_tested=2)[1]


def test_percent_has_a_sign_and_no_negative_zero():
    assert percent(0.00803) == "+0.80%"
    assert percent(-0.1234) == "\N{MINUS SIGN}12.34%"
    assert percent(0.0) == "0.00%"
    assert percent(-0.000001) == "0.00%"
    assert percent(12.5) == "+1,250%"


def mask(size, missing=()):
    seen = np.ones(size, bool)
    seen[list(missing)] = False
    return seen


def test_a_tenth_of_one_arms_users_dropped_fails_the_user_check():
    seen = {"twin": [mask(200), mask(200)], "ifa": [mask(200), mask(200, range(40))]}
    check = users_equal(seen, "twin")
    assert not check.ok
    assert "40" in check.detail
    assert users_equal({"twin": [mask(9)], "ifa": [mask(9)]}, "twin").ok


def test_a_few_users_apart_on_both_sides_pass_the_user_check():
    seen = {"twin": [mask(200, range(5))], "ifa": [mask(200, range(50, 55))]}
    check = users_equal(seen, "twin")
    assert check.ok
    assert "same" not in check.detail


def test_lost_partitions_are_named():
    assert no_lost_partitions([]).ok
    check = no_lost_partitions(["a", "b", "c", "d"])
    assert not check.ok
    assert check.detail == "Missing: a, b, c and 1 more."


def test_training_budgets_must_be_equal():
    row = {"steps": 10, "batches": 10, "samples": 40, "versions": 3}
    assert training_equal({"twin": row, "ifa": dict(row)}).ok
    assert not training_equal({"twin": row, "ifa": {**row, "samples": 41}}).ok
    assert not training_equal({"twin": row, "ifa": {"steps": 10, "batches": 10}}).ok
    assert training_equal({}) == Check(name="equal training", ok=True, detail="No arm learns.")
