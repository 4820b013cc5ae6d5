"""What it is worth that a user's requests go to one replica: hits of sequence states.

    python -m benchmarks.serving_affinity [--quick] [--json PATH]

Starts a Ray and a Serve of its own. Two replicas share histories in two shards; users ask in turn,
each as often as there are rounds, with one impression more each time, several at once. Once every
request says whose it is and goes to its user's replica, once none does and it goes to the shorter
queue of the two. Once a replica has room for the states of all users, once for 60% of them. The
hit rate is that of both replicas together, and counts the first request of each user as the miss
that it is; with R rounds no routing can do better than 1 - 1 / R.

Letters: m candidates, n behaviours.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import secrets
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import describe_machine
from benchmarks.results import write
from benchmarks.serving import Served, Size
from benchmarks.serving_load import SEED
from benchmarks.synthetic import request
from ifa_ray.models.history_keeper import part_of
from ifa_ray.schema import FROM_STORE, RankRequest
from ifa_ray.serving.appends import MAX_BATCH, Append
from ifa_ray.serving.local import local_serve

__all__ = ["Load", "best_hit_rate"]

CALLERS = 4
TIGHT = 0.6
AMPLE_BYTES = 2**31


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """So many users ask so often, with so many candidates and behaviours."""

    users: int
    rounds: int
    m: int
    n: int
    width: int
    tower_widths: tuple[int, ...]


FULL = Load(users=200, rounds=5, m=1_000, n=5_000, width=64, tower_widths=(128, 64))
QUICK = Load(users=12, rounds=3, m=50, n=60, width=16, tower_widths=(16,))


def best_hit_rate(load: Load) -> float:
    """Of any routing: a user's first request finds no state."""
    return 1 - 1 / load.rounds


def _stored(served: Served, handle: Any, load: Load) -> dict[int, tuple[RankRequest, Any]]:
    """Stores the users' histories but for an impression a round; their requests and whole lives."""
    made = {}
    for user in range(load.users):
        whole = request(served.items, load.m, load.n + load.rounds, seed=SEED, number=user)
        for begin in range(0, load.n, MAX_BATCH):
            part = part_of(whole.history, begin, min(load.n, begin + MAX_BATCH))
            handle.append.remote([Append(user_id=user, begin=begin, history=part)]).result()
        asked = dataclasses.replace(whole, user_id=user, history=FROM_STORE)
        made[user] = (asked, whole.history)
    return made


def measure(
    served: Served, histories: Path, load: Load, name: str, *, state_bytes: int, told: bool
) -> dict[str, float]:
    """One way of routing with one budget, from no states on."""
    settings = {
        "sequence_store": str(histories), "store_shards": 2, "num_replicas": 2,
        "state_bytes": state_bytes, "num_cpus": 0.5,
    }  # fmt: skip
    rng = np.random.default_rng(SEED)
    with served.application(name, **settings) as handle:
        users = _stored(served, handle, load)

        def ask(user: int, length: int) -> float:
            asked, life = users[user]
            own = handle.options(session_id=str(user)) if told else handle
            new = part_of(life, length - 1, length)
            own.append.remote([Append(user_id=user, begin=length - 1, history=new)]).result()
            started = time.perf_counter()
            (answer,) = own.rank.remote(0, [asked]).result()
            assert answer.watermark >= length
            return time.perf_counter() - started

        seconds: list[float] = []
        with ThreadPoolExecutor(CALLERS) as pool:
            for turn in range(load.rounds):
                order = rng.permutation(load.users).tolist()
                seconds += pool.map(ask, order, [load.n + turn + 1] * load.users)
        found = [one["states"][0] for one in handle.broadcast("models").results()]
    answered = sum(sum(one["outcomes"].values()) for one in found)
    hits = sum(one["outcomes"]["hit"] + one["outcomes"]["behind"] for one in found)
    held = sum(one["states"] for one in found)
    return {
        "hit_rate": hits / answered,
        "evictions": sum(one["evictions"] for one in found),
        "states": held,
        "bytes_each": sum(one["state_bytes"] for one in found) / max(1, held),
        "p50_ms": 1e3 * statistics.median(seconds),
        "mean_ms": 1e3 * statistics.fmean(seconds),
    }


def run(load: Load, port: int) -> dict[str, dict[str, float]]:
    """All four: with room for all and for some, told and not."""
    os.environ["RANKER_TOKEN"] = secrets.token_urlsafe(24)
    size = Size(
        m=load.m, n=load.n, lengths=(load.n + load.rounds,), trials=1, width=load.width,
        top_k=100, tower_widths=load.tower_widths,
    )  # fmt: skip
    results: dict[str, dict[str, float]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="ifa-bench-") as folder,
        local_serve(port, num_cpus=4),
    ):
        served = Served(Path(folder), size, port, port + 1)
        state_bytes = AMPLE_BYTES
        for room in ("all", "some"):
            for told in (True, False):
                name = f"{room}-{'told' if told else 'untold'}"
                histories = Path(folder) / f"histories-{name}"
                found = measure(served, histories, load, name, state_bytes=state_bytes, told=told)
                results[name] = found
                print(
                    f"  room for {room:<5} {'to its replica' if told else 'to any':<15} "
                    f"hit rate {found['hit_rate']:.3f}, {found['states']:.0f} states, "
                    f"{found['evictions']:.0f} evictions, p50 {found['p50_ms']:.1f} ms, "
                    f"mean {found['mean_ms']:.1f} ms",
                    flush=True,
                )
            state_bytes = int(TIGHT * load.users * results["all-told"]["bytes_each"])
    return results


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark and prints its figures."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.serving_affinity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--port", type=int, default=8133, help="HTTP (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the results there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    machine: dict[str, Any] = describe_machine()
    load = QUICK if options.quick else FULL
    print(f"{load.users} users, {load.rounds} rounds, m = {load.m:,}, n = {load.n:,}, two replicas")
    results = run(load, options.port)
    print(f"  no routing can do better than {best_hit_rate(load):.3f}")
    print("\n" + ", ".join(f"{name} {value}" for name, value in machine.items()))
    if options.json:
        document = {"benchmark": "serving_affinity", "machine": machine,
                    "load": dataclasses.asdict(load), "results": results}  # fmt: skip
        write(options.json, document)


if __name__ == "__main__":
    main()
