"""The main job for real, at smoke size: Ray, Serve, Train, Parquet, a killed driver.

Each run is a process of its own with a private Ray; nothing here mocks a part.
"""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
ARMS = ["twin", "ifa", "ifa_plus"]


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


def digests(run):
    """The checksum of every file of the two compared tables."""
    files = sorted((run / "log").glob("*/**/*.parquet"))
    return {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.relative_to(run).parts[1] != "timings"
    }


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


def test_the_report_opens_without_network(finished):
    html = (finished / "report.html").read_text()
    assert "twin" in html
    for outside in ('src="http', 'href="http', "@import", "url(http"):
        assert outside not in html


def test_versions_are_trained_in_order_and_swapped_in(finished):
    import polars as pl

    log = pl.scan_parquet(finished / "log/impressions/arm=ifa/**/*.parquet", hive_partitioning=True)
    by_day = log.group_by("day").agg(pl.col("model_version").unique()).sort("day").collect()
    # Smoke has 2 days and lag 1: version 0 ranks both.
    assert by_day["model_version"].to_list() == [[0], [0]]
    versions = sorted(path.name for path in (finished / "models/ifa/replicate=0").iterdir())
    assert versions == ["version=00000", "version=00001", "version=00002"]


def test_a_finished_run_links_latest(finished):
    assert (finished.parent / "latest").resolve() == finished.resolve()


def test_a_killed_run_resumes_to_the_same_bytes_with_another_number_of_actors(finished, tmp_path):
    out = tmp_path / "killed"
    process = start(out, "--preset", "smoke", "--user-actors", "1")
    commits = out / "commits"
    deadline = time.monotonic() + 150
    # Once some days, but not all, of the arms are committed.
    while len(list(commits.glob("arm=[!w]*/**/*.json"))) < 3:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    committed = len(list(commits.glob("arm=[!w]*/**/*.json")))
    assert 3 <= committed < 3 * 3 * 2 * 2
    code, _, stderr = finish(start(out, "--resume", "--user-actors", "1"))
    assert code == 0, stderr
    expected = digests(finished)
    assert len(expected) == 2 * (3 * 2 + 3 * 3 * 2 * 2)  # tables x (warm-up + arms) shard-days
    assert digests(out) == expected


def test_an_interrupted_run_says_how_to_resume(tmp_path):
    out = tmp_path / "interrupted"
    process = start(out, "--preset", "smoke", "--arms", "random,twin")
    deadline = time.monotonic() + 60
    while not list((out / "commits").glob("arm=warmup/**/*.json")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
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
