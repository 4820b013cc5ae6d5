import math

import pytest
import torch

from ifa_ray.models.code_heads import code_sums, read_codes


def test_a_code_recalls_the_mean_and_the_log_count_of_its_behaviours():
    values = torch.tensor([[[1.0, 10.0], [3.0, 20.0], [5.0, 60.0]]])
    codes = torch.tensor([[2, 0, 2]])
    sums = code_sums(values, codes, torch.ones(1, 3, dtype=torch.bool), num_codes=4)
    recalled = read_codes(sums, torch.tensor([[2, 1, 0]]))
    assert recalled[0, 0].tolist() == pytest.approx([3.0, 35.0, math.log(3)])
    assert recalled[0, 1].tolist() == [0.0, 0.0, 0.0]
    assert recalled[0, 2].tolist() == pytest.approx([3.0, 20.0, math.log(2)])


@pytest.mark.parametrize("seed", range(3))
def test_sums_by_code_equal_a_loop_over_behaviours(seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(3, 50, 4, generator=generator)
    codes = torch.randint(0, 9, (3, 50), generator=generator)
    mask = torch.rand(3, 50, generator=generator) > 0.3
    expected = torch.zeros(3, 9, 5)
    for b in range(3):
        for t in range(50):
            if mask[b, t]:
                expected[b, codes[b, t], :4] += values[b, t]
                expected[b, codes[b, t], 4] += 1
    torch.testing.assert_close(code_sums(values, codes, mask, 9), expected, rtol=1e-5, atol=1e-5)


def test_tables_of_shards_add_up_to_the_table_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1, 30, 4, generator=generator)
    codes = torch.randint(0, 5, (1, 30), generator=generator)
    mask = torch.ones(1, 30, dtype=torch.bool)
    parts = [
        code_sums(values[:, s], codes[:, s], mask[:, s], 5) for s in (slice(12), slice(12, 30))
    ]
    torch.testing.assert_close(parts[1] + parts[0], code_sums(values, codes, mask, 5))


def test_what_a_padded_behaviour_holds_does_not_matter():
    values = torch.full((1, 2, 1), float("nan"))
    values[0, 0] = 4.0
    sums = code_sums(values, torch.tensor([[0, 0]]), torch.tensor([[True, False]]), 1)
    assert sums[0, 0].tolist() == [4.0, 1.0]
