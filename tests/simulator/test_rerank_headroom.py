import json

import numpy as np
import pytest

from ifa_ray.errors import ConfigError
from simulator.__main__ import main
from simulator.run.presets import preset
from simulator.studies.rerank_headroom import HeadroomSettings, format_report, measure_headroom

SETTINGS = HeadroomSettings(users=4, learn_days=0, measured_days=1, rules=("pitctr",))


def measure(seed=9000):
    lines = []
    report = measure_headroom(preset("smoke"), [seed], SETTINGS, lines.append)
    return report, lines


def test_a_measurement_repeats_and_tells_of_its_progress():
    report, lines = measure()
    assert measure()[0] == report
    assert any("measured" in line for line in lines)
    assert json.loads(json.dumps(report)) == json.loads(json.dumps(report, allow_nan=False))


def test_gains_are_over_the_greedy_list_and_shares_of_the_headroom():
    rows = measure()[0]["rules"]["pitctr"]
    greedy, headroom = rows["greedy_watch_s"], rows["rows"]["best_set"]["gain_s"]
    for row in rows["rows"].values():
        assert row["gain_s"] == pytest.approx(row["watch_s"] - greedy)
        if headroom > 0:
            assert row["share"] == pytest.approx(row["gain_s"] / headroom)
        else:
            assert row["share"] is None
    assert headroom >= 0
    assert rows["rows"]["oracle_set"]["gain_s"] > rows["rows"]["learned"]["gain_s"]


def test_a_table_names_every_chooser():
    text = format_report(measure()[0])
    for name in ("best_set", "mmr", "dpp", "learned_slate", "learned", "oracle_set"):
        assert name in text


def test_standard_errors_are_clustered_by_user():
    from simulator.studies.rerank_headroom import _clustered_se

    x = np.random.default_rng(0).normal(size=50)
    users = np.arange(50)
    assert _clustered_se(x, users) == pytest.approx(x.std() / np.sqrt(50))
    # The same numbers four times say no more than once, if they are of the same users.
    assert _clustered_se(np.tile(x, 4), np.tile(users, 4)) == pytest.approx(x.std() / np.sqrt(50))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "iffa"], "Did you mean 'ifa'?"),
        (["--rules", "pitcr"], "Did you mean 'pitctr'?"),
        (["--strengths", "1,2"], "must be 3 numbers, of mmr, dpp, learned"),
        (["--strengths", "1,2,x"], "strengths == '1,2,x', must be of type"),
        (["--users", "0"], "users == 0, must be >= 1"),
        (["--seeds", "0"], "seeds == 0, must be >= 1"),
        (["--world", "balancd"], "Did you mean 'balanced'?"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_simulated(arguments, message, capsys):
    assert main(["rerank-headroom", "--preset", "smoke", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="rules"):
        HeadroomSettings(rules=())
