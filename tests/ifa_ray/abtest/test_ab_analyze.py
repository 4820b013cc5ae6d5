"""The analysis over written logs, against plain Python that goes through every row."""

import dataclasses
import itertools
import json
import math
from collections import Counter, defaultdict

import ab_logs
import numpy as np
import pytest
from scipy import stats

from ifa_ray.abtest import Check, analyze
from ifa_ray.abtest.logs import run_logs
from ifa_ray.abtest.measure import measure
from ifa_ray.abtest.metrics import METRICS
from ifa_ray.abtest.totals import gini
from ifa_ray.errors import ConfigError, LogError


def rows_of(logs, arm, replicate, first_day):
    for row in logs.frames[arm, replicate].collect().to_dicts():
        if row["day"] >= first_day:
            yield row["day"], row


def brute_totals(logs, arm, replicate):
    """Every user's column totals, row by row."""
    items = logs.catalogues[replicate]
    place = {int(v): i for i, v in enumerate(items.video_id_N)}
    totals = {int(u): Counter() for u in logs.users["twin", replicate]}
    user_days = defaultdict(list)
    for day, row in rows_of(logs, arm, replicate, logs.burn_in_days):
        user_days[row["user_id"], day].append(row)
    for (user, _), rows in user_days.items():
        total = totals[user]
        total["watch_time"] += sum(row["play_time_ms"] for row in rows) / 1000
        total["impressions"] += len(rows)
        total["requests"] += len({row["request_id"] for row in rows})
        total["active_days"] += 1
        times = sorted(row["time_ms"] for row in rows)
        total["sessions"] += 1 + sum(b - a > 1_800_000 for a, b in itertools.pairwise(times))
        total["completions"] += sum(row["play_time_ms"] >= row["duration_ms"] for row in rows)
        for action, name in [("is_click", "clicks"), ("long_view", "long_views"),
                             ("is_like", "likes"), ("is_comment", "comments"),
                             ("is_follow", "follows"), ("is_forward", "forwards"),
                             ("is_hate", "hates")]:  # fmt: skip
            total[name] += sum(row[action] for row in rows)
        rows.sort(key=lambda row: (row["time_ms"], row["request_id"], row["position"]))
        for suffix, shown in (("", rows), ("_k", rows[: logs.fixed_k])):
            if suffix and len(shown) < logs.fixed_k:
                continue
            at = [place[row["video_id"]] for row in shown]
            categories = Counter(int(items.category_N[i]) for i in at)
            total["days" + suffix] += 1
            total["categories" + suffix] += len(categories)
            total["authors" + suffix] += len({int(items.author_id_N[i]) for i in at})
            total["gini_simpson" + suffix] += 1 - sum(
                (c / len(at)) ** 2 for c in categories.values()
            )
            total["entropy" + suffix] -= sum(
                c / len(at) * math.log(c / len(at)) for c in categories.values()
            )
            if len(at) >= 2:
                total["pairs" + suffix] += 1
                vectors = items.content_ND[at].astype(np.float64)
                total["distance" + suffix] += np.mean(
                    [1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
                     for a, b in itertools.combinations(vectors, 2)]
                )  # fmt: skip
    return totals


def test_user_totals_are_those_of_a_walk_through_all_rows(tmp_path):
    # Half of the user-days have fewer than the 12 impressions of the fixed k.
    logs = ab_logs.make_run(tmp_path, replicates=1, days=3, burn_in_days=1, fixed_k=12)
    world = measure(logs, "ifa", 0)
    expected = brute_totals(logs, "ifa", 0)
    metrics = [m for m in METRICS if m.group != "world" and "pre" not in m.needs]
    names = {m.above for m in metrics} | {m.below for m in metrics if m.below}
    assert len(names) == 27
    for name in names:
        brute = [expected[user][name] for user in sorted(expected)]
        np.testing.assert_allclose(world.columns[name], brute, atol=2e-5, err_msg=name)
        assert sum(brute) > 0, name


def test_catalogue_coverage_and_gini_are_those_of_a_walk_through_all_rows(tmp_path):
    logs = ab_logs.make_run(tmp_path, replicates=1, days=2, burn_in_days=1)
    world = measure(logs, "twin", 0)
    seen = Counter(row["video_id"] for _, row in rows_of(logs, "twin", 0, 1))
    counts = [seen[int(v)] for v in logs.catalogues[0].video_id_N]
    differences = sum(abs(a - b) for a in counts for b in counts)
    assert world.exposure["coverage"] == sum(c > 0 for c in counts) / len(counts)
    assert world.exposure["gini"] == pytest.approx(differences / (2 * len(counts) * sum(counts)))


def test_gini_of_extremes():
    assert gini(np.array([3, 3, 3, 3])) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 7])) == pytest.approx(3 / 4)
    assert gini(np.zeros(5, np.int64)) == 0


def test_absent_users_count_as_zeros(tmp_path):
    logs = ab_logs.make_run(tmp_path, replicates=1)
    world = measure(logs, "twin", 0)
    absent = np.sort(logs.users["twin", 0]) % 10 == 0
    assert absent.sum() == 4
    for name, column in world.columns.items():
        assert (column[absent] == 0).all(), name
    levels = analyze(logs)["levels"]["twin"]["watch_time"]
    assert levels["mean"] == pytest.approx(world.columns["watch_time"].sum() / ab_logs.NUM_USERS)


def test_same_bytes_in_both_arms_give_no_effect_and_p_one(tmp_path):
    result = analyze(ab_logs.make_run(tmp_path, same=True))
    for name, row in result["effects"]["ifa"].items():
        assert row["log_lift"] == 0, name
        assert row["interval"] == [0, 0], name
        assert row["p"] == row["p_adjusted"] == 1, name
        assert row["significant"] is False
    assert result["verdicts"]["ifa"]["decision"] == "not distinguishable"
    json.dumps(result, allow_nan=False)


def test_result_does_not_depend_on_row_order_or_on_shards(tmp_path):
    given = ab_logs.write_run(tmp_path / "a", replicates=1, days=2)
    logs = run_logs(**given)
    for arm, day in itertools.product(logs.arms, range(2)):
        seed = 10 * day + (0 if day == 0 else logs.arms.index(arm))
        present = logs.users["twin", 0][logs.users["twin", 0] % 10 != 0]
        columns = ab_logs.make_day(seed, logs.catalogues[0], present)
        order = np.random.default_rng(9).permutation(len(columns["user_id"]))
        for shard, rows in enumerate(np.array_split(order, 3)):
            part = {name: column[rows] for name, column in columns.items()}
            ab_logs.write(tmp_path / "b", arm, 0, day, part, shard)
    shuffled = run_logs(**given | {"log": tmp_path / "b"})
    assert analyze(shuffled) == analyze(logs)


def test_swapping_the_arms_flips_every_log_lift_exactly(tmp_path):
    logs = ab_logs.make_run(tmp_path, lifts={"ifa": 0.1})
    swapped = dataclasses.replace(logs, control="ifa")
    forward = analyze(logs)["effects"]["ifa"]
    backward = analyze(swapped)["effects"]["twin"]
    for name in forward:
        assert forward[name]["log_lift"] == -backward[name]["log_lift"], name
    assert forward["watch_time"]["log_lift"] > 0.02


def test_an_injected_lift_is_found_and_the_twin_of_control_is_not(tmp_path):
    logs = ab_logs.make_run(
        tmp_path, arms=("twin", "ifa", "other"), lifts={"ifa": 0.5}, replicates=4
    )
    result = analyze(logs)
    assert result["verdicts"]["ifa"]["decision"] == "better"
    low, high = result["effects"]["ifa"]["watch_time"]["interval"]
    assert low < math.exp(0.5) - 1 < high
    assert result["verdicts"]["other"]["decision"] == "not distinguishable"
    # Holm: the smaller of the two p-values is doubled, the larger one stays.
    smaller, larger = (result["effects"][arm]["watch_time"] for arm in ("ifa", "other"))
    assert smaller["p_adjusted"] == pytest.approx(2 * smaller["p"])
    assert larger["p_adjusted"] == larger["p"]


def test_users_who_stop_coming_later_are_an_effect_not_a_broken_log(tmp_path):
    given = ab_logs.write_run(tmp_path, replicates=4)
    for r, day in itertools.product(range(4), (1, 2)):
        present = np.setdiff1d(given["user_ids"][r], [3, 13, 23, 33, 10, 20, 30, 40])
        ab_logs.write(tmp_path, "ifa", r, day, ab_logs.make_day(day, given["items"][r], present))
    result = analyze(run_logs(**given))
    assert all(check["ok"] for check in result["health"])
    assert result["effects"]["ifa"]["active_days"]["relative"] == pytest.approx(32 / 36 - 1)


def test_secondary_metrics_are_one_family_per_arm_without_the_primary(tmp_path):
    result = analyze(ab_logs.make_run(tmp_path, arms=("twin", "ifa", "din"), lifts={"ifa": 0.5}))
    for rows in result["effects"].values():
        family = {name: row for name, row in rows.items() if name != "watch_time"}
        expected = stats.false_discovery_control([row["p"] for row in family.values()])
        assert [row["p_adjusted"] for row in family.values()] == pytest.approx(expected)


def test_burn_in_days_are_shown_but_not_counted(tmp_path):
    logs = ab_logs.make_run(tmp_path, replicates=3, days=3, burn_in_days=2)
    result = analyze(logs)
    assert [row["counted"] for row in result["daily"]["ifa"]] == [False, False, True]
    last = result["daily"]["ifa"][-1]
    effect = result["effects"]["ifa"]["watch_time"]
    # With one measured day, the day's effect and the whole effect are one.
    assert last["relative"] == pytest.approx(effect["relative"])
    assert last["interval"] == pytest.approx(effect["interval"])
    assert result["daily"]["ifa"][0]["relative"] == 0  # the first day's bytes are the same


def test_two_replicates_give_no_verdict(tmp_path):
    result = analyze(ab_logs.make_run(tmp_path, replicates=2, lifts={"ifa": 1.0}))
    row = result["effects"]["ifa"]["watch_time"]
    assert result["verdicts"]["ifa"]["decision"] == "no verdict"
    assert row["interval"] is row["p"] is row["significant"] is None
    assert row["relative"] > 1
    assert row["checkpoint"]["p"] < 0.001


def test_a_failed_check_of_the_caller_forbids_the_verdict(tmp_path):
    check = Check(name="equal training", ok=False, detail="steps differ")
    result = analyze(ab_logs.make_run(tmp_path, lifts={"ifa": 1.0}), [check])
    assert result["verdicts"]["ifa"]["decision"] == "no verdict"
    assert result["health"][0] == {"name": "equal training", "ok": False, "detail": "steps differ"}


def test_dropping_a_tenth_of_one_arms_users_forbids_the_verdict(tmp_path):
    given = ab_logs.write_run(tmp_path, replicates=4, lifts={"ifa": 1.0})
    for r in range(4):
        present = np.setdiff1d(given["user_ids"][r], [3, 13, 23, 33, 10, 20, 30, 40])
        ab_logs.write(tmp_path, "ifa", r, 0, ab_logs.make_day(0, given["items"][r], present, 1.0))
    result = analyze(run_logs(**given))
    assert [check["name"] for check in result["health"] if not check["ok"]] == ["equal users"]
    assert result["verdicts"]["ifa"]["decision"] == "no verdict"


def test_a_lost_day_is_named_and_forbids_the_verdict(tmp_path):
    given = ab_logs.write_run(tmp_path, lifts={"ifa": 1.0})
    (tmp_path / "impressions/arm=ifa/replicate=1/day=002/shard=00.parquet").unlink()
    result = analyze(run_logs(**given))
    lost = next(check for check in result["health"] if check["name"] == "complete logs")
    assert lost["detail"] == "Missing: arm=ifa/replicate=1/day=002."
    assert result["verdicts"]["ifa"]["decision"] == "no verdict"


def test_a_lost_shard_is_named(tmp_path):
    given = ab_logs.write_run(tmp_path, replicates=1, days=2)
    day = ab_logs.make_day(0, given["items"][0], given["user_ids"][0])
    ab_logs.write(tmp_path, "twin", 0, 1, day, shard=1)
    assert run_logs(**given).lost == (
        "arm=twin/replicate=0/day=000/shard=01.parquet",
        "arm=ifa/replicate=0/day=000/shard=01.parquet",
        "arm=ifa/replicate=0/day=001/shard=01.parquet",
    )


def test_a_null_raises(tmp_path):
    given = ab_logs.write_run(tmp_path)
    day = ab_logs.make_day(0, given["items"][0], given["user_ids"][0])
    broken = [None, *day["play_time_ms"].tolist()[1:]]
    ab_logs.write(tmp_path, "ifa", 2, 1, {**day, "play_time_ms": broken})
    with pytest.raises(LogError, match="arm=ifa/replicate=2: play_time_ms holds 1 nulls"):
        analyze(run_logs(**given))


def test_a_truncated_file_raises(tmp_path):
    given = ab_logs.write_run(tmp_path)
    path = tmp_path / "impressions/arm=twin/replicate=0/day=001/shard=00.parquet"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(LogError, match="arm=twin/replicate=0"):
        analyze(run_logs(**given))


@pytest.mark.parametrize(("column", "value"), [("user_id", 41), ("video_id", 101)])
def test_users_and_items_of_another_world_raise(tmp_path, column, value):
    given = ab_logs.write_run(tmp_path)
    day = ab_logs.make_day(0, given["items"][0], given["user_ids"][0])
    day[column][0] = value
    ab_logs.write(tmp_path, "ifa", 0, 1, day)
    with pytest.raises(LogError, match=f"{column} {value}"):
        analyze(run_logs(**given))


def test_a_metric_without_events_is_undefined_and_says_why(tmp_path):
    given = ab_logs.write_run(tmp_path)
    day = ab_logs.make_day(0, given["items"][0], given["user_ids"][0])
    for number in range(3):
        ab_logs.write(tmp_path, "ifa", 1, number, {**day, "is_hate": 0 * day["is_hate"]})
    row = analyze(run_logs(**given))["effects"]["ifa"]["hates"]
    assert row["undefined"] == "nothing to count in replicate 1 of ifa"
    assert row["relative"] is row["p"] is row["p_adjusted"] is None


def test_items_without_content_have_no_distance(tmp_path):
    logs = ab_logs.make_run(tmp_path, replicates=1)
    bare = dataclasses.replace(logs, catalogues={0: ab_logs.make_items(0, dim=0)})
    effects = analyze(bare)["effects"]["ifa"]
    assert "distance" not in effects
    assert effects["categories"]["undefined"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"control": "twni"}, "Did you mean 'twin'"),
        ({"burn_in_days": 3}, "burn_in_days == 3, must be < days == 3"),
        ({"alpha": 0.0}, "alpha == 0.0"),
    ],
)
def test_settings_that_break_a_rule_are_refused(tmp_path, changes, message):
    logs = ab_logs.make_run(tmp_path, replicates=1, days=3)
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(logs, **changes)
