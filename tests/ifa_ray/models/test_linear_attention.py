import itertools
import math

import pytest
import torch

from ifa_ray.models.linear_attention import (
    LinearAttention,
    SequenceState,
    feature_map,
    naive_linear_attention,
)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_states_equal(one, other):
    torch.testing.assert_close(one.values_BFE, other.values_BFE, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one.mass_BF, other.mass_BF, rtol=1e-4, atol=1e-4)
    assert torch.equal(one.count_B, other.count_B)


@pytest.mark.parametrize("phi", ["softplus", "relu"])
@pytest.mark.parametrize(("C", "T"), [(1, 1), (5, 9), (9, 5), (30, 200)])
def test_the_associative_form_equals_the_matrix_form(phi, C, T):
    q, k, v = (feature_map(draw(2, n, 8, seed=n), phi) for n in (C, T, T + 1000))
    v = draw(2, T, 6, seed=3)
    k = feature_map(draw(2, T, 8, seed=T), phi)
    mask = draw(2, T, seed=7) > -0.5
    fast, _ = SequenceState.of(k, v, mask).read(q)
    torch.testing.assert_close(fast, naive_linear_attention(q, k, v, mask), rtol=1e-4, atol=1e-5)


def test_equations_six_and_seven_by_hand():
    # phi(q) = (1, 2); phi(k) = (3, 1) and (0, 5); so the weights are 5 and 10, the degree 15.
    q = torch.tensor([[[1.0, 2.0]]])
    k = torch.tensor([[[3.0, 1.0], [0.0, 5.0]]])
    v = torch.tensor([[[6.0], [-3.0]]])
    out, degree = SequenceState.of(k, v, torch.ones(1, 2, dtype=torch.bool)).read(q)
    assert out.item() == pytest.approx((5 * 6 - 10 * 3) / 15, abs=1e-5)
    assert degree.item() == pytest.approx(15 / 2)


def test_softplus_and_relu_are_what_they_say():
    x = torch.tensor([-1.0, 0.0, 2.0])
    expected = [math.log1p(math.exp(value)) for value in x.tolist()]
    assert feature_map(x, "softplus").tolist() == pytest.approx(expected)
    assert feature_map(x, "relu").tolist() == [0.0, 0.0, 2.0]


def test_the_mask_is_applied_after_phi():
    # A zeroed key is not a missing one: softplus(0) = 0.69 would still weigh.
    attention = LinearAttention(4, "softplus")
    for seed, parameter in enumerate(attention.parameters()):
        parameter.data = draw(4, 4, seed=seed)
    q, k = draw(1, 3, 4), draw(1, 5, 4, seed=1)
    mask = torch.tensor([[True, True, True, False, False]])
    masked, _ = attention(q, k, mask)
    short, _ = attention(q, k[:, :3], mask[:, :3])
    torch.testing.assert_close(masked, short)


@pytest.mark.parametrize("phi", ["softplus", "relu"])
def test_an_empty_history_gives_zero_and_not_nan(phi):
    phi_q, phi_k = feature_map(draw(1, 3, 4), phi), feature_map(draw(1, 5, 4), phi)
    out, degree = SequenceState.of(phi_k, draw(1, 5, 2), torch.zeros(1, 5, dtype=torch.bool)).read(
        phi_q
    )
    assert (out == 0).all()
    assert (degree == 0).all()


def test_a_query_without_features_gives_zero_and_not_nan():
    phi_k = feature_map(draw(1, 5, 4), "relu")
    state = SequenceState.of(phi_k, draw(1, 5, 2), torch.ones(1, 5, dtype=torch.bool))
    out, _ = state.read(torch.zeros(1, 1, 4))
    assert (out == 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_appending_one_by_one_is_summing_at_once_is_merging_shards(seed):
    k, v = feature_map(draw(2, 40, 8, seed=seed), "softplus"), draw(2, 40, 6, seed=seed + 10)
    mask = torch.ones(2, 40, dtype=torch.bool)
    bulk = SequenceState.of(k, v, mask)

    appended = SequenceState.of(k[:, :0], v[:, :0], mask[:, :0])
    for t in range(40):
        appended = appended.append(k[:, t], v[:, t])
    assert_states_equal(appended, bulk)

    cuts = sorted(draw(3, seed=seed).abs().mul(13).long().clamp(max=40).tolist())
    bounds = [0, *cuts, 40]
    shards = [
        SequenceState.of(k[:, a:b], v[:, a:b], mask[:, a:b]) for a, b in itertools.pairwise(bounds)
    ]
    merged = shards[2].merge(shards[0]).merge(shards[3].merge(shards[1]))
    assert_states_equal(merged, bulk)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_state_of_ten_thousand_half_precision_behaviours_is_exact_and_finite(dtype):
    k = feature_map(draw(1, 10_000, 16), "softplus").to(dtype)
    v = draw(1, 10_000, 4, seed=1).to(dtype)
    mask = torch.ones(1, 10_000, dtype=torch.bool)
    state = SequenceState.of(k, v, mask)
    assert state.mass_BF.dtype == torch.float32
    q = feature_map(100 * draw(1, 3, 16, seed=2), "softplus").to(dtype)
    out, degree = state.read(q)
    exact = naive_linear_attention(q.double(), k.double(), v.double(), mask)
    assert degree.isfinite().all()
    torch.testing.assert_close(out.double(), exact, rtol=1e-3, atol=1e-5)


def test_a_float32_state_does_not_stall_after_ten_thousand_appends():
    # In bfloat16 a sum of ones stalls at 256.
    k = torch.full((1, 2), 0.7)
    state = SequenceState.of(k[:, None], k[:, None], torch.ones(1, 1, dtype=torch.bool))
    for _ in range(9_999):
        state = state.append(k, k)
    assert state.mass_BF[0, 0].item() == pytest.approx(7_000, rel=2e-4)
    assert state.count_B.item() == 10_000
