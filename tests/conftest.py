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


@pytest.fixture(scope="session")
def local_ray():
    """One small local Ray with Serve, for all cluster tests of this process."""
    import ray
    from ray import serve

    # Short, because sockets lie below it and their paths are limited to 107 bytes.
    session = tempfile.mkdtemp(prefix="ifa-ray-", dir="/tmp")
    ray.init(
        address="local",  # plain init() would join any Ray that runs on this machine
        num_cpus=2,
        object_store_memory=200 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=session,
    )
    serve.start(proxy_location="Disabled")
    yield
    serve.shutdown()
    ray.shutdown()
    shutil.rmtree(session, ignore_errors=True)
