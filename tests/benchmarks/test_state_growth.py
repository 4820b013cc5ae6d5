import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.state_growth import Growth, verdicts

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "sub" / "states.json"
    command = [sys.executable, "-m", "benchmarks.state_growth", "--quick", "--counts"]
    done = subprocess.run(
        [*command, "--json", str(path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text())


def test_every_model_is_timed_at_every_length(quick):
    text, document = quick
    timed = {(row["model"], row["n"]) for row in document["results"]}
    assert timed == {(model, n) for model in ("ifa", "ifa_plus") for n in (50, 400)}
    assert text.count("  ifa_plus ") == 2


def test_what_was_timed_gave_the_same_answers(quick):
    _, document = quick
    for row in document["results"]:
        assert row["max_difference"] <= 2e-5
        assert row["same_slates"] > 0.5  # candidates as good as each other may change places
        assert 0 < row["cached_p25_ms"] <= row["cached_ms"] <= row["cached_p75_ms"]
        assert row["state_bytes"] > 1000
        assert (row["n"] == 50) <= (row["times_first"] == 1)


def test_numbers_carry_their_context(quick):
    text, document = quick
    assert {"cpu", "torch", "numpy", "date"} <= set(document["machine"])
    assert document["cross_features"] == ["channel", "user", "category", "author"]
    assert "ranked in fp32" in text


def test_benchmarks_of_states_need_torch_and_numpy_alone():
    code = (
        "import sys, benchmarks.state_growth\n"
        "print([m for m in ('ray', 'polars', 'pyarrow', 'pandas', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_verdicts_are_of_the_worst_length_and_give_a_reason_for_a_miss():
    row = Growth(
        model="ifa", m=10_000, n=1_000, trials=1, cached_ms=50.0, cached_p25_ms=50.0,
        cached_p75_ms=50.0, whole_ms=80.0, towers_ms=40.0, times_first=1.0, of_whole=0.625,
        build_ms=1.0, append_us=10.0, append_mean_us=11.0, state_bytes=20_000, max_difference=0.0,
        same_slates=1.0,
    )  # fmt: skip
    longer = dataclasses.replace(row, n=10_000, times_first=1.2, append_us=60.0)
    assert verdicts([row, longer]) == [
        "  ifa: from a state at most 1.200 times the shortest history's (n = 10,000), "
        "wanted <= 1.1: missed",
        "  ifa: 62% of the whole request at n = 10,000, wanted <= 60%: missed; "
        "the towers alone are 50%",
        "  ifa: 60.0 microseconds an append (n = 10,000), wanted <= 50: missed",
    ]
    assert verdicts([dataclasses.replace(row, m=5)]) == []
