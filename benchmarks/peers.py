"""Reading a history of n behaviours for m candidates: ours, and what else there is to run.

    python -m benchmarks.peers [--quick] [--json PATH]

Every form gets the same item vectors and starts with its own projections; no towers, no features.
TWIN as public code has it gives each candidate a history of its own, so it is timed on some
candidates and multiplied up, which the table says. Packages are compared where they are installed
and named where they are not. CPU time of one thread, in turns. Torch and numpy alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.machine import describe_machine
from benchmarks.results import write
from benchmarks.turns import in_turns
from ifa_ray.models.chosen_attention import chosen_attention
from ifa_ray.models.linear_attention import LinearAttention
from ifa_ray.models.two_stage import search

__all__ = ["Size", "main", "measure", "one_history_per_candidate", "verdicts"]

OURS, KEPT = "linear attention (ours)", "the same, from a kept state"
TWIN, PUBLIC = "TWIN, our best", "TWIN, one history per candidate"
SOFTMAX, SOFTMAX_1 = "softmax of all, 4 heads (SDPA)", "softmax of all, 1 head (SDPA)"
PACKAGE, MODULE = "linear attention of performer-pytorch", "performer_pytorch.performer_pytorch"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """One setting: m candidates, n behaviours; of how many candidates the public form is timed."""

    m: int
    n: int
    width: int
    heads: int
    top_k: int
    candidates_timed: int
    trials: int


FULL = Size(m=10_000, n=10_000, width=64, heads=4, top_k=100, candidates_timed=32, trials=5)
QUICK = Size(m=100, n=200, width=16, heads=4, top_k=10, candidates_timed=10, trials=2)


def one_history_per_candidate(
    target_CD: torch.Tensor,
    history_TD: torch.Tensor,
    projections: tuple[nn.Linear, nn.Linear, nn.Linear, nn.Linear],
    heads: int,
    k: int,
) -> torch.Tensor:
    """TWIN's search and attention as FuxiCTR formulates them: a batch of (candidate, history).

    `MultiHeadTopKAttention` of model_zoo/LongCTR/TWIN/TWIN.py in github.com/reczoo/FuxiCTR, without
    cross features: keys and values of the history are projected for each candidate, every head
    takes its own top k. Written here from that description; O(C T D^2).

    Args:
        target_CD: candidates.
        history_TD: one history, which each of them brings along.
        projections: W_q, W_h, W_v, W_o.
        heads: H.
        k: behaviours that each head attends to.

    Returns:
        [C, D].
    """
    to_query, to_key, to_value, to_output = projections
    C, D = target_CD.shape
    history_CTD = history_TD.expand(C, -1, -1).contiguous()  # as a loader hands it over
    query_CH1d = to_query(target_CD).view(C, 1, heads, -1).transpose(1, 2)
    key_CHTd = to_key(history_CTD).view(C, -1, heads, D // heads).transpose(1, 2)
    value_CHTd = to_value(history_CTD).view(C, -1, heads, D // heads).transpose(1, 2)
    score_CH1T = query_CH1d @ key_CHTd.transpose(2, 3) / (D // heads) ** 0.5
    best_CH1K, place_CH1K = score_CH1T.topk(k, dim=-1)
    place_CHKd = place_CH1K.transpose(2, 3).expand(-1, -1, -1, D // heads)
    read_CH1d = best_CH1K.softmax(dim=-1) @ value_CHTd.gather(2, place_CHKd)
    return to_output(read_CH1d.transpose(1, 2).reshape(C, D))


def _forms(size: Size) -> dict[str, Callable[[], torch.Tensor]]:
    """Each form by name, all of the same vectors."""
    m, n, D, H = size.m, size.n, size.width, size.heads
    generator = torch.Generator().manual_seed(0)
    can_CD, history_TD = (torch.randn(rows, D, generator=generator) for rows in (m, n))
    mask_1T = torch.ones(1, n, dtype=torch.bool)
    attention = LinearAttention(D, "softplus")
    weights = [nn.Linear(D, D, bias=False) for _ in range(4)]
    for place, layer in enumerate((attention.query, attention.key, attention.value, *weights)):
        drawn = torch.randn(D, D, generator=torch.Generator().manual_seed(place)) / D**0.5
        layer.weight.data.copy_(drawn)
    to_query, to_key, to_value, to_output = weights
    state = attention.state(history_TD[None], mask_1T)
    no_bias_TH = torch.zeros(n, H)

    def softmax(heads: int) -> torch.Tensor:
        query, key, value = (
            projection(x).view(1, len(x), heads, -1).transpose(1, 2)
            for projection, x in ((to_query, can_CD), (to_key, history_TD), (to_value, history_TD))
        )
        return to_output(
            scaled_dot_product_attention(query, key, value)[0].transpose(0, 1).reshape(m, D)
        )

    def twin() -> torch.Tensor:
        query_CD = to_query(can_CD) / (D // H) ** 0.5
        key_TD, value_TD = to_key(history_TD), to_value(history_TD)
        chosen_CK = search(query_CD, key_TD, no_bias_TH, size.top_k)
        return to_output(chosen_attention(query_CD, key_TD, no_bias_TH, value_TD, chosen_CK))

    def public() -> torch.Tensor:
        some_CD = can_CD[: size.candidates_timed]
        projections = (to_query, to_key, to_value, to_output)
        return one_history_per_candidate(some_CD, history_TD, projections, H, size.top_k)

    forms = {
        OURS: lambda: attention(can_CD[None], history_TD[None], mask_1T)[0],
        KEPT: lambda: state.read(attention.queries(can_CD[None]))[0],
        SOFTMAX: lambda: softmax(H),
        SOFTMAX_1: lambda: softmax(1),
        TWIN: twin,
        PUBLIC: public,
    }
    if importlib.util.find_spec("performer_pytorch") is not None:
        theirs = importlib.import_module(MODULE).linear_attention
        forms[PACKAGE] = lambda: theirs(
            attention.queries(can_CD[None]),
            attention.keys(history_TD[None]),
            attention.value(history_TD[None]),
        )
    return forms


def measure(size: Size) -> dict[str, dict[str, float]]:
    """Milliseconds of each form at this size, and how many times ours that is."""
    with torch.inference_mode():
        spent = in_turns(_forms(size), size.trials)
    for key in ("p50_ms", "min_ms"):
        spent[PUBLIC][key] *= size.m / size.candidates_timed
    ours = spent[OURS]["p50_ms"]
    return {name: s | {"times_ours": s["p50_ms"] / ours} for name, s in spent.items()}


def verdicts(found: dict[str, dict[str, float]]) -> list[str]:
    """A line for each multiple of ours that was wanted."""
    lines = []
    for name, limit in ((PUBLIC, 1000), (TWIN, 20), (SOFTMAX, 30)):
        times = found[name]["times_ours"]
        verdict = "met" if times >= limit else "missed"
        lines.append(f"  {name}: {times:,.3g}x ours, wanted >= {limit}x: {verdict}")
    if PACKAGE in found:
        times = found[PACKAGE]["times_ours"]
        lines.append(f"  {PACKAGE}: {times:.2f}x ours, the same sums by other calls")
    else:
        lines.append(f"  {PACKAGE}: not installed here, so not compared")
    return lines


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the results there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    machine: dict[str, Any] = describe_machine()
    size = QUICK if options.quick else FULL
    found = measure(size)
    print(
        f"attention to a history: m = {size.m:,}, n = {size.n:,}, width {size.width}, "
        f"{size.heads} heads, top_k {size.top_k}, {size.trials} trials"
    )
    print(f"  {'form':<40} {'p50 ms':>10} {'min':>10} {'x ours':>9}")
    for name, row in found.items():
        print(
            f"  {name:<40} {row['p50_ms']:10,.2f} {row['min_ms']:10,.2f} {row['times_ours']:9,.1f}"
        )
    print(
        f"  {PUBLIC}: {size.candidates_timed} candidates were timed, times "
        f"{size.m / size.candidates_timed:g}"
    )
    lines = verdicts(found)
    print("\n".join(["", *lines]))
    print("\n" + ", ".join(f"{name} {value}" for name, value in machine.items()))
    if options.json:
        document = {
            "benchmark": "peers", "machine": machine, "verdicts": lines,
            "size": dataclasses.asdict(size),
            "results": found,
        }  # fmt: skip
        write(options.json, document)


if __name__ == "__main__":
    main()
