import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.rank_latency import GRID, TASKS, Result, main, verdict_in_bf16, verdicts
from ifa_ray.models import MODELS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "sub" / "rank.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.rank_latency", "--quick", "--json", str(path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text())


def test_every_model_is_timed_at_every_task(quick):
    text, document = quick
    timed = {(row["task"], row["model"]) for row in document["results"]}
    assert timed == {(task, model) for task in TASKS for model in MODELS}
    for model in MODELS:
        assert text.count(f"  {model} ") == len(TASKS)


def test_numbers_are_ordered_and_relative_to_ifa(quick):
    _, document = quick
    for row in document["results"]:
        assert 0 < row["min_ms"] <= row["p25_ms"] <= row["p50_ms"] <= row["p75_ms"]
        assert (row["times_baseline"] == 1) == (row["model"] == "ifa")


def test_numbers_carry_their_context(quick):
    _, document = quick
    assert {"cpu", "cores", "torch_threads", "python", "torch", "numpy", "date"} <= set(
        document["machine"]
    )


def test_benchmarks_need_torch_and_numpy_alone():
    code = (
        "import sys, benchmarks.rank_latency\n"
        "print([m for m in ('ray', 'polars', 'pyarrow', 'pandas', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def result(task, model, p50_ms, m=10_000):
    return Result(
        model=model, task=task, m=m, n=10_000, width=64, top_k=100, trials=1, p50_ms=p50_ms,
        p25_ms=p50_ms, p75_ms=p50_ms, min_ms=p50_ms, times_baseline=1.0,
    )  # fmt: skip


def test_what_is_wanted_in_bfloat16_is_wanted_of_a_processor_with_amx():
    timed = [result("rank", "ifa", 13.0), result("rank", "twin", 1.0), result("train", "ifa", 1.0)]
    (with_amx,), (without,) = (verdict_in_bf16(timed, amx) for amx in (True, False))
    assert with_amx == "  rank ifa in bf16: 13.0 ms, wanted <= 12 with AMX: missed"
    assert without.endswith("not measured, this processor has no AMX")
    assert verdict_in_bf16([result("rank", "ifa", 1.0, m=5)], amx=True) == []


def test_verdicts_compare_medians_at_the_papers_size():
    timed = [result("rank", "ifa", 50.0), result("rank", "twin", 490.0),
             result("whole", "ifa", 60.0), result("train", "ifa", 240.0),
             result("rank", "ifa_plus", 1.0, m=5)]  # fmt: skip
    assert verdicts(timed) == [
        "  rank ifa: 50.0 ms, wanted <= 40: missed",
        "  rank twin: 9.8 times rank ifa, wanted >= 10: missed",
        "  train ifa: 4.0 times whole ifa, wanted <= 4: met",
    ]


def test_a_lower_precision_says_how_many_places_of_the_slates_agree(tmp_path):
    path = tmp_path / "rank.json"
    main(["--quick", "--models", "ifa", "--precision", "bf16", "--json", str(path)])
    assert json.loads(path.read_text())["agreement"] == {"ifa": 1.0}


def test_on_the_grid_one_of_m_and_n_moves_at_a_time():
    assert all(size.m == 10_000 or size.n == 10_000 for size in GRID)
    assert len({size.m for size in GRID}) == len({size.n for size in GRID}) == 3
