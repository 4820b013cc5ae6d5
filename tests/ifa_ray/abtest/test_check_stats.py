"""`make check-stats` takes minutes; its checks of worlds run here at small size."""

import subprocess
import sys
from pathlib import Path

import pytest

STATS = Path(__file__).parents[2] / "stats"


def test_the_checks_of_worlds_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STATS))
    import worlds

    seventh, eighth = worlds.checks_7_and_8("smoke", users=4, days=2, replicates=2)
    assert (seventh.number, eighth.number) == (7, 8)
    for arm in ("random", "popularity", "twin", "oracle"):
        assert f"{arm} " in seventh.figure
    assert eighth.figure.startswith("2 worlds of 4 users, 2 days: least ")


def test_a_check_prints_its_figure_and_answers_by_its_status() -> None:
    done = subprocess.run(
        [sys.executable, str(STATS), "11"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("ok     11  ")
    assert done.stdout.rstrip().endswith("all passed")
