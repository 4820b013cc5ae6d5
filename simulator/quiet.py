"""Environment of a private, embedded Ray that tells nobody about itself.

Knows environment variables only, and must run before `ray` is imported. `ray.init` disables usage
reports by itself, but its dashboard still asks the cloud's metadata service what machine this is
unless a bootstrap file names a local provider, and it writes an authentication token into HOME. A
private HOME settles both and leaves the user's own alone.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path


def private_ray_environment(home: Path) -> None:
    """Points this process and the Ray it starts at a private home folder, created if need be."""
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    (home / "ray_bootstrap_config.yaml").write_text("provider: {type: local}\n")
    os.environ.update(
        {
            "HOME": str(home),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/",
            "RAY_AUTH_MODE": "token",
            # One machine of our own is not taken away: its watchers, a process a trainer, may rest.
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
            # Many small actors on few cores are what we want; the default warns of every second.
            "RAY_worker_maximum_startup_concurrency": "32",
        }
    )
    # One thread a process: on few cores more only contend, and results are then bit-equal.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def quiet_ray_logs() -> None:
    """Keeps Ray's own chatter off the console; its log files still have it."""
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\..*")
