"""What Gymnasium asks of an environment, of every id and every face."""

import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from small_environments import USERS, small

from ifa_ray.errors import ConfigError, RankerError
from simulator.environments import IDS, FeatureObservation, ScoredSlates
from simulator.environments.env import KINDS
from simulator.environments.wrappers import SCORED_BY

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("name", IDS)
def test_check_env_passes_on_every_id_as_it_is_made_by_default(name):
    check_env(gymnasium.make(name).unwrapped)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{"oracle": True}, {"reward": "clicks"}], ids=str)
def test_check_env_passes_with_other_settings(kind, settings):
    check_env(small(kind, **settings).unwrapped)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", SCORED_BY)
def test_check_env_passes_on_wrapped_environments(kind, by):
    warnings.filterwarnings("ignore", message=".*is different from the unwrapped version.*")
    check_env(ScoredSlates(small(kind), by=by))
    check_env(FeatureObservation(ScoredSlates(small(kind), by=by)))


def test_environments_are_found_without_importing_the_package_first():
    program = (
        "import gymnasium; "
        "env = gymnasium.make('simulator.environments:simulator/Ranking-v0', users=2); "
        "batch = gymnasium.make_vec('simulator.environments:simulator/Ranking-v0', 2, users=2); "
        "print(env.action_space == batch.single_action_space)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr


def test_without_gymnasium_the_error_says_what_to_install():
    program = "import sys; sys.modules['gymnasium'] = None; import simulator.environments"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'ifa-ray[environments]'" in done.stderr


def test_an_environment_and_its_wrappers_can_be_made_again_from_the_spec():
    env = FeatureObservation(ScoredSlates(small("session"), by="query"))
    again = gymnasium.make(env.spec)
    np.testing.assert_array_equal(env.reset(seed=4)[0], again.reset(seed=4)[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": "smoek"}, "scale == 'smoek', must be one of .* Did you mean 'smoke'"),
        ({"world": "balancd"}, "Did you mean 'balanced'"),
        ({"reward": "watch"}, "reward == 'watch', must be one of .* Did you mean 'watch_s'"),
        ({"reward": "returns"}, "reward == 'returns', must be another one"),
        ({"users": 0}, "users == 0, must be >= 1"),
        ({"world_seed": -1}, "world_seed == -1, must be >= 0"),
        ({"horizon_days": 3}, "horizon_days == 3, must be left out"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        gymnasium.make("simulator/Ranking-v0", **settings)


def test_a_horizon_beyond_the_world_is_refused():
    with pytest.raises(ConfigError, match=r"horizon_days == 28, must be <= 27"):
        gymnasium.make("simulator/Retention-v0", horizon_days=28)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: np.where(np.arange(8) == 2, 80, a), r"action\[2\] == 80, must be in \[0, 80\)"),
        (lambda a: a - 1, r"action\[0\] == -1, must be in \[0, 80\)"),
        (lambda a: a[:-1], r"action has shape \(7,\), must be \(8,\)"),
        (lambda a: a.astype(float), "action has dtype float64, must be of integers"),
    ],
)
def test_an_action_that_is_no_slate_of_candidates_is_refused(change, message):
    env = small("session").unwrapped
    env.reset(seed=0)
    with pytest.raises(RankerError, match=message):
        env.step(change(np.arange(8)))


def test_scores_that_are_not_finite_are_refused():
    env = ScoredSlates(small("session"), by="scores")
    env.reset(seed=0)
    with pytest.raises(RankerError, match="holds NaN or infinity"):
        env.step(np.full(80, np.nan, np.float32))


def test_stepping_without_a_pending_request_is_refused():
    env = small("ranking").unwrapped
    with pytest.raises(ConfigError, match="must be called before step"):
        env.step(np.arange(8))
    env.reset(seed=0)
    env.step(np.arange(8))
    with pytest.raises(ConfigError, match="must be called before step"):
        env.step(np.arange(8))


def test_reset_options_are_checked():
    env = small("ranking")
    with pytest.raises(ConfigError, match=r"user_id == 12, must be in \[0, 12\)"):
        env.reset(options={"user_id": USERS})
    with pytest.raises(ConfigError, match="Did you mean 'user_id'"):
        env.reset(options={"user": 1})


def test_environments_need_neither_torch_nor_ray_nor_tables():
    program = (
        "import sys, simulator.environments; "
        "print([name for name in ('torch', 'ray', 'polars', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
