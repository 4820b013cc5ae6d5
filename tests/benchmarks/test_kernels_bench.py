import json
import math

import pytest
import torch

from benchmarks import kernels
from benchmarks.turns import in_turns, multiplications


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    threads = torch.get_num_threads()
    path = tmp_path_factory.mktemp("bench") / "kernels.json"
    kernels.main(["--quick", "--json", str(path)])
    torch.set_num_threads(threads)
    return json.loads(path.read_text())["results"]


def test_every_part_has_a_floor_of_its_own(quick):
    assert set(quick["parts"]) >= {"features", "sums of the history", "F_cc", "towers of the rule"}
    for row in quick["parts"].values():
        assert row["p50_ms"] > 0
        assert row["floor_ms"] > 0
        assert math.isclose(row["times_floor"], row["p50_ms"] / row["floor_ms"])


def test_the_memory_of_a_request_is_seen(quick):
    # F_can, F_cs and F_cc of 200 candidates alone are 200 x 16 x 4 bytes each.
    assert 3 * 200 * 16 * 4 < 1e6 * quick["peak_mb_over_the_tables"] < 2e7


def test_memory_that_is_given_back_counts_at_its_peak_and_not_in_sum():
    def work():
        for _ in range(5):
            torch.empty(250_000)  # a MB, and gone

    assert 1 <= kernels._peak_mb(work) < 2


def test_verdicts_are_ratios_to_the_requests_own_products():
    found = {
        kernels.WHOLE: {"p50_ms": 30.0}, kernels.PRODUCTS: {"p50_ms": 10.0},
        "peak_mb_over_the_tables": 25.0,
    }  # fmt: skip
    times, memory = kernels.verdicts(found)
    assert times.endswith("3x, wanted <= 2x: missed")
    assert memory.endswith("25 MB, wanted <= 64 MB: met")


def test_pieces_take_turns_after_one_warm_up():
    calls = []
    ticks = iter(range(100))
    spent = in_turns(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2, lambda: next(ticks)
    )
    assert calls == ["a", "b", "a", "b", "a", "b"]
    assert spent["a"] == {"p50_ms": 1000, "min_ms": 1000}


def test_products_in_parts_take_all_rows():
    counted = []
    run = multiplications((2500, 4, 3), times=2)
    original = torch.mm
    try:
        torch.mm = lambda left, right, out: (
            counted.append(len(left)) or original(left, right, out=out)
        )
        run()
    finally:
        torch.mm = original
    assert counted == 2 * [1024, 1024, 452]
