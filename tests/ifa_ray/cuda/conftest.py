"""Triton's kernels on a GPU where there is one, in Triton's interpreter where there is none."""

import os

import pytest
import torch

from ifa_ray.cuda.dispatch import has_triton, interpreted

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel's module is loaded


@pytest.fixture
def device():
    """Where kernels run; inside the test the functions of `ifa_ray.cuda` are Triton's."""
    if not has_triton():
        pytest.skip("Triton is not installed: it has wheels for Linux alone")
    if torch.cuda.is_available():
        yield torch.device("cuda")
        return
    with interpreted():
        yield torch.device("cpu")
