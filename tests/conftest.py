"""What all tests share: a private home for Ray, and the rule that unit tests start none."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

_HOME = Path(tempfile.mkdtemp(prefix="ifa-home-"))

# Before anything imports ray: it must neither find nor write the user's token, nor tell anybody
# that it ran. Cluster tests hand this environment to their subprocesses.
_HOME.joinpath("ray_bootstrap_config.yaml").write_text("provider: {type: local}\n")
os.environ.update(
    HOME=str(_HOME),
    OMP_NUM_THREADS="1",
    RAY_AUTH_MODE="token",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_USAGE_STATS_REPORT_URL="http://127.0.0.1:9/",
)
os.environ.pop("RAY_ADDRESS", None)


def pytest_configure(config):
    # Importing ray.serve alone gives eighteen of these.
    config.addinivalue_line("filterwarnings", r"ignore::DeprecationWarning:ray\..*")


def pytest_unconfigure():
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_ray_in_unit_tests(request, monkeypatch):
    """A unit test that starts Ray, by itself or by a call that does so silently, fails."""
    if request.node.get_closest_marker("cluster"):
        return
    import ray

    def refuse(*_args, **_kwargs):
        raise AssertionError("a unit test called ray.init; mark it `cluster`")

    monkeypatch.setattr(ray, "init", refuse)
