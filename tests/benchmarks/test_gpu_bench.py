import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_page import table, verdicts

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def dry(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "gpu.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--dry-run", "--json", str(path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text())


def test_a_dry_run_takes_every_part_and_none_fails(dry):
    _, document = dry
    assert set(document["results"]) == {
        "floors", "kernels", "request", "batched", "buckets", "training_step",
    }  # fmt: skip
    assert "error" not in json.dumps(document["results"]).replace("largest_error", "")


def test_a_dry_run_prints_no_figure_and_no_verdict(dry):
    text, document = dry
    assert document["dry_run"] is True
    assert "_ms" not in text
    assert "wanted" not in text
    assert "nothing of any GPU" in text


def test_padding_to_a_bucket_is_exact_in_a_dry_run(dry):
    _, document = dry
    for row in document["results"]["buckets"].values():
        assert row["largest_error"] < 1e-4


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_cuda_device_it_says_so_in_one_line_and_exits_with_2(capsys):
    with pytest.raises(SystemExit) as exited:
        gpu.main([])
    assert exited.value.code == 2
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "no CUDA device" in out


def test_it_needs_torch_triton_and_numpy_alone():
    code = (
        "import sys, benchmarks.gpu\n"
        "print([m for m in ('ray', 'polars', 'pyarrow', 'pandas', 'scipy', 'triton')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


FOUND = {
    "floors": {
        "copy_gb_per_s": 2000.0, "first_layer_tf32_tflop_per_s": 200.0,
        "first_layer_bfloat16_tflop_per_s": 400.0, "seconds_spent": 1.0,
    },
    "kernels": {
        "reads_float32": {"p50_ms": 0.1, "tflop_per_s": 100.0},
        "reads_bfloat16": {"p50_ms": 0.1, "tflop_per_s": 300.0},
        "sums_float32": {"p50_ms": 0.1, "gb_per_s": 1000.0}, "seconds_spent": 1.0,
    },
    "request": {
        "graph_staged": {"p50_ms": 0.15}, "slate_by_graphs": {"p50_ms": 1.5},
        "kernels": {"p50_ms": 0.3}, "eager": {"p50_ms": 0.6},
        "compiled": {"error": "no compiler"}, "seconds_spent": 1.0,
    },
    "batched": {"kernels_1": {"candidates_per_s": 9e7}, "error": "x", "seconds_spent": 1.0},
}  # fmt: skip


def test_verdicts_are_by_the_cards_own_floors():
    lines = "\n".join(verdicts(FOUND))
    assert "p50: 150 us, wanted <= 200 us: met" in lines
    assert "features included, p50: 1.5e+03 us, wanted <= 200 us: missed" in lines
    assert "candidates/s, best batch: 9e+07, wanted >= 1e+08: missed" in lines
    assert "reads in float32, of the matrix rate at that shape: 50%, wanted >= 60%: missed" in lines
    assert "reads in bfloat16, of the matrix rate at that shape: 75%, wanted >= 60%: met" in lines
    assert "sums in float32, of the copy bandwidth: 50%, wanted >= 60%: missed" in lines
    assert "eager over the kernels: 2x, wanted >= 1x: met" in lines


def test_what_was_not_measured_is_said_to_be_so():
    lines = verdicts(FOUND)
    assert "  compiled over the kernels: not measured" in lines
    assert "  sums in bfloat16, of the copy bandwidth: not measured" in lines
    assert "no compiler" in table(FOUND)
