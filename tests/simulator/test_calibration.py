"""Levels meet the rates they were solved for; verdicts follow tolerances; misses are shown."""

import dataclasses
import json

import numpy as np
import pytest
from tiny_worlds import TINY

from ifa_ray.errors import ConfigError
from simulator.__main__ import main
from simulator.calibration.measure import (
    SURFACES,
    compare,
    format_rows,
    random_pool,
    targets,
    wanted_rates,
)
from simulator.calibration.sample import draw_sample, pool_weights, thinned
from simulator.calibration.solve import rates, solve_levels, solve_on_sample, unmet
from simulator.calibration.table import compare_worlds, sample_worlds
from simulator.world.config import world_config


@pytest.fixture(scope="module")
def rows():
    sampled = sample_worlds(world_config("smoke"), seeds=range(1, 6), num_users=64)
    return {row["key"]: row for row in compare_worlds(sampled)}


@pytest.mark.parametrize(
    ("key", "tolerance"),
    [
        ("feed_is_click", 0.02), ("feed_long_view", 0.02), ("feed_is_like", 0.002),
        ("feed_mean_play_s", 1.5), ("feed_zero_play", 0.04), ("user_click_sd", 0.03),
        ("random_is_click", 0.03), ("random_long_view", 0.03), ("feed_ratio_q25", 0.12),
        ("feed_ratio_q50", 0.12), ("duration_p50_s", 2.0), ("duration_p95_s", 27.0),
    ],
)  # fmt: skip
def test_a_world_not_solved_on_has_the_real_rates(rows, key, tolerance):
    assert rows[key]["achieved"] == pytest.approx(rows[key]["target"], abs=tolerance)


def test_random_exposure_is_worse_than_the_feed(rows):
    for name in ("is_click", "long_view", "mean_play_s"):
        assert rows[f"random_{name}"]["achieved"] < 0.7 * rows[f"feed_{name}"]["achieved"]


def test_heavy_users_click_less(rows):
    assert -0.7 < rows["activity_click_spearman"]["achieved"] < -0.3


def test_a_miss_is_shown(rows):
    # Few users cannot concentrate as 27,000 do: no user sees an item twice.
    row = rows["top_1pct_share"]
    assert row["verdict"] == "miss"
    assert "at most" in row["source"]
    assert "miss" in format_rows([row])
    assert "0 of 1 targets hit" in format_rows([row])


@pytest.mark.parametrize(
    ("achieved", "kind", "verdict"),
    [
        ({"feed_is_click": 0.3981}, "absolute", "hit"),
        ({"feed_is_click": 0.3983}, "absolute", "miss"),
        ({"feed_is_click": 0.3581}, "absolute", "miss"),
        ({"feed_mean_play_s": 16.2}, "relative", "hit"),
        ({"feed_mean_play_s": 16.4}, "relative", "miss"),
        ({"feed_is_hate": 0.000927 * 1.49}, "factor", "hit"),
        ({"feed_is_hate": 0.000927 / 1.49}, "factor", "hit"),
        ({"feed_is_hate": 0.000927 * 1.51}, "factor", "miss"),
        ({"feed_is_hate": 0.0}, "factor", "miss"),
        ({"activity_click_spearman": -0.45}, "absolute", "hit"),
        ({"activity_click_spearman": 0.5}, "absolute", "miss"),
    ],
)
def test_a_verdict_follows_the_tolerance_of_its_kind(achieved, kind, verdict):
    (row,) = compare([achieved])
    assert (row["tolerance_kind"], row["verdict"]) == (kind, verdict)


def test_rows_are_plain_json_and_print_as_a_table(rows):
    text = format_rows(list(rows.values()))
    assert json.loads(json.dumps(list(rows.values()))) == list(rows.values())
    assert text.count("\n") == len(rows) + 1
    assert f"{sum(r['verdict'] == 'hit' for r in rows.values())} of {len(rows)} targets hit" in text


def test_solving_recovers_the_rates_of_levels_it_was_not_told():
    hidden = dataclasses.replace(
        TINY, skip_level=0.4, watch_level=1.8, watch_log_sd=0.9, watch_gain=0.8,
        utility_scale=0.6, bias_sd=0.7, duration_skip=0.6, like_level=-4.5, like_gain=0.9,
    )  # fmt: skip
    sample = draw_sample(hidden, [5], num_users=24)
    wanted = rates(hidden, sample)
    start = dataclasses.replace(TINY, skip_level=2.0, watch_gain=0.2, bias_sd=0.3)
    assert rates(start, sample)["feed_is_click"] != pytest.approx(wanted["feed_is_click"], rel=0.1)
    solved = solve_on_sample(start, wanted, sample)
    for key, rate in rates(solved, sample).items():
        assert rate == pytest.approx(wanted[key], rel=0.03), key
    assert not list(unmet(solved, wanted, sample))


def test_a_mechanism_that_is_off_stays_off():
    off = dataclasses.replace(TINY, duration_skip=0.0, replay_share=0.0, like_gain=0.0)
    solved = solve_on_sample(off, wanted_rates(), draw_sample(off, [5], num_users=16))
    assert solved.duration_skip == solved.replay_share == solved.like_gain == 0.0
    assert solved.skip_level != off.skip_level


def test_what_cannot_be_met_is_named_with_the_nearest_value():
    wanted = {**wanted_rates(), "feed_mean_play_s": 300.0}
    lines: list[str] = []
    solve_levels(TINY, wanted, seed=5, num_worlds=1, num_users=16, rounds=1, report=lines.append)
    (line,) = [line for line in lines if line.startswith("feed_mean_play_s")]
    assert "feed_mean_play_s == 300 is not met: the nearest that these mechanisms come is" in line


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ({"feed_is_click": 1.2}, r"targets.feed_is_click == 1.2, must be a probability in \(0, 1"),
        ({"feed_is_like": 0.0}, r"targets.feed_is_like == 0.0, must be a probability"),
        ({"random_is_hate": -0.1}, r"targets.random_is_hate == -0.1, must be a probability"),
        ({"feed_mean_play_s": 0.0}, r"targets.feed_mean_play_s == 0.0, must be a finite number >"),
        ({"feed_long_view": 0.9}, r"targets.feed_long_view == 0.9, must be <= feed_is_click"),
        ({"feed_zero_play": float("nan")}, r"targets.feed_zero_play == nan"),
        ({"feed_impressions_per_request": 9.0}, r"must be in \[1, slate_size == 8\)"),
    ],
)
def test_a_target_that_no_world_can_have_is_refused(target, says):
    with pytest.raises(ConfigError, match=says):
        solve_levels(
            TINY, {**wanted_rates(), **target}, seed=5, num_worlds=1, num_users=8, rounds=1
        )


def test_impressions_per_request_are_met_by_refreshing():
    wanted = {**wanted_rates("kuaishou_paper"), "feed_impressions_per_request": 3.0}
    solved = solve_levels(TINY, wanted, seed=5, num_worlds=1, num_users=24, rounds=1)
    found = sample_worlds(solved, [7], 48)[0]["feed_impressions_per_request"]
    assert found == pytest.approx(3.0, rel=0.1)


@pytest.mark.parametrize("surface", SURFACES)
def test_every_target_names_source_tier_and_tolerance(surface):
    for key, target in targets(surface).items():
        assert target["tier"] in ("A", "B", "C"), key
        assert target["source"].startswith(("KuaiRand", "KuaiRec", "the paper")), key
        ((kind, value),) = target["tolerance"].items()
        assert kind in ("absolute", "relative", "factor"), key
        assert value > (1 if kind == "factor" else 0), key


def test_the_papers_surface_is_table_1():
    found = {key: target["target"] for key, target in targets("kuaishou_paper").items()}
    # Impression 980,126,567; click 608,213,881; long view 478,241,795; like 81,806,840;
    # request 300,713,382; candidate 756,527,143,866.
    assert found["feed_is_click"] == pytest.approx(0.62, abs=0.005)
    assert found["feed_long_view"] == pytest.approx(0.49, abs=0.005)
    assert found["feed_is_like"] == pytest.approx(0.083, abs=0.001)
    assert found["feed_impressions_per_request"] == pytest.approx(3.26, abs=0.005)
    assert found["candidates_per_request"] == pytest.approx(2_516, abs=0.5)
    assert world_config("kuaishou_paper").num_candidates == 2_516


def test_weights_turn_the_catalogues_durations_into_the_pools():
    rng = np.random.default_rng(1)
    duration_s = np.exp(rng.normal(np.log(35.1), 1.2356, 200_000))
    weight = pool_weights(duration_s, (np.log(35.1), 1.2356), random_pool())
    log_s = np.log(duration_s)
    mean = np.average(log_s, weights=weight)
    assert mean == pytest.approx(4.228, abs=0.03)
    assert np.average((log_s - mean) ** 2, weights=weight) ** 0.5 == pytest.approx(1.034, abs=0.03)
    assert (pool_weights(duration_s, (np.log(35.1), 1.2356), None) == 1).all()


def test_a_thinned_world_keeps_how_much_of_the_catalogue_a_user_sees():
    config = world_config("kuairand")
    small = thinned(config, config.history_median / 10, 1_000)
    share = config.history_median / config.num_items
    assert small.history_median / small.num_items == pytest.approx(share, rel=0.01)
    assert small.prehistory_limit == config.prehistory_limit // 10
    stripe = config.num_items * config.warmup_candidates / config.num_candidates
    found = small.num_items * small.warmup_candidates / small.num_candidates
    assert found == pytest.approx(stripe, rel=0.02)


def test_the_command_prints_the_table(capsys):
    assert main(["calibration", "--preset", "smoke"]) == 0
    printed = capsys.readouterr().out
    for text in ("target", "achieved", "distance", "allowed", "verdict", "tier B", "targets hit"):
        assert text in printed


def test_the_command_knows_its_presets(capsys):
    assert main(["calibration", "--preset", "kuairnd"]) == 2
    assert "Did you mean 'kuairand'?" in capsys.readouterr().err
    assert main(["calibration", "--preset", "absent.json"]) == 2
    assert "preset == 'absent.json', must be a file that can be read" in capsys.readouterr().err
