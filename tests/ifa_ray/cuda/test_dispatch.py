import os
import subprocess
import sys
from pathlib import Path

import torch

from ifa_ray.cuda import dispatch

ROOT = Path(__file__).parents[3]


def test_a_cpu_runs_the_naive_forms_and_cuda_triton_where_it_is_installed(monkeypatch):
    assert not dispatch.runs_triton(torch.device("cpu"))
    for installed in (True, False):
        monkeypatch.setattr(dispatch, "has_triton", lambda installed=installed: installed)
        assert dispatch.runs_triton(torch.device("cuda")) is installed


def test_on_a_cpu_no_model_ranks_or_learns_through_triton():
    program = (
        "import sys\n"
        "sys.modules['triton'] = None\n"  # importing it raises
        "sys.path.insert(0, 'tests/ifa_ray/models')\n"
        "from rank_cases import ITEMS, make_config, make_request\n"
        "from ifa_ray.data.features import build_batch\n"
        "from ifa_ray.models import build_model\n"
        "from ifa_ray.ranking.ranker import ModelRanker\n"
        "for name in ('ifa', 'ifa_plus'):\n"
        "    model = build_model(make_config(name), ITEMS, 0)\n"
        "    batch = build_batch([make_request()], ITEMS, model.config)\n"
        "    model(batch).logits_BCL.sum().backward()\n"
        "    ModelRanker(model, ITEMS, version=1).rank([make_request()])\n"
        "print([m for m in sys.modules if m.startswith('triton.')])\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
