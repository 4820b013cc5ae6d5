"""Segments, planning, guardrails, and the checks of unpaired tests."""

import dataclasses
import math

import ab_logs
import numpy as np
import pytest
from scipy import stats

from ifa_ray.abtest import Decision, analyze
from ifa_ray.abtest.checks import (
    GUARDRAILS,
    aa_silent,
    decide,
    guard,
    guardrail_rows,
    numbers_finite,
    sample_ratio,
)
from ifa_ray.abtest.effects import Effect, Versus, wald_p
from ifa_ray.abtest.estimates import Estimate, NoiseSplit, Totals, paired_effect
from ifa_ray.abtest.logs import run_logs
from ifa_ray.abtest.metrics import METRICS
from ifa_ray.abtest.planning import half_width, plan, power, replicates_needed, users_needed

WATCH = METRICS[0]
NOISE = NoiseSplit(total_sd=0.05, user_sd=0.04, checkpoint_sd=0.03)


def totals(values):
    return Totals(numerator_U=np.asarray(values, np.float64), denominator_U=np.ones(len(values)))


def effect_of_users(estimates):
    """An effect on a platform, where users decide."""
    versus = Versus(names=("b", "a"), pairs=(), paired=True, users_decide=True, alpha=0.05)
    lifts = tuple(each.log_lift for each in estimates)
    return Effect(
        versus=versus, absolute=False, lifts=lifts, checkpoints=tuple(estimates), undefined=None
    )


def test_half_width_by_hand():
    # Variance 0.03^2 + 0.04^2/4 = 0.0013 over 5 replicates, t of 4 degrees 2.776445.
    assert half_width(NOISE, 5, 4, 0.05) == pytest.approx(2.776445 * (0.0013 / 5) ** 0.5)


def test_replicates_needed_is_the_first_number_that_suffices():
    for factor in (1, 16):
        needed = replicates_needed(NOISE, factor, 0.01, 0.05)
        assert half_width(NOISE, needed, factor, 0.05) <= math.log1p(0.01)
        assert half_width(NOISE, needed - 1, factor, 0.05) > math.log1p(0.01)
    huge = NoiseSplit(total_sd=9.0, user_sd=0.0, checkpoint_sd=9.0)
    assert replicates_needed(huge, 1, 0.001, 0.05) is None


def test_users_needed_shrink_with_the_square():
    users = users_needed(0.01, 1_000, 0.001, 0.05)
    assert users == pytest.approx(1_000 * (1.959964 * 0.01 / math.log1p(0.001)) ** 2, abs=1)


def test_power_is_that_of_simulated_t_tests():
    rng = np.random.default_rng(0)
    draws = rng.normal(0.02, 0.02, (20_000, 5))
    found = np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05)
    assert power(0.02, 0.02 / 5**0.5, 4, 0.05) == pytest.approx(found, abs=0.01)
    assert power(0.0, 0.01, 4, 0.05) == pytest.approx(0.05)


def test_the_plan_says_what_this_run_finds_in_80_of_100():
    rows = plan(NOISE, replicates=5, users=100, pooled_se=0.02, alpha=0.05)
    assert power(math.log1p(rows["detectable"]), 0.05 / 5**0.5, 4, 0.05) == pytest.approx(0.8)
    assert [row["users"] for row in rows["rows"]] == [100, 400, 1_600, 6_400, None]
    needed = [row["replicates_needed"] for row in rows["rows"]]
    assert needed == sorted(needed, reverse=True)
    none = plan(None, replicates=2, users=100, pooled_se=0.02, alpha=0.05)
    assert (none["rows"], none["detectable"]) == ([], None)


@pytest.mark.parametrize(
    ("relative", "se", "status"),
    [(0.0, 0.001, "held"), (0.02, 0.001, "held"), (0.0, 0.2, "open"), (0.2, 0.01, "breached"),
     (0.2, 0.5, "open"), (-0.2, 0.01, "held")],
)  # fmt: skip
def test_a_guardrail_against_more(relative, se, status):
    estimate = Estimate(log_lift=math.log1p(relative), se=se, df=30)
    found = guard(estimate, harm=1, margin=0.05, alpha=0.05)
    assert found["status"] == status
    mirrored = Estimate(log_lift=-estimate.log_lift, se=se, df=30)
    assert guard(mirrored, harm=-1, margin=1 - 1 / 1.05, alpha=0.05)["status"] == status
    t = stats.t.isf(0.05, 30)
    assert found["worst"] == pytest.approx(math.exp(estimate.log_lift + t * se) - 1)


def test_cost_is_a_guardrail_over_replicates():
    rows = guardrail_rows({}, [20.0, 22.0, 19.0], [10.0, 10.0, 10.0], 0.05)
    assert [(row["name"], row["status"]) for row in rows] == [("cost", "breached")]
    assert guardrail_rows({}, [20.0], [10.0], 0.05) == []
    assert guardrail_rows({}, None, None, 0.05) == []


def test_hates_and_returning_are_guardrails(tmp_path):
    given = ab_logs.write_run(tmp_path, replicates=4, lifts={"ifa": 0.3})
    for r in range(4):
        for day in (1, 2):
            columns = ab_logs.make_day(
                40 + r + day, given["items"][r], given["user_ids"][r][:30], 1.0
            )
            ab_logs.write(
                tmp_path, "ifa", r, day, {**columns, "is_hate": 0 * columns["is_hate"] + 1}
            )
    result = analyze(run_logs(**given), cost_ms={"twin": [1.0] * 4, "ifa": [1.0] * 4})
    rows = {row["name"]: row["status"] for row in result["guardrails"]["ifa"]}
    assert rows == {"cost": "held", "hate_rate": "breached", "active_days": "breached"}
    assert {rail.name for rail in GUARDRAILS} == set(rows)
    line = result["verdicts"]["ifa"]["line"]
    assert line.endswith(
        "Breached guardrails: Hates per impression, Returning (active days per user)."
    )


def segment_world(tmp_path, lift_of_history):
    """Users whose later plays grow by a factor that depends on their history."""
    given = ab_logs.write_run(tmp_path, replicates=5, days=2, pre=True)
    rng = np.random.default_rng(3)
    for r in range(5):
        present = given["user_ids"][r][given["user_ids"][r] % 10 != 0]
        past = ab_logs.make_day(7_000 + r, given["items"][r], present[present % 7 != 0])
        weights = np.linspace(1, 9, ab_logs.NUM_USERS + 1)
        keep = rng.random(len(past["user_id"])) < weights[past["user_id"]] / 9
        ab_logs.write(tmp_path, "warmup", r, 0, {n: column[keep] for n, column in past.items()})
        length = np.bincount(past["user_id"][keep], minlength=ab_logs.NUM_USERS + 1)
        for arm in ("twin", "ifa"):
            day = ab_logs.make_day(r, given["items"][r], present)
            if arm == "ifa":
                day["play_time_ms"] = (
                    day["play_time_ms"] * np.exp(lift_of_history(length[day["user_id"]]))
                    * rng.lognormal(0, 0.05, len(day["user_id"]))
                ).astype(np.int32)  # fmt: skip
            ab_logs.write(tmp_path, arm, r, 1, day)
    return analyze(run_logs(**given))


def test_segments_find_an_effect_that_grows_with_history(tmp_path):
    found = segment_world(tmp_path, lambda length: 0.03 * length)["segments"]["ifa"]["history"]
    labels = [row["label"] for row in found["rows"]]
    assert labels == ["no past", "1st quartile", "2nd quartile", "3rd quartile", "4th quartile"]
    lifts = [row["log_lift"] for row in found["rows"]]
    assert lifts == sorted(lifts)
    assert lifts[0] == pytest.approx(0, abs=0.03)
    assert found["p_trend"] < 0.01
    assert found["p_users"] < 1e-6
    assert found["rows"][0]["range"] == [0, 0]
    assert sum(row["users"] for row in found["rows"]) == ab_logs.NUM_USERS


def test_segments_see_no_interaction_where_there_is_none(tmp_path):
    found = segment_world(tmp_path, lambda length: 0 * length + 0.1)["segments"]["ifa"]
    assert set(found) == {"history", "activity"}
    assert found["history"]["p_trend"] > 0.01
    assert found["history"]["p_users"] > 0.01


def test_without_a_past_there_are_no_segments(tmp_path):
    assert analyze(ab_logs.make_run(tmp_path))["segments"]["ifa"] is None


def test_walds_test_by_hand():
    # Lifts that differ by ln 2 and have equal weights: chi-square is (ln 2)^2 / (2 SE^2).
    rng = np.random.default_rng(4)
    noise = rng.normal(1, 0.1, 50)
    control = totals(noise)
    other = totals(rng.normal(1, 0.1, 50))
    pairs = [(totals(factor * other.numerator_U), control) for factor in (1, 2)]
    effects = [effect_of_users([paired_effect(*pair)]) for pair in pairs]
    se = effects[0].pooled.se
    assert effects[1].pooled.se == pytest.approx(se)
    expected = stats.chi2.sf(math.log(2) ** 2 / (2 * se**2), 1)
    assert wald_p(effects) == pytest.approx(expected)
    assert wald_p(effects[:1]) is None


def test_a_split_that_lost_a_tenth_of_one_arm_fails_and_a_fair_one_passes():
    assert not sample_ratio({"a": 10_000, "b": 9_000}, "a").ok
    assert "b has 9,000" in sample_ratio({"a": 10_000, "b": 9_000}, "a").detail
    assert sample_ratio({"a": 10_000, "b": 9_950}, "a").ok


def test_a_total_that_is_no_number_fails():
    assert numbers_finite({"a": {"watch_time": np.array([1.0, 2.0])}}).ok
    check = numbers_finite({"a": {"watch_time": np.array([1.0, np.nan])}})
    assert not check.ok
    assert check.detail == "watch_time of 1 users of a is not a finite number."


def test_control_and_its_copy_may_not_differ():
    assert aa_silent("twin2", Estimate(log_lift=0.01, se=0.02, df=4)).ok
    assert not aa_silent("twin2", Estimate(log_lift=0.01, se=0.0001, df=4)).ok
    assert aa_silent("twin2", None).ok


def test_the_copy_of_control_is_the_floor_and_gets_no_verdict(tmp_path):
    logs = ab_logs.make_run(
        tmp_path, arms=("twin", "twin2", "ifa"), lifts={"ifa": 0.5}, aa_arm="twin2", replicates=4
    )
    result = analyze(logs)
    assert set(result["verdicts"]) == {"ifa"}
    lifts = [row["log_lift"] for row in result["aa"]["replicates"]]
    assert result["aa"]["floor_sd"] == pytest.approx(np.sqrt(np.mean(np.square(lifts))))
    assert [check["name"] for check in result["health"]] == [
        "equal users", "complete logs", "finite numbers", "A/A",
    ]  # fmt: skip
    # One treatment: Holm has nothing to share.
    row = result["effects"]["ifa"]["watch_time"]
    assert row["p_adjusted"] == row["p"]


def test_users_may_decide_where_the_log_is_a_platforms_and_the_line_says_of_what():
    effect = effect_of_users([Estimate(log_lift=0.1, se=0.01, df=900)])
    p = effect.pooled.p_value
    few = dataclasses.replace(effect, versus=dataclasses.replace(effect.versus, users_decide=False))
    assert decide(few, p)[0] is Decision.NO_VERDICT
    decision, line = decide(effect, p)
    assert decision is Decision.BETTER
    assert "another training of them may differ" in line
