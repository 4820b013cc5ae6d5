"""Sums by code against loops, and as a monoid that forgets."""

import math

import pytest
import torch

from ifa_ray.data.features import LOG_SCALE
from ifa_ray.models.code_heads import NO_DECAY, CodeState

DECAYS = (NO_DECAY, 5.0)
NUM_CODES = 6


def draw(T=40, seed=0, B=2):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(B, T, 3, generator=generator)
    # Oldest first, the latest some days ago.
    age = 2.0 + torch.rand(B, T, generator=generator).cumsum(dim=1).flip(1)
    code = torch.randint(0, NUM_CODES, (B, T), generator=generator)
    mask = torch.rand(B, T, generator=generator) > 0.2
    return values, age, code, mask


def state_of(values, age, code, mask):
    return CodeState.of(values, age, code, mask, NUM_CODES, DECAYS)


def naive_sums(values, age, code, mask):
    """The sums as they are meant, behaviour by behaviour, [B, S, D, 1 + E]."""
    B, T, E = values.shape
    sums = torch.zeros(B, NUM_CODES, len(DECAYS), 1 + E)
    for b in range(B):
        for t in range(T):
            if mask[b, t]:
                for d, days in enumerate(DECAYS):
                    weight = math.exp(-age[b, t].item() / days)
                    sums[b, code[b, t], d, 0] += weight
                    sums[b, code[b, t], d, 1:] += weight * values[b, t]
    return sums


def assert_equal(one, other):
    torch.testing.assert_close(one.sums_BSX, other.sums_BSX, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_sums_equal_a_loop_over_behaviours(seed):
    behaviours = draw(seed=seed)
    expected = naive_sums(*behaviours).flatten(2)
    torch.testing.assert_close(state_of(*behaviours).sums_BSX, expected, rtol=1e-5, atol=1e-5)


def test_appending_one_by_one_equals_the_bulk_and_the_merge_of_parts():
    values, age, code, _ = draw()
    everything = torch.ones(age.shape, dtype=torch.bool)
    bulk = state_of(values, age, code, everything)
    parts = [state_of(*(x[:, s] for x in (values, age, code, everything)))
             for s in (slice(13), slice(13, 40))]  # fmt: skip
    assert_equal(parts[1].merge(parts[0]), bulk)
    one_by_one = CodeState(sums_BSX=torch.zeros_like(bulk.sums_BSX), decay_days=DECAYS)
    for t in range(40):
        passed = age[:, t - 1] - age[:, t] if t else torch.zeros(2)
        one_by_one = one_by_one.aged(passed).append(values[:, t], code[:, t])
    assert_equal(one_by_one.aged(age[:, -1]), bulk)


def test_ageing_equals_having_happened_earlier():
    values, age, code, mask = draw()
    later = torch.tensor([3.0, 0.5])
    assert_equal(
        state_of(values, age, code, mask).aged(later),
        state_of(values, age + later[:, None], code, mask),
    )


def test_what_a_padded_behaviour_holds_does_not_matter():
    values, age, code, mask = draw()
    values[~mask] = float("nan")
    assert_equal(state_of(values, age, code, mask), state_of(*draw()))


def test_a_code_recalls_its_log_weight_and_how_much_better_it_went_than_the_rest():
    # Code 1 was met twice and viewed once, code 2 twice and never, code 0 never.
    values = torch.tensor([[[1.0], [0.0], [0.0], [0.0]]])
    code = torch.tensor([[1, 2, 1, 2]])
    none = torch.zeros(1, 4)
    state = CodeState.of(values, none, code, none == 0, 3, (NO_DECAY,))
    read = state.read(torch.tensor([[1, 2, 0]]))[0]
    mean = 1 / (4 + 1)
    log = LOG_SCALE * math.log(3)
    assert read[:, 0].tolist() == pytest.approx([log, log, 0.0])
    expected = [4 * ((1 + 3 * mean) / 5 - mean), 4 * (3 * mean / 5 - mean), 0.0]
    assert read[:, 1].tolist() == pytest.approx(expected, abs=1e-6)
    assert state.read_all()[0, 0].tolist() == pytest.approx([LOG_SCALE * math.log(5), 4 * mean])
    assert state.read(torch.tensor([[1]]), rates=False).tolist() == [[[pytest.approx(log)]]]


def test_an_empty_history_recalls_zeros():
    values, age, code, mask = draw()
    state = state_of(values, age, code, torch.zeros_like(mask))
    assert (state.read(code[:, :7]) == 0).all()
    assert (state.read_all() == 0).all()


def test_ten_thousand_appends_do_not_stall():
    state = CodeState(sums_BSX=torch.zeros(1, 1, 4), decay_days=DECAYS)
    code = torch.zeros(1, dtype=torch.int64)
    for _ in range(10_000):
        state = state.append(torch.full((1, 1), 0.7), code)
    assert state.sums_BSX[0, 0, 0].item() == 10_000
    assert state.sums_BSX[0, 0, 1].item() == pytest.approx(7_000, rel=2e-4)
