"""Checks 1, 7 and 8: what must hold in the simulator's own worlds. Lives runs, in plain processes.

The long one lives `quick` worlds, cut down, with the arms of the same names: from one warm-up and
with the same draws.
"""

import contextlib
import io
import itertools
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from outcome import Outcome

from ifa_ray.abtest import analyze, run_logs
from ifa_ray.abtest.estimates import paired_effect, two_samples
from ifa_ray.abtest.measure import measure, past_of
from ifa_ray.abtest.metrics import WATCH_TIME
from ifa_ray.data.log import read_items
from ifa_ray.data.run_folder import RunFolder
from simulator.run.presets import preset
from simulator.run.simulate import simulate


def logs_of(folder, config, arms):
    return run_logs(
        folder.log,
        items={r: read_items(folder.items(r)) for r in range(config.replicates)},
        user_ids={r: np.arange(config.users, dtype=np.int32) for r in range(config.replicates)},
        arms=arms, control=arms[0], replicates=config.replicates, days=config.days,
        burn_in_days=config.burn_in_days, fixed_k=2 * config.world.slate_size,
    )  # fmt: skip


def columns_of(logs, arm):
    """Every per-user total of every replicate, as one dict of arrays."""
    found = {}
    for replicate in range(logs.replicates):
        world = measure(logs, arm, replicate, past_of(logs, replicate))
        found |= {(replicate, name): values for name, values in world.columns.items()}
        found[replicate, "daily"] = world.day_watch_UD
    return found


def same(one, other):
    return one.keys() == other.keys() and all(
        np.array_equal(one[key], other[key]) for key in one
    )  # fmt: skip


def run_quietly(root, config, processes):
    with contextlib.redirect_stderr(io.StringIO()):
        simulate(config, root, processes=processes)
    return RunFolder(root)


def shuffle_rows(folder, arm):
    """Writes an arm's impressions again, each file's rows in another order."""
    for place, path in enumerate(sorted(folder.log.glob(f"impressions/arm={arm}/**/*.parquet"))):
        pl.read_parquet(path, hive_partitioning=False).sample(
            fraction=1.0, shuffle=True, seed=place
        ).write_parquet(path)


def check_1():
    """`random` and its namesake are the same ranker with the same seed."""
    arms = ("twin", "random", "again=ifa_ray.ranking.ranker:RandomRanker")
    config = preset("smoke").replace({"arms": arms, "replicates": 2})
    names = tuple(arm.name for arm in config.parsed_arms)
    with tempfile.TemporaryDirectory() as name:
        one = run_quietly(Path(name) / "one", config, 1)
        two = run_quietly(Path(name) / "two", config, 2)
        first = {arm: columns_of(logs_of(one, config, names), arm) for arm in names}
        second = {arm: columns_of(logs_of(two, config, names), arm) for arm in names}
        shuffle_rows(two, "twin")
        shuffled = columns_of(logs_of(two, config, names), "twin")
    results = {
        "A/A": same(first["random"], first["again"]),
        "1 and 2 processes": all(same(first[arm], second[arm]) for arm in names),
        "shuffled rows": same(first["twin"], shuffled),
        "and not all alike": not same(first["twin"], first["random"]),
    }
    listed = ", ".join(f"{what} {'yes' if ok else 'NO'}" for what, ok in results.items())
    return Outcome(
        1, "same-seed A/A: every per-user metric bitwise equal, with 1 and 2 workers, shuffled too",
        f"{len(first['twin'])} columns: {listed}", all(results.values()),
    )  # fmt: skip


def checks_7_and_8(base="quick", **changes):
    """Of a preset; a test lives a smaller one."""
    order = ("random", "popularity", "twin", "oracle")
    arms = ("twin", "random", "popularity", "oracle")
    config = preset(base).replace({"arms": arms, "replicates": 3, "days": 4, **changes})
    with tempfile.TemporaryDirectory() as name:
        folder = run_quietly(Path(name) / "run", config, 2)
        logs = logs_of(folder, config, order)
        levels = analyze(logs)["levels"]
        worlds = {arm: [measure(logs, arm, r) for r in range(config.replicates)] for arm in order}
    watch = {arm: levels[arm]["watch_time"]["mean"] for arm in order}
    listed = ", ".join(f"{arm} {watch[arm]:,.0f} s" for arm in order)
    rises = all(watch[a] < watch[b] for a, b in itertools.pairwise(order))
    ratios = {}
    for place, a in enumerate(order):
        for b in order[place + 1 :]:
            variances = [_variances(one, other) for one, other in
                         zip(worlds[b], worlds[a], strict=True)]  # fmt: skip
            unpaired, paired = np.mean(variances, axis=0)
            ratios[f"{b} against {a}"] = unpaired / paired
    least = min(ratios, key=ratios.get)
    size = f"{config.replicates} worlds of {config.users} users, {config.days} days"
    return [
        Outcome(7, "random < popularity < twin < oracle on watch time", f"{size}: {listed}", rises),
        Outcome(
            8, "common random numbers: variance of unpaired over paired >= 5 on watch time",
            f"{size}: least {least} {ratios[least]:.1f}; "
            + ", ".join(f"{pair} {ratio:.1f}" for pair, ratio in ratios.items() if pair != least),
            ratios[least] >= 5,
        ),
    ]  # fmt: skip


def _variances(b, a):
    """Of the log-lift if each arm had as many users of its own, and as it is."""
    totals = b.totals(WATCH_TIME), a.totals(WATCH_TIME)
    return two_samples(*totals).se ** 2, paired_effect(*totals).se ** 2
