"""The regime of equal latency: limits from measured costs, kept by the run that they are for."""

import dataclasses
import itertools

import numpy as np
import pytest

from ifa_ray.data.log import read_requests
from ifa_ray.data.run_folder import RunFolder
from ifa_ray.errors import ConfigError
from simulator.run.costs import measure_budget
from simulator.run.presets import preset
from simulator.run.simulate import simulate

CONFIG = preset("smoke").replace(
    {"arms": ("twin", "ifa", "random"), "users": 4, "days": 2, "train_requests_per_day": 4}
)


class Costs:
    """A clock by which each request takes the next of some seconds."""

    def __init__(self, seconds):
        self._seconds = itertools.cycle(seconds)
        self._now, self._inside = 0.0, False

    def __call__(self):
        if self._inside:
            self._now += next(self._seconds)
        self._inside = not self._inside
        return self._now


def test_an_arm_ranks_as_many_as_its_measured_cost_allows():
    # 120, 60 and 30 candidates in turn: 1 ms + 0.1 ms for each, both arms.
    clock = Costs([0.013, 0.007, 0.004])
    measured = measure_budget(CONFIG, "7.05", clock)
    assert measured.limits == {"twin": 60, "ifa": 60}
    assert measured.cost_ms == pytest.approx({"twin": 13.0, "ifa": 13.0})
    assert "twin: 13.00 ms with all candidates; ranks 60 in 7.05 ms" in measured.lines()


def test_the_arm_whose_cost_is_the_budget_ranks_all():
    measured = measure_budget(CONFIG, "twin", Costs([0.013, 0.007, 0.004]))
    assert "twin" not in measured.limits
    assert measured.budget_ms == measured.cost_ms["twin"] > 0


@pytest.mark.parametrize("budget", ["random", "-1", "nan", "inf", "1e-9", "0"])
def test_a_budget_that_is_no_time_is_refused(budget):
    with pytest.raises(ConfigError, match="budget"):
        measure_budget(CONFIG, budget)


@pytest.mark.parametrize(
    "changes",
    [
        {"regime": "equal_latencies"},
        {"regime": "equal_latency"},
        {"budget_ms": 3.0},
        {"candidate_limits": ("twin=20",)},
        {"regime": "equal_latency", "budget_ms": 3.0, "candidate_limits": ("twin=121",)},
        {"regime": "equal_latency", "budget_ms": 3.0, "candidate_limits": ("twin=7",)},
        {"regime": "equal_latency", "budget_ms": 3.0, "candidate_limits": ("din=20",)},
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes):
    with pytest.raises(ConfigError):
        dataclasses.replace(CONFIG, **changes)


def test_a_limited_arm_is_given_the_first_of_each_channel_and_learns_from_those(tmp_path):
    limits = {"regime": "equal_latency", "budget_ms": 1.0, "candidate_limits": ("twin=40",)}
    config = dataclasses.replace(CONFIG, **limits)
    result = simulate(config, tmp_path / "run", processes=1)
    folder = RunFolder(tmp_path / "run")
    assert result["run"]["regime"] == "equal_latency"
    assert result["run"]["candidates"] == {"twin": 40, "ifa": 120, "random": 120}
    assert all(check["ok"] for check in result["ab"]["health"])
    assert "twin 40" in result["limits"][0]
    first = {}
    for arm, count in result["run"]["candidates"].items():
        path = next(folder.log.glob(f"requests/arm={arm}/replicate=0/day=000/*.parquet"))
        requests = read_requests(path)
        assert requests["candidates"].shape[1] == count
        first[arm] = {
            (int(user), int(mark)): (set(ids.tolist()), channels)
            for user, mark, ids, channels in zip(
                requests["user_id"], requests["watermark"], requests["candidates"],
                requests["channels"], strict=True,
            )
        }  # fmt: skip
    # A user's first request is the same under every arm, so the few are among the many.
    shared = first["twin"].keys() & first["ifa"].keys()
    assert shared
    inside = [len(first["twin"][key][0] & first["ifa"][key][0]) / 40 for key in shared]
    assert np.mean(inside) > 0.75
