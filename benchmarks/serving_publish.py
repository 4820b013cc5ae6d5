"""Publishing a version until all replicas of a served ranker answer with it.

    python -m benchmarks.serving_publish [--megabytes 100] [--replicas 2] [--json PATH]

Starts a Serve of its own on this machine. A version counts as published when every replica has it
in memory: by a push, the trainer calls `load` of all of them once the version is on the disk; by
following, each replica looks by itself (`follow_s`). Wall time: the disk, the processes and
whatever else the machine does are part of it.
"""

from __future__ import annotations

import argparse
import functools
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe_machine
from benchmarks.results import write
from benchmarks.synthetic import catalogue
from benchmarks.training_costs import learner_of_size
from ifa_ray.data.log import write_items
from ifa_ray.serving.local import local_serve
from ifa_ray.serving.settings import AppSettings
from ifa_ray.training.checkpoint import save_checkpoint, version_folder
from ifa_ray.training.loop import Learner

__all__ = ["main", "measure_replicas"]

SEED, PORT = 0, 8123
_FOLLOW_S = 0.05
_PATIENCE_S = 120.0
# Not the system's folder for temporary files, which may be memory.
_DISK = Path("bench-results")


def measure_replicas(megabytes: int, replicas: int, versions: int) -> dict[str, float | int]:
    """Seconds from a learner to a version that all replicas have in memory.

    `push_s` and `follow_s` are the least disturbed of the versions, with the disk; `load_all_s` is
    the push's part after it. `push_median_s` is usual here.
    """
    items = catalogue(5_000, SEED)
    learner = learner_of_size(megabytes, items)
    found: dict[str, float | int] = {"replicas": replicas, "versions": versions}
    _DISK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_DISK) as root, local_serve(PORT, num_cpus=replicas):
        folder = Path(root).resolve()
        write_items(folder / "items.parquet", items)
        _publish(folder / "push", learner, 0)
        _publish(folder / "follow", learner, 0)
        found |= _push(folder, learner, replicas, versions)
        found |= _follow(folder, learner, replicas, versions)
    return found


def _push(folder: Path, learner: Learner, replicas: int, versions: int) -> dict[str, float]:
    whole, loading = [], []
    handle = _deploy("push", folder, replicas)
    for version in range(1, versions + 1):
        started = time.perf_counter()
        _publish(folder / "push", learner, version)
        published = time.perf_counter()
        answers = handle.broadcast("load", 0, version).results(timeout_s=_PATIENCE_S)
        ended = time.perf_counter()
        assert list(answers) == [version] * replicas, answers
        whole.append(ended - started)
        loading.append(ended - published)
    _remove("push")
    return {
        "push_s": min(whole),
        "push_median_s": statistics.median(whole),
        "load_all_s": min(loading),
    }


def _follow(folder: Path, learner: Learner, replicas: int, versions: int) -> dict[str, float]:
    whole = []
    handle = _deploy("follow", folder, replicas, follow_s=_FOLLOW_S)
    for version in range(1, versions + 1):
        started = time.perf_counter()
        _publish(folder / "follow", learner, version)
        _wait(functools.partial(_all_have, handle, version, replicas))
        whole.append(time.perf_counter() - started)
    _remove("follow")
    return {"follow_s": min(whole), "follow_median_s": statistics.median(whole)}


def _publish(root: Path, learner: Learner, version: int) -> None:
    save_checkpoint(version_folder(root, version), learner, version=version, log_watermark={},
                    metrics={})  # fmt: skip


def _deploy(name: str, folder: Path, replicas: int, **slot: Any) -> Any:
    from ray import serve

    from ifa_ray.serving.app import deployment_for

    slot |= {"items": str(folder / "items.parquet"), "checkpoints": str(folder / name)}
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    settings = {"name": name, "slots": [slot], "num_replicas": replicas, "num_cpus": 0.5}
    handle = serve.run(deployment_for(AppSettings.model_validate(settings)), name=name,
                       route_prefix=None)  # fmt: skip
    _wait(functools.partial(_all_have, handle, 0, replicas))
    return handle


def _remove(name: str) -> None:
    from ray import serve

    serve.delete(name)


def _all_have(handle: Any, version: int, replicas: int) -> bool:
    answers = list(handle.broadcast("models").results(timeout_s=_PATIENCE_S))
    return len(answers) == replicas and all(
        answer["slots"][0]["version"] == version for answer in answers
    )


def _wait(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not there():
        if time.monotonic() > deadline:
            raise TimeoutError("the replicas do not answer with the version")
        time.sleep(0.005)


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark and prints its numbers."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.serving_publish",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--megabytes", type=int, default=100, metavar="N", help="of a version "
                        "with its optimiser state (default: %(default)s)")  # fmt: skip
    parser.add_argument("--replicas", type=int, default=2, metavar="N",
                        help="on this machine (default: %(default)s)")  # fmt: skip
    parser.add_argument("--versions", type=int, default=5, metavar="N",
                        help="published by each way (default: %(default)s)")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the results there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    machine = describe_machine()
    found = measure_replicas(options.megabytes, options.replicas, options.versions)
    for name, value in found.items():
        print(f"  {name}: {value:,.4g}")
    print("\n" + ", ".join(f"{name} {value}" for name, value in machine.items()))
    if options.json:
        document = {"benchmark": "serving_publish", "machine": machine, "results": found}
        write(options.json, document)


if __name__ == "__main__":
    main()
