"""The main job for real, at smoke size: Ray, Serve, Train, Parquet, a killed driver.

Each run is a process of its own with a private Ray; nothing here mocks a part.
"""

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import psutil
import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
ARMS = ["twin", "ifa", "ifa_plus"]
# A run that is killed has an arm less: three processes less, and not a byte of the others changes.
TWO_ARMS = ("--preset", "smoke", "--arms", "twin,ifa")
SHARD_DAYS = 2 * 3 * 3 * 2  # of two arms: arms x replicates x days x shards


def start(out, *flags):
    command = [sys.executable, "-m", "simulator", "run", "--out", str(out), *flags]
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return subprocess.Popen(
        command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process, timeout_s=200):
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


def digests(run, but=None):
    """The checksum of everything that must repeat: impressions, requests, weights, metrics.

    `but` is an arm that is left out.
    """
    files = [
        *(run / "log" / "impressions").glob("**/*.parquet"),
        *(run / "log" / "requests").glob("**/*.parquet"),
        *(run / "models").glob("**/model.safetensors"),
        *(run / "models").glob("**/checkpoint.json"),
    ]
    return {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if but is None or not {but, f"arm={but}"} & set(path.relative_to(run).parts)
    }


def wait_until(process, condition, timeout_s=150):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def lived_days(run):
    """Committed shard-days of arms, the warm-up not counted."""
    return len(list((run / "commits").glob("arm=[!w]*/**/*.json")))


def kill_one(driver, title):
    """SIGKILLs the first process below the driver that Ray gave this title."""
    for child in psutil.Process(driver.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if child.cmdline()[0].startswith(title):
                child.kill()
                return
    raise AssertionError(f"no process {title} below the driver")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One undisturbed run."""
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    code, stdout, stderr = finish(start(out, "--preset", "smoke"))
    assert code == 0, stderr
    assert stdout.strip().endswith(str(out / "report.html"))
    return out


def test_the_result_has_all_arms_replicates_and_equal_training(finished):
    result = json.loads((finished / "result.json").read_bytes())
    assert result["run"]["arms"] == ARMS
    assert result["run"]["replicates"] == 3
    budgets = [
        tuple(result["training"][arm][field] for field in ("steps", "samples", "candidates"))
        for arm in ARMS
    ]
    assert len(set(budgets)) == 1
    assert min(budgets[0]) > 0
    assert all(check["ok"] for check in result["ab"]["health"])
    assert all(result["cost"][arm]["p50_ms"] > 0 for arm in ARMS)


def test_plain_processes_without_ray_write_the_same_bytes(finished, tmp_path):
    out = tmp_path / "plain"
    code, _, stderr = finish(start(out, "--preset", "smoke", "--plain", "2"))
    assert code == 0, stderr
    assert digests(out) == digests(finished)


def test_the_report_opens_without_network(finished):
    html = (finished / "report.html").read_text()
    assert "twin" in html
    for outside in ('src="http', 'href="http', "@import", "url(http"):
        assert outside not in html


def test_versions_are_trained_in_order_and_swapped_in(finished):
    pattern = finished / "log/impressions/arm=ifa/**/*.parquet"
    log = pl.scan_parquet(pattern, hive_partitioning=True)
    by_day = log.group_by("day").agg(pl.col("model_version").unique()).sort("day").collect()
    # With a lag of 1, version 0 ranks days 0 and 1, and version 1, which learned day 0, day 2.
    assert by_day["model_version"].to_list() == [[0], [0], [1]]
    versions = sorted(path.name for path in (finished / "models/ifa/replicate=0").iterdir())
    assert versions == [f"version=0000{version}" for version in range(4)]


def test_a_finished_run_links_latest(finished):
    assert (finished.parent / "latest").resolve() == finished.resolve()


def test_a_killed_run_resumes_to_the_same_bytes_with_another_number_of_actors(finished, tmp_path):
    out = tmp_path / "killed"
    process = start(out, *TWO_ARMS, "--user-actors", "1")
    wait_until(process, lambda: lived_days(out) >= 3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 3 <= lived_days(out) < SHARD_DAYS
    code, _, stderr = finish(start(out, "--resume", "--user-actors", "1"))
    assert code == 0, stderr
    expected = digests(finished, but="ifa_plus")
    # Two tables of the warm-up's 3 x 2 shards and the arms' days; two files of 4 versions each.
    assert len(expected) == 2 * (3 * 2 + SHARD_DAYS) + 2 * (2 * 3 * 4)
    assert digests(out) == expected
    result = json.loads((out / "result.json").read_bytes())
    assert result["run"]["parts"] == 2


def test_killed_workers_do_not_change_a_byte(finished, tmp_path):
    out = tmp_path / "wounded"
    process = start(out, *TWO_ARMS)
    wait_until(process, lambda: list((out / "models").glob("*/*/version=00000")))
    kill_one(process, "ray::RayTrainWorker")
    wait_until(process, lambda: lived_days(out) >= 1)
    kill_one(process, "ray::ServeReplica")
    kill_one(process, "ray::UserShards")
    code, _, stderr = finish(process)
    assert code == 0, stderr
    assert digests(out) == digests(finished, but="ifa_plus")


def test_a_finished_run_is_not_lived_again(finished):
    before = (finished / "result.json").read_bytes()
    code, stdout, stderr = finish(start(finished, "--resume"), timeout_s=60)
    assert code == 0, stderr
    assert stdout.strip().endswith(str(finished / "report.html"))
    assert (finished / "result.json").read_bytes() == before


def test_an_interrupted_run_says_how_to_resume(tmp_path):
    out = tmp_path / "interrupted"
    process = start(out, "--preset", "smoke", "--arms", "random,twin")
    wait_until(process, lambda: list((out / "commits").glob("arm=warmup/**/*.json")))
    process.send_signal(signal.SIGINT)
    code, _, stderr = finish(process, timeout_s=60)
    assert code == 130
    assert f"--resume --out {out}" in stderr


def test_a_ranker_that_breaks_the_contract_ends_the_run_by_name(tmp_path):
    arms = "random,bad=tests.simulator.bad_rankers:NaNScores"
    flags = ("--preset", "smoke", "--arms", arms)
    code, _, stderr = finish(start(tmp_path / "run", *flags), timeout_s=90)
    assert code == 2
    assert re.search(r"error: arm bad: request \d+: scores\[7\] == nan, must be finite", stderr)
    assert "Traceback" not in stderr
