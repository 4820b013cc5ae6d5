"""Load on a served ranker from a process of its own: closed or open loop, over binary HTTP.

    python -m benchmarks.serving_load --url URL --m 10000 --n 10000 --seconds 30
        (--callers 4 | --rate 20)

Closed: each of `--callers` asks again when it has its answer. Open: requests are due at the moments
of a Poisson process whatever became of the ones before, and a latency counts from the moment at
which its request was due. Nothing is tried again. Prints one JSON object. The token comes from the
environment (`RANKER_TOKEN`), where there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.synthetic import catalogue, request
from ifa_ray.errors import IfaRayError
from ifa_ray.schema import RankRequest
from ifa_ray.serving.client import RankClient

SEED = 0
NUM_ITEMS = 50_000
_DISTINCT = 8
_OPEN_CALLERS = 32


class Outcome:
    """What became of the requests; any thread may add to it."""

    def __init__(self) -> None:
        self.latencies_s: list[float] = []
        self.errors: list[str] = []

    def time_of(self, ask: Callable[[], object], due_s: float) -> None:
        """Asks, and notes how long after `due_s` the answer came."""
        try:
            ask()
        except IfaRayError as error:
            self.errors.append(str(error)[:200])
        else:
            self.latencies_s.append(time.perf_counter() - due_s)


def arrivals_s(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Moments of a Poisson process of `rate` per second, from 0 to `seconds`."""
    rng = np.random.default_rng([seed, 2])
    now_s = float(rng.exponential(1 / rate))
    while now_s < seconds:
        yield now_s
        now_s += float(rng.exponential(1 / rate))


def run(
    url: str, requests: list[RankRequest], seconds: float, *, callers: int, rate: float | None
) -> tuple[Outcome, float]:
    """Sends; returns the outcome and how long it took, seconds.

    Args:
        url: of the application.
        requests: are sent in turn.
        seconds: in which requests begin.
        callers: at most so many wait for answers at once.
        rate: per second, of an open loop; None closes it.
    """
    outcome, lock = Outcome(), threading.Lock()
    ready = threading.Barrier(callers + 1)
    started_s = 0.0
    due = iter(arrivals_s(rate, seconds, SEED)) if rate else None
    sent = 0

    def next_due_s() -> float | None:
        nonlocal sent
        with lock:
            sent += 1
            if due is None:
                now_s = time.perf_counter()
                return now_s if now_s - started_s < seconds else None
            moment_s = next(due, None)
            return None if moment_s is None else started_s + moment_s

    def call(number: int) -> None:
        token = os.environ.get("RANKER_TOKEN")
        with RankClient(url, retries=0, timeout_s=30, token=token) as client:
            ready.wait()  # making a client takes longer than many a request
            while (due_s := next_due_s()) is not None:
                time.sleep(max(0.0, due_s - time.perf_counter()))
                number += 1
                asked = requests[number % len(requests)]
                outcome.time_of(lambda: client.rank([asked]), due_s)  # noqa: B023 - called at once

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    started_s = time.perf_counter() + 0.1
    ready.wait()
    for thread in threads:
        thread.join()
    return outcome, time.perf_counter() - started_s


def main() -> None:
    """Runs the load that the arguments say."""
    parser = argparse.ArgumentParser(prog="benchmarks.serving_load", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--url", required=True)
    parser.add_argument("--m", type=int, default=10_000, help="candidates")
    parser.add_argument("--n", type=int, default=10_000, help="behaviours")
    parser.add_argument("--seconds", type=float, default=30.0)
    loop = parser.add_mutually_exclusive_group(required=True)
    loop.add_argument("--callers", type=int, help="closed loop: so many at once")
    loop.add_argument("--rate", type=float, help="open loop: so many a second")
    options = parser.parse_args()
    items = catalogue(NUM_ITEMS, SEED)
    requests = [
        request(items, options.m, options.n, seed=SEED, number=number)
        for number in range(_DISTINCT)
    ]
    outcome, took_s = run(
        options.url,
        requests,
        options.seconds,
        callers=options.callers or _OPEN_CALLERS,
        rate=options.rate,
    )
    answered = len(outcome.latencies_s)
    p50, p99 = np.percentile(outcome.latencies_s, (50, 99)) if answered else (np.nan, np.nan)
    result = {
        "answered": answered,
        "per_s": answered / took_s,
        "asked_per_s": (answered + len(outcome.errors)) / options.seconds,
        "p50_ms": 1e3 * float(p50),
        "p99_ms": 1e3 * float(p99),
        "errors": len(outcome.errors),
        "first_error": outcome.errors[0] if outcome.errors else None,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
