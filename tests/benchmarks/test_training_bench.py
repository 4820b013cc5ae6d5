import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.training import verdicts
from benchmarks.training_log import SHOWN, write_log

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "sub" / "training.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.training", "--quick", "--json", str(path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text())


def test_every_part_is_measured_and_printed(quick):
    text, document = quick
    found = document["results"]
    assert [(step["model"], step["precision"]) for step in found["steps"]] == [
        (name, precision)
        for precision in ("float32", "bfloat16")
        for name in ("ifa", "ifa_plus", "twin")
    ]
    for step in found["steps"]:
        whole_ms = step["load_ms"] + step["step_ms"]
        assert step["requests_per_s"] == pytest.approx(1e3 / whole_ms)
        assert 0 < step["batch_ms"] < step["step_ms"]
    assert found["publishing"]["publish_s"] > 0
    assert found["workers"]["speedup_wall"] > 0
    assert found["optimizers"]["rowwise_adagrad_state_mb"] < found["optimizers"]["adam_state_mb"]
    for line in ("requests/s", "publishing", "memory", "workers", "wanted >= 1.6x"):
        assert line in text
    assert document["machine"]["torch_threads"] == 1


def test_targets_are_judged_as_they_were_measured(quick):
    found = quick[1]["results"]
    slow = {**found, "steps": [{**found["steps"][0], "requests_per_s": 9.0, "share": 0.2}]}
    lines = verdicts({**slow, "replicas": {"replicas": 2, "push_s": 0.4}})
    assert any("to 2 replicas: 0.4 s, wanted <= 0.5 s: met" in line for line in lines)
    assert "9, wanted >= 10: missed" in lines[0]
    assert "20%, wanted <= 15%: missed" in lines[1]


def test_the_log_has_histories_and_labels_of_its_size(tmp_path):
    log = write_log(tmp_path, m=30, n=50, requests=3, seed=0)
    samples, items, seconds = log.read(iter(np.arange(9.0)).__next__)
    assert seconds == pytest.approx(1 / 3)
    assert len(samples) == 3
    for sample in samples:
        assert len(sample.request.history) == 50
        assert len(sample.request.candidates_C) == 30
        assert int(sample.labels_CL[:, 0].sum()) == SHOWN
        assert (items.rows(sample.request.candidates_C) > 0).all()
