import math

import pytest
import torch

from ifa_ray.cuda.sums import KeysValues, gathered_sums, naive_gathered_sums
from ifa_ray.models.linear_attention import SequenceState, feature_map


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tables(rows, F, E, *, seed, device, dtype=torch.float32):
    """Keys and values side by side in one table, as a version's projections are."""
    both = draw(rows, F + E, seed=seed).to(device, dtype)
    return both[:, :F], both[:, F:]


def some_rows(size_BT, rows, seed, device):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, rows, size_BT, generator=generator).to(device)


def case(B, T, F, E, device, dtype=torch.float32):
    """HistoryFeatures as a served model sees them: an item's row, an action's row, padding."""
    k_RF, v_RE = tables(50, F, E, seed=1, device=device, dtype=dtype)
    k_PF, v_PE = tables(7, F, E, seed=2, device=device, dtype=dtype)
    items = KeysValues(k_RF=k_RF, v_RE=v_RE, rows_BT=some_rows((B, T), 50, 3, device))
    actions = KeysValues(k_RF=k_PF, v_RE=v_PE, rows_BT=some_rows((B, T), 7, 4, device))
    mask_BT = (draw(B, T, seed=5) > -0.7).to(device)
    return items, actions, mask_BT


@pytest.mark.parametrize("phi", ["softplus", "relu", "none"])
@pytest.mark.parametrize("T", [0, 1, 17, 1000])
def test_both_forms_give_the_same_sums(T, phi, device):
    items, actions, mask_BT = case(2, T, 13, 9, device)
    fast = gathered_sums(items, mask_BT, phi=phi, plus=actions)
    naive = naive_gathered_sums(items, mask_BT, phi=phi, plus=actions)
    assert fast.shape == (2, 13, 10)
    torch.testing.assert_close(fast, naive, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("widths", [(1, 1), (16, 16), (64, 64), (33, 70)])
def test_any_widths_will_do(widths, device):
    items, _, mask_BT = case(3, 45, *widths, device)
    fast = gathered_sums(items, mask_BT, phi="softplus")
    naive = naive_gathered_sums(items, mask_BT, phi="softplus")
    torch.testing.assert_close(fast, naive, rtol=1e-5, atol=1e-4)


def test_of_bfloat16_tables_the_sums_are_float32(device):
    items, actions, mask_BT = case(1, 1000, 16, 16, device, torch.bfloat16)
    fast = gathered_sums(items, mask_BT, phi="softplus", plus=actions)
    naive = naive_gathered_sums(items, mask_BT, phi="softplus", plus=actions)
    assert fast.dtype == torch.float32
    torch.testing.assert_close(fast, naive, rtol=1e-5, atol=1e-3)


def test_a_sequence_without_a_real_element_leaves_zeros(device):
    items, actions, mask_BT = case(2, 40, 8, 8, device)
    mask_BT[1] = False
    sums_BFX = gathered_sums(items, mask_BT, phi="softplus", plus=actions)
    assert (sums_BFX[1] == 0).all()
    assert (sums_BFX[0] != 0).any()


def test_what_stands_in_a_padded_row_does_not_matter(device):
    k_BTF, v_BTE = draw(2, 20, 8, seed=1).to(device), draw(2, 20, 8, seed=2).to(device)
    mask_BT = torch.arange(20, device=device).expand(2, -1) >= 5
    clean = gathered_sums(KeysValues.of(k_BTF, v_BTE), mask_BT, phi="softplus")
    k_BTF[:, :5], v_BTE[:, :5] = math.nan, math.inf
    dirty = gathered_sums(KeysValues.of(k_BTF, v_BTE), mask_BT, phi="softplus")
    assert torch.equal(clean, dirty)


def test_a_sequence_split_into_stretches_is_the_state_of_the_model(device):
    # 20,000 elements of two sequences: more than one step for each of the programs.
    k_BTF, v_BTE = draw(2, 10_000, 8, seed=1).to(device), draw(2, 10_000, 4, seed=2).to(device)
    mask_BT = (draw(2, 10_000, seed=3) > 0).to(device)
    sums_BFX = gathered_sums(KeysValues.of(k_BTF, v_BTE), mask_BT, phi="softplus")
    phi_k_BTF = torch.where(mask_BT[..., None], feature_map(k_BTF, "softplus"), 0.0).double()
    torch.testing.assert_close(
        sums_BFX[..., :-1].double(), phi_k_BTF.mT @ v_BTE.double(), rtol=1e-4, atol=1e-2
    )
    torch.testing.assert_close(sums_BFX[..., -1].double(), phi_k_BTF.sum(dim=1), rtol=1e-5, atol=0)


def test_the_same_sums_come_out_twice_to_the_bit(device):
    items, actions, mask_BT = case(2, 1000, 16, 16, device)
    one, two = (gathered_sums(items, mask_BT, phi="softplus", plus=actions) for _ in range(2))
    assert torch.equal(one, two)


def test_softplus_keeps_its_digits_where_it_is_nearly_zero_and_nearly_the_identity(device):
    k_BTF = torch.linspace(-40, 40, 301, device=device)[:, None, None]
    v_BTE = torch.ones_like(k_BTF)
    mask_BT = torch.ones(301, 1, dtype=torch.bool, device=device)
    sums_BFX = gathered_sums(KeysValues.of(k_BTF, v_BTE), mask_BT, phi="softplus")
    exact = [math.log1p(math.exp(x)) for x in k_BTF.flatten().double().tolist()]
    assert sums_BFX[:, 0, 1].tolist() == pytest.approx(exact, rel=1e-5, abs=0)


@pytest.mark.parametrize("phi", ["softplus", "relu", "none"])
@pytest.mark.parametrize("T", [0, 1, 45])
@pytest.mark.parametrize("gathered", [True, False])
def test_both_forms_give_the_same_gradients(gathered, T, phi, device):
    items, actions, mask_BT = case(2, T, 13, 9, device)
    if not gathered:
        k_RF, v_RE = tables(2 * T, 13, 9, seed=6, device=device)
        items, actions = KeysValues(k_RF=k_RF, v_RE=v_RE), None
    sides = [items] if actions is None else [items, actions]
    weight = draw(2, 13, 10, seed=7).to(device)
    gradients = []
    for form in (gathered_sums, naive_gathered_sums):
        leaves = [
            tuple(table.detach().clone().requires_grad_() for table in (side.k_RF, side.v_RE))
            for side in sides
        ]
        anew = [
            KeysValues(k_RF=k, v_RE=v, rows_BT=side.rows_BT)
            for (k, v), side in zip(leaves, sides, strict=True)
        ]
        sums_BFX = form(anew[0], mask_BT, phi=phi, plus=anew[1] if len(anew) > 1 else None)
        (sums_BFX * weight).sum().backward()
        gradients.append([leaf.grad for pair in leaves for leaf in pair])
    for fast, naive in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, naive, rtol=1e-4, atol=1e-4)


def test_on_a_cpu_the_naive_form_runs_and_triton_is_not_loaded(monkeypatch):
    import ifa_ray.cuda.sums as module

    called = []
    monkeypatch.setattr(module, "naive_gathered_sums", lambda *_, **__: called.append(True))
    items, _, mask_BT = case(1, 5, 4, 4, torch.device("cpu"))
    module.gathered_sums(items, mask_BT, phi="relu")
    assert called == [True]


def test_the_state_of_one_model_reads_as_before():
    # EPS and phi moved below the models; the state's own form is what it was.
    k_BTF, v_BTE = draw(1, 9, 4), draw(1, 9, 3, seed=1)
    mask_BT = torch.ones(1, 9, dtype=torch.bool)
    state = SequenceState.of(feature_map(k_BTF, "softplus"), v_BTE, mask_BT)
    sums_BFX = naive_gathered_sums(KeysValues.of(k_BTF, v_BTE), mask_BT, phi="softplus")
    torch.testing.assert_close(state.values_BFE, sums_BFX[..., :-1])
    torch.testing.assert_close(state.mass_BF, sums_BFX[..., -1])
