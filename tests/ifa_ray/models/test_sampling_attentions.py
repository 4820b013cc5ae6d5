"""Attentions that read a sample of the behaviours, against their definitions, in loops."""

import math

import pytest
import torch
from attention_cases import WIDTH, assert_close, draw, make_attention, softmax_read
from rank_cases import make_config

from ifa_ray.errors import ConfigError
from ifa_ray.models.coarse_attention import LocalGlobalAttention
from ifa_ray.models.hashed_attention import EtaAttention, SdimAttention, nearest_codes
from ifa_ray.models.target_attention import walk_heads

TOP_K = 6  # of `make_config`


def literal_tokens(summaries, keys_TD, values_TD):
    key_TD = summaries.key(keys_TD)
    return torch.stack([softmax_read(p, key_TD, values_TD) for p in summaries.points.weight])


def literal_places(attention, n):
    """Local, then random: the latest two of six, and one at random of each half of the others."""
    older = n - 2
    if older <= 2:
        return list(range(n))
    uniform = [0.5 * (1 + math.erf(w / math.sqrt(2))) for w in attention.random.weight.flatten()]
    half = older // 2
    return [
        math.floor(uniform[0] * half),
        half + math.floor(uniform[1] * (older - half)),
        n - 2,
        n - 1,
    ]


@pytest.mark.parametrize("n", [1, 3, 4, 5, 6, 40])
@torch.no_grad()
def test_local_global_reads_latest_random_and_global(n):
    attention = make_attention(LocalGlobalAttention)
    queries, keys, values = draw(7, WIDTH), draw(n, WIDTH, seed=1), draw(n, WIDTH, seed=2)
    tokens, places = literal_tokens(attention.tokens, keys, values), literal_places(attention, n)
    assert len(tokens) == 2
    key = attention.key(torch.cat([keys[places], tokens]))
    value = attention.value(torch.cat([values[places], tokens]))
    expected = [attention.output(softmax_read(q, key, value)) for q in attention.query(queries)]
    assert_close(attention.attend_one(queries, keys, values), torch.stack(expected))


def test_random_places_are_old_behaviours_each_once():
    for seed in range(20):
        attention = make_attention(LocalGlobalAttention, seed=seed)
        for n in (5, 6, 9, 10_000):
            places = attention._read(n).tolist()
            assert len(set(places)) == 4
            assert places == sorted(places)
            assert places[-2:] == [n - 2, n - 1]
            assert places[0] >= 0


def brute_force_nearest(bits_CP, bits_TP, k):
    rows = []
    for query in bits_CP.tolist():
        distance = [
            sum(a != b for a, b in zip(query, key, strict=True)) for key in bits_TP.tolist()
        ]
        order = sorted(range(len(distance)), key=lambda t: (distance[t], -t))
        rows.append(sorted(order[:k]))
    return torch.tensor(rows)


@pytest.mark.parametrize(
    ("T", "k", "P"), [(40, 6, 8), (40, 6, 64), (200, 3, 4), (9, 8, 3), (5, 5, 8)]
)
def test_the_nearest_codes_are_those_of_brute_force(T, k, P):
    queries, keys = draw(13, P, seed=T) > 0, draw(T, P, seed=1) > 0
    assert torch.equal(nearest_codes(queries, keys, k), brute_force_nearest(queries, keys, k))


def test_searching_codes_in_chunks_changes_nothing(monkeypatch):
    queries, keys = draw(30, 16) > 0, draw(50, 16, seed=1) > 0
    whole = nearest_codes(queries, keys, 5)
    monkeypatch.setattr("ifa_ray.models.hashed_attention._CHUNK_SCORES", 50 * 7)
    assert torch.equal(nearest_codes(queries, keys, 5), whole)


def test_of_equally_near_codes_the_latest_are_found_in_the_longest_history():
    keys = torch.ones(100_000, 64, dtype=torch.bool)
    assert nearest_codes(keys[:1], keys, 3).tolist() == [[99_997, 99_998, 99_999]]


@pytest.mark.parametrize("T", [1, 6, 7, 50])
@torch.no_grad()
def test_eta_attends_to_the_nearest_by_bits(T):
    attention = make_attention(EtaAttention)
    queries, keys, values = draw(9, WIDTH), draw(T, WIDTH, seed=1), draw(T, WIDTH, seed=2)
    planes = attention.planes.weight
    assert planes.shape == (64, WIDTH)
    chosen = brute_force_nearest(queries @ planes.T > 0, keys @ planes.T > 0, TOP_K)
    key, value = attention.key(keys), attention.value(values)
    expected = [
        attention.output(softmax_read(q, key[found], value[found]))
        for q, found in zip(attention.query(queries), chosen, strict=True)
    ]
    assert_close(attention.attend_one(queries, keys, values), torch.stack(expected))


def test_a_history_too_long_for_exact_distances_is_refused():
    with pytest.raises(ConfigError, match=r"max_history == 300000, must be <= 258111"):
        EtaAttention(make_config("eta", max_history=300_000))


def test_codes_find_what_is_alike():
    # Of 16 dimensions 64 random signs keep most of the order: the exact top 6 of 500 are found
    # far more often than the 1.2% of chance.
    queries, keys = draw(50, WIDTH), draw(500, WIDTH, seed=1)
    planes = draw(64, WIDTH, seed=3)
    found = nearest_codes(queries @ planes.T > 0, keys @ planes.T > 0, 6)
    cosine = torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(keys).T
    exact = walk_heads(cosine[None], 6)
    shared = [len(set(a) & set(b)) for a, b in zip(found.tolist(), exact.tolist(), strict=True)]
    assert sum(shared) / (6 * 50) > 0.3


@pytest.mark.parametrize("T", [1, 3, 60])
@torch.no_grad()
def test_sdim_averages_rounds_of_normalised_collisions(T):
    attention = make_attention(SdimAttention)
    queries, keys, values = draw(9, WIDTH), draw(T, WIDTH, seed=1), draw(T, WIDTH, seed=2)
    value, planes = attention.value(values), attention.planes.weight
    assert planes.shape == (48, WIDTH)
    rows = []
    for query in queries:
        rounds = []
        for r in range(16):
            own = planes[3 * r : 3 * r + 3]
            collided = [t for t in range(T) if torch.equal(own @ query >= 0, own @ keys[t] >= 0)]
            total = value[collided].sum(dim=0)
            rounds.append(total / total.norm() if collided else total)
        rows.append(attention.output(torch.stack(rounds).mean(dim=0)))
    assert_close(attention.attend_one(queries, keys, values), torch.stack(rows))


def test_gradients_of_sdim_are_finite_where_nothing_collides():
    attention = make_attention(SdimAttention)
    key = draw(1, WIDTH).requires_grad_()
    out = attention.attend_one(-key.detach(), key, key)
    assert (out == 0).all()
    out.sum().backward()
    assert key.grad.isfinite().all()
