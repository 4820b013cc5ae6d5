"""A run from a config to its result: the folder, what is taken over, and one of two executors.

The command line and Python programs start here. Ray is imported only where a run is on it, after
the environment that keeps it private is set.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, TextIO

from ifa_ray.config import require
from simulator.run.cluster import Cluster, private_ray_environment, quiet_ray_logs
from simulator.run.opening import driver_part, open_run
from simulator.run.presets import RunConfig


def simulate(
    config: RunConfig,
    out: Path | str,
    *,
    processes: int | None = None,
    cluster: Cluster | None = None,
    resume: bool = False,
    reuse: Path | None = None,
    progress: TextIO | None = None,
) -> dict[str, Any]:
    """Simulates what of a run is not finished, compares its arms, and writes result and report.

    Args:
        config: of the run; see `simulator.preset`.
        out: the run's folder, new and empty unless `resume`.
        processes: plain processes, at most one an arm, instead of Ray; the same bytes.
        cluster: of Ray, where `processes` is None; by default one of its own on this machine.
        resume: True if `out` is an earlier run of the same config, to be continued.
        reuse: an earlier run; what its arms did under equal settings is taken over.
        progress: where progress is told; standard error by default.

    Returns:
        What `result.json` holds.

    Raises:
        ConfigError: if a setting breaks its rule, or `out` is not empty or of another config.
        LogError, CheckpointError: if a file of the run to be continued is damaged.
        KeyboardInterrupt: if it was interrupted; what is finished stays, for `resume`.
    """
    require(processes is None or processes >= 1, "processes", processes, ">= 1")
    root, cluster = Path(out).resolve(), cluster or Cluster()
    with open_run(root, config, resume) as folder:
        if not folder.result.exists():
            if reuse is not None and not resume:
                from simulator.run.reuse import reuse_run

                taken = reuse_run(reuse, folder, config)
                text = f"taken over from {reuse}: {', '.join(taken) or 'no arm'}"
                print(text, file=progress or sys.stderr)
            from simulator.run.result import write_result

            days = config.replicates * config.days * config.shards
            arms = [arm.name for arm in config.parsed_arms]
            on_ray = processes is None
            place = "on Ray" if on_ray else f"{processes} processes without Ray"
            with driver_part(
                folder,
                config,
                f"arms {', '.join(config.arms)}, {place}",
                units=dict.fromkeys(arms, days) if on_ray else {},
                stream=progress,
                one_machine=not on_ray or cluster.embedded,
            ) as told:
                if processes is not None:
                    from simulator.run.process_executor import run_in_processes

                    run_in_processes(folder, config, processes, told)
                else:
                    if cluster.embedded:
                        private_ray_environment(root / ".ray-home")
                    quiet_ray_logs()
                    from simulator.run.ray_executor import run_on_ray

                    run_on_ray(folder, config, cluster, told)
            told.say("analysing the log")
            write_result(folder, config)
        result: dict[str, Any] = json.loads(folder.result.read_bytes())
        return result
