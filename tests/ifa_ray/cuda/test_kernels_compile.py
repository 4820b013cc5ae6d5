import os
import subprocess
import sys
from pathlib import Path

import pytest

from ifa_ray.cuda.dispatch import has_triton

ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(not has_triton(), reason="Triton is not installed: wheels for Linux alone")
def test_every_kernel_compiles_for_an_h100(tmp_path):
    # The interpreter takes what the compiler refuses, so this is more than a parity test says.
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("compile_for_h100.py")],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 12
