"""The plain run: killed and resumed, with any number of processes, it writes the same bytes."""

import hashlib
import json
import signal
import subprocess
import sys
import time

import pytest

from ifa_ray.errors import ConfigError
from simulator.run.presets import preset
from simulator.run.simulate import simulate

ARMS = "twin,ifa,random"
SMALL = ["--preset", "smoke", "--arms", ARMS, "--replicates", "3", "--users", "4", "--days", "2"]


def digests(run):
    files = [*(run / "log" / "impressions").glob("**/*.parquet"),
             *(run / "log" / "requests").glob("**/*.parquet"),
             *(run / "models").glob("**/model.safetensors"),
             *(run / "models").glob("**/checkpoint.json")]  # fmt: skip
    return {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def command(out, *more):
    return [sys.executable, "-m", "simulator", "run", *SMALL, "--out", str(out), *more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Undisturbed, in two processes."""
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    done = subprocess.run(command(out, "--plain", "2"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def test_it_ends_with_a_verdict_and_a_report(finished):
    result = json.loads((finished / "result.json").read_bytes())
    assert result["run"]["arms"] == ARMS.split(",")
    assert all(check["ok"] for check in result["ab"]["health"])
    assert result["training"]["twin"]["steps"] == result["training"]["ifa"]["steps"] > 0
    assert (finished / "report.html").exists()


def test_one_process_writes_the_same_bytes_as_two(finished, tmp_path):
    changes = {"arms": tuple(ARMS.split(",")), "replicates": 3, "users": 4, "days": 2}
    simulate(preset("smoke").replace(changes), tmp_path / "run", processes=1)
    assert digests(tmp_path / "run") == digests(finished)


def test_a_killed_run_is_resumed_to_the_same_bytes(finished, tmp_path):
    out = tmp_path / "run"
    process = subprocess.Popen(command(out, "--plain", "1"), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list((out / "commits").glob("arm=[!w]*/**/*.json"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "result.json").exists()
    resumed = subprocess.run(
        command(out, "--plain", "2", "--resume"), capture_output=True, text=True
    )
    assert resumed.returncode == 0, resumed.stderr
    assert digests(out) == digests(finished)


def test_the_oracle_is_far_above_chance_and_is_not_trained(tmp_path):
    changes = {"arms": ("random", "popularity", "oracle"), "users": 12, "days": 2}
    result = simulate(preset("smoke").replace(changes), tmp_path / "run", processes=1)
    watch_s = {arm: rows["watch_time"]["mean"] for arm, rows in result["ab"]["levels"].items()}
    assert watch_s["oracle"] > 1.5 * watch_s["random"]
    assert watch_s["oracle"] > watch_s["popularity"]
    assert result["training"] == {}
    assert result["cost"]["oracle"]["mean_ms"] > 0


def test_zero_processes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="processes == 0, must be >= 1"):
        simulate(preset("smoke"), tmp_path / "run", processes=0)
