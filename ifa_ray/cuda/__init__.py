"""The three loops in which an O(m + n) model spends a GPU's time, each beside its naive twin.

`gathered_sums` (what a sequence leaves behind), `read_and_project` (what a set reads of it, up to
the towers' first layer) and `code_sums` (sums by code). A function has two forms of one signature:
the naive one in plain torch, which says what must come out, and one in Triton (`*_triton.py`) for
CUDA devices. Models call the functions, which choose by the device of their tensors; Triton is
imported by that choice alone, so never on a machine without a GPU. Knows tensors only: no model, no
catalogue.
"""

from __future__ import annotations
