"""The hard search against a loop over candidates."""

import math

import pytest
import torch

from ifa_ray.models import baselines as module
from ifa_ray.models.baselines import same_category_attention, tiles_of_same_category


def draw(B, C, T, num_codes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    codes = [torch.randint(0, num_codes, (B, x), generator=generator) for x in (C, T)]
    masks = [torch.rand(B, x, generator=generator) < 0.8 for x in (C, T)]
    return codes[0], masks[0], codes[1], masks[1]


def literal_found(codes, k):
    """For each request and candidate, the places of the latest k of its category."""
    can_code, can_mask, history_code, history_mask = codes
    B, C = can_code.shape
    return [
        [
            [t for t in range(history_code.shape[1])
             if can_mask[b, c] and history_mask[b, t] and history_code[b, t] == can_code[b, c]][-k:]
            for c in range(C)
        ]
        for b in range(B)
    ]  # fmt: skip


def found_by_tiles(tiles, B, C, T):
    found = [[[] for _ in range(C)] for _ in range(B)]
    for i in range(len(tiles.candidates_IJ)):
        behaviours = tiles.behaviours_IK[i][tiles.found_IK[i]].tolist()
        assert behaviours
        for place in tiles.candidates_IJ[i][tiles.real_IJ[i]].tolist():
            b, c = divmod(place, C)
            assert not found[b][c], "a candidate is in two tiles"
            assert all(t // T == b for t in behaviours)
            found[b][c] = [t % T for t in behaviours]
    return found


SIZES = [
    (1, 9, 30, 4, 3),
    (3, 100, 40, 2, 5),
    (2, 50, 7, 30, 100),
    (2, 5, 60, 1, 1),
    (1, 4, 3, 9, 2),
]


@pytest.mark.parametrize(("B", "C", "T", "num_codes", "k"), SIZES)
@pytest.mark.parametrize("tile", [1, 3, 32])
def test_finds_the_latest_of_the_category(B, C, T, num_codes, k, tile, monkeypatch):
    monkeypatch.setattr(module, "_TILE", tile)
    codes = draw(B, C, T, num_codes)
    tiles = tiles_of_same_category(*codes, num_codes, k)
    assert found_by_tiles(tiles, B, C, T) == literal_found(codes, k)


def literal_attention(query, key, value, found, H):
    B, C, D = query.shape
    rows = []
    for b in range(B):
        for c in range(C):
            places = found[b][c]
            if not places:
                rows.append(torch.zeros(D, dtype=query.dtype))
                continue
            heads = []
            for h in range(H):
                own = slice(h * D // H, (h + 1) * D // H)
                weights = (key[b, places, own] @ query[b, c, own]).softmax(dim=0)
                heads.append(weights @ value[b, places, own])
            rows.append(torch.cat(heads))
    return torch.stack(rows).view(B, C, D)


@pytest.mark.parametrize(("B", "C", "T", "num_codes", "k"), SIZES)
def test_values_and_gradients_equal_loops(B, C, T, num_codes, k):
    codes, H = draw(B, C, T, num_codes), 2
    generator = torch.Generator().manual_seed(1)
    tensors = [
        torch.randn(B, x, 6, generator=generator, dtype=torch.float64, requires_grad=True)
        for x in (C, T, T)
    ]
    fast = same_category_attention(*tensors, tiles_of_same_category(*codes, num_codes, k), H)
    plain = literal_attention(*tensors, literal_found(codes, k), H)
    torch.testing.assert_close(fast, plain)
    weights = torch.randn(fast.shape, generator=generator).double()
    for mine, expected in zip(
        torch.autograd.grad((fast * weights).sum(), tensors),
        torch.autograd.grad((plain * weights).sum(), tensors),
        strict=True,
    ):
        torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize("T", [1, 8])
def test_where_nothing_is_found_all_is_zero_and_so_are_gradients(T):
    codes = (torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.bool),
             torch.ones(2, T, dtype=torch.long), torch.ones(2, T, dtype=torch.bool))  # fmt: skip
    query, key, value = (torch.ones(2, x, 4, requires_grad=True) for x in (3, T, T))
    out = same_category_attention(query, key, value, tiles_of_same_category(*codes, 2, 5), 2)
    assert torch.equal(out, torch.zeros(2, 3, 4))
    for gradient in torch.autograd.grad(out.sum(), (query, key, value)):
        assert (gradient == 0).all()


def test_tiles_are_few_where_categories_are_shared():
    codes = draw(1, 1000, 50, 4)
    tiles = tiles_of_same_category(*codes, 4, 10)
    assert len(tiles.candidates_IJ) <= math.ceil(1000 / 32) + 4
