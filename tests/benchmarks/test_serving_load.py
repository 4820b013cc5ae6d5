"""The load generator against a replica behind a real socket, and the verdicts, by hand."""

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import uvicorn

from benchmarks.serving import TARGETS, verdicts
from benchmarks.serving_load import arrivals_s, run
from benchmarks.synthetic import catalogue, request
from ifa_ray.ranking.ranker import RandomRanker
from ifa_ray.serving.deployment import RankerDeployment
from ifa_ray.serving.http_api import build_http
from ifa_ray.serving.settings import AppSettings
from ifa_ray.serving.versions import Loaded, Slot

ROOT = Path(__file__).parents[2]
ITEMS = catalogue(50_000, 0)


class Slowly(RandomRanker):
    def rank(self, requests):
        time.sleep(0.02)
        return super().rank(requests)


@pytest.fixture(scope="module")
def url():
    settings = AppSettings.from_dict(
        {"name": "load", "slots": [{"items": "items", "checkpoints": "models"}]}
    )
    replica = RankerDeployment(settings, [Slot(Loaded(0, Slowly(items=ITEMS, seed=0)))])
    server = uvicorn.Server(uvicorn.Config(build_http(replica), log_level="warning"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            run(url, asked(), 0.1, callers=1, rate=None)  # what is imported late is, then
            yield url
        finally:
            server.should_exit = True
            thread.join()
            replica.close()


def test_arrivals_have_their_rate_and_begin_and_end_in_time():
    moments = list(arrivals_s(50, 100, seed=1))
    assert moments == sorted(moments)
    assert moments[0] > 0
    assert moments[-1] < 100
    assert abs(len(moments) - 5_000) < 5 * np.sqrt(5_000)
    gaps = np.diff(moments)
    assert 0.9 < gaps.std() / gaps.mean() < 1.1  # as of a Poisson process
    assert moments == list(arrivals_s(50, 100, seed=1))


def asked():
    return [request(ITEMS, 50, 20, seed=0, number=number) for number in range(3)]


def test_a_closed_loop_asks_again_when_it_is_answered(url):
    outcome, took_s = run(url, asked(), 1, callers=2, rate=None)
    assert outcome.errors == []
    assert 3 <= len(outcome.latencies_s) <= took_s / 0.02 + 2  # one thread ranks, 20 ms each
    assert min(outcome.latencies_s) >= 0.02


def test_an_open_loop_counts_from_when_a_request_was_due(url):
    rate = 100  # twice what it can
    outcome, took_s = run(url, asked(), 0.5, callers=64, rate=rate)
    assert outcome.errors == []
    assert len(outcome.latencies_s) == len(list(arrivals_s(rate, 0.5, 0)))
    assert took_s > 0.02 * len(outcome.latencies_s)
    assert max(outcome.latencies_s) > 5 * 0.02


def test_errors_are_counted_and_not_tried_again(url):
    bad = [request(ITEMS, 50, 20, seed=0, number=0)]
    bad[0].candidates_C[:] = 1
    outcome, _ = run(url, bad, 0.2, callers=1, rate=None)
    assert outcome.latencies_s == []
    assert "more than once" in outcome.errors[0]


def test_it_is_a_program_that_prints_one_object(url):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving_load", "--url", url, "--m", "50", "--n", "20",
         "--seconds", "0.5", "--rate", "10"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["errors"] == 0
    assert found["answered"] == len(list(arrivals_s(10, 0.5, 0)))
    assert 20 <= found["p50_ms"] <= found["p99_ms"]


def test_a_verdict_is_met_at_its_limit_and_missed_beyond():
    at = {name: limit for name, _, _, limit in TARGETS}
    beyond = {name: limit + (0.1 if sign == "<=" else -0.1) for name, _, sign, limit in TARGETS}
    for results, verdict in ((at, "met"), (beyond, "missed")):
        lines = verdicts(results)
        assert len(lines) == len(TARGETS)
        assert all(f": {verdict}" in line for line in lines)


def test_waits_in_a_queue_that_grows_are_no_success():
    results = {name: limit for name, _, _, limit in TARGETS} | {"kept_up": 0.5}
    (line,) = [line for line in verdicts(results) if "p99" in line]
    assert line.endswith("missed, for it did not keep up")
