"""Checks 9 and 11: what must be refused, and rules at their boundaries."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from outcome import Outcome
from scipy import stats

from ifa_ray.abtest import analyze
from ifa_ray.abtest.logs import open_own_logs

ROOT = Path(__file__).parents[2]

RULES = (
    "tests/ifa_ray/abtest/test_ab_analyze.py::test_a_null_raises",
    "tests/ifa_ray/abtest/test_ab_unpaired.py::"
    "test_a_null_raises_before_tea_tasting_can_shrink_the_standard_error",
    "tests/ifa_ray/abtest/test_ab_own_logs.py::test_broken_logs_are_refused_with_place_and_rule",
    "tests/ifa_ray/abtest/test_ab_analyze.py::test_swapping_the_arms_flips_every_log_lift_exactly",
    "tests/ifa_ray/abtest/test_ab_estimates.py::test_swapping_arms_flips_the_log_lift_exactly",
    "tests/ifa_ray/abtest/test_ab_unpaired.py::test_swapping_unpaired_arms_flips_the_sign_exactly",
    "tests/simulator/test_responses.py",
    "tests/ifa_ray/abtest/test_ab_analyze.py::"
    "test_user_totals_are_those_of_a_walk_through_all_rows",
    "tests/ifa_ray/abtest/test_ab_proxies.py",
)


def plays(rng, users):
    """A day of each user: 8 plays."""
    user = np.repeat(users, 8)
    return pl.DataFrame(
        {"user_id": user, "time_ms": rng.integers(0, 86_400_000, len(user)),
         "play_time_ms": rng.integers(1, 60_000, len(user))}
    )  # fmt: skip


def check_9(users=2_000):
    """Both kinds of test, each with a tenth of one arm's users taken out."""
    rng = np.random.default_rng(91)
    figures, ok = [], True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for paired in (True, False):
            ids = np.arange(users) if paired else np.arange(0, 8 * users, 2)
            whole = plays(rng, ids)
            lost = plays(rng, ids if paired else ids + 1)
            # Those whom the other arm would have kept watching longest, say.
            lost = lost.filter(pl.col("user_id") % 20 >= 2)
            whole.write_parquet(folder / "a.parquet")
            lost.write_parquet(folder / "b.parquet")
            logs = open_own_logs([str(folder / "a.parquet"), str(folder / "b.parquet")],
                                 paired=paired)  # fmt: skip
            result = analyze(logs)
            failed = [check for check in result["health"] if not check["ok"]]
            dropped = len(ids) - lost["user_id"].n_unique()
            p = (
                stats.binomtest(0, dropped).pvalue if paired
                else stats.binomtest(len(ids) - dropped, 2 * len(ids) - dropped).pvalue
            )  # fmt: skip
            verdict = result["verdicts"]["b"]["decision"]
            ok &= p < 0.001 and bool(failed) and verdict == "no verdict"
            kind = "paired" if paired else "unpaired"
            figures.append(f"{kind}: p = {p:.1e}, failed {failed[0]['name']}, {verdict}")
    return Outcome(
        9, "dropping 10% of one arm's users: p < 0.001, red banner, no verdict",
        "; ".join(figures), ok,
    )  # fmt: skip


def check_11():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *RULES],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    passed = re.search(r"(\d+) passed", done.stdout)
    return Outcome(
        11, "a null raises; swapped arms flip the sign exactly; click and long-view rules at their "
        "boundaries; diversity and proxies against brute force",
        f"{passed.group(1) if passed else 0} tests passed"
        + ("" if done.returncode == 0 else ", others failed"),
        done.returncode == 0,
    )  # fmt: skip


CHECKS = {9: check_9, 11: check_11}
