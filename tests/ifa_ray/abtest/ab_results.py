"""A whole `result.json` with an analysis of synthetic logs in it, for the report's tests."""

from __future__ import annotations

from pathlib import Path

import ab_logs

from ifa_ray.abtest import analyze


def make_result(log: Path, **run) -> dict:
    """The result of a run with two treatment arms, every part present."""
    settings = {
        "arms": ("twin", "ifa", "din"), "replicates": 5, "lifts": {"ifa": 0.3}, "pre": True, **run,
    }  # fmt: skip
    logs = ab_logs.make_run(log, **settings)
    budget = {"steps": 1234, "batches": 1234, "samples": 4936, "candidates": 9_876_543}
    return {
        "schema_version": 2,
        "run": {
            "name": "quick-2031",
            "preset": "quick",
            "seed": 77,
            "arms": list(logs.arms),
            "replicates": logs.replicates,
            "users": ab_logs.NUM_USERS,
            "days": logs.days,
            "burn_in_days": logs.burn_in_days,
            "config_hash": "c0ffee1234567890",
            "config": {"world": {"users": 40, "note": "a < b & c"}},
            "versions": {"python": "3.11.9", "torch": "2.13.0"},
            "git_commit": "0123abcd",
            "hardware": {"cpu": "2 cores", "memory_gib": 7.5},
            "started": "2031-05-04T03:02:01+00:00",
            "wall_s": 500.4,
            "peak_memory_gib": 3.25,
        },
        "ab": analyze(
            logs,
            cost_ms={
                arm: [6.0 * (i + 1) + r / 8 for r in range(logs.replicates)]
                for i, arm in enumerate(logs.arms)
            },
        ),
        "training": {
            arm: {**budget, "versions": 6, "auc": {"impression": auc, "is_click": auc - 0.03}}
            for arm, auc in (("twin", 0.7123), ("ifa", 0.7345), ("din", 0.7011))
        },
        "cost": {
            arm: {
                "requests": 43_210 + i,
                "p50_ms": 5.25 * (i + 1),
                "p95_ms": 9.75 * (i + 1),
                "mean_ms": 6.0 * (i + 1),
                "replicates_mean_ms": [6.0] * logs.replicates,
                "train_ms_per_sample": 17.25 + i,
            }
            for i, arm in enumerate(logs.arms)
        },
        "calibration": [
            {
                "name": "click rate, feed",
                "target": 0.378,
                "source": "KuaiRand",
                "tier": "A",
                "achieved": 0.3812,
                "distance": 0.0085,
                "verdict": "hit",
            },
            {
                "name": "mean play s, random exposure",
                "target": 6.7,
                "source": "KuaiRand",
                "tier": "B",
                "achieved": 8.123,
                "distance": 0.2124,
                "verdict": "miss",
            },
        ],
        "health": [{"name": "no NaN", "ok": True, "detail": "12,345 losses finite."}],
        "limits": ["Ten users <b>each</b> are not a platform."],
    }
