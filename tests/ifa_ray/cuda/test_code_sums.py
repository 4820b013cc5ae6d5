import math

import pytest
import torch

from ifa_ray.cuda.codes import code_sums, naive_code_sums
from ifa_ray.models.code_heads import CodeState

DECAYS = (math.inf, 7.0, 0.2)
BITS = (0, 2, 5)


def case(B, T, sizes, device):
    generator = torch.Generator().manual_seed(T)

    def integers(high, *shape):
        return torch.randint(0, high, shape, generator=generator)

    actions_BT = integers(128, B, T)
    age_days_BT = 30 * torch.rand(B, T, generator=generator)
    mask_BT = torch.rand(B, T, generator=generator) > 0.2
    codes_GBT = torch.stack([integers(size, B, T) for size in sizes])
    codes_GBT[:, ~mask_BT] = 10**6  # any code where padded
    tensors = (actions_BT, age_days_BT, mask_BT, codes_GBT)
    return (*(tensor.to(device) for tensor in tensors), sizes, BITS, DECAYS)


@pytest.mark.parametrize("sizes", [(1,), (1, 5), (30, 1, 7)])
@pytest.mark.parametrize("T", [0, 1, 17, 1000])
def test_both_forms_give_the_same_sums(T, sizes, device):
    given = case(2, T, sizes, device)
    fast, naive = code_sums(*given), naive_code_sums(*given)
    assert fast.shape == (2, sum(sizes), len(DECAYS) * (1 + len(BITS)))
    torch.testing.assert_close(fast, naive, rtol=1e-4, atol=1e-4)


def test_they_are_the_sums_of_the_code_state(device):
    actions_BT, age_days_BT, mask_BT, codes_GBT, *rest = given = case(2, 50, (9,), device)
    values_BTE = torch.stack([(actions_BT >> bit) & 1 for bit in BITS], dim=-1)
    code_BT = torch.where(mask_BT, codes_GBT[0], 0)
    state = CodeState.of(values_BTE, age_days_BT, code_BT, mask_BT, rest[0][0], DECAYS)
    torch.testing.assert_close(code_sums(*given), state.sums_BSX, rtol=1e-4, atol=1e-4)


def test_a_history_without_a_real_behaviour_leaves_zeros(device):
    given = list(case(1, 20, (1, 5), device))
    given[2] = torch.zeros_like(given[2])
    assert (code_sums(*given) == 0).all()
