"""Reformer's attention against its definition, in loops."""

import math

import pytest
import torch
from attention_cases import HEADS, WIDTH, assert_close, draw, make_attention, softmax_read
from rank_cases import make_config

from ifa_ray.models.embedding import initialise
from ifa_ray.models.hashed_attention import LshAttention, _tiles

ROUNDS = 4


def make_lsh(top_k, max_history=64, **arguments):
    config = make_config("ifa", top_k=top_k, max_history=max_history)
    return make_attention(LshAttention, config=config, **arguments)


def literal_places(attention, x_ND, r):
    """(bucket, place within it) of each vector in round r."""
    half = attention._half
    planes = attention.planes.weight.view(ROUNDS, 2 * half + 1, WIDTH)[r]
    places = []
    for x in x_ND / x_ND.norm(dim=1, keepdim=True):
        first, second = planes[:half] @ x, planes[half : 2 * half] @ x
        buckets = [torch.cat([part, -part]).argmax().item() for part in (first, second)]
        places.append((*buckets, (planes[-1] @ x).item()))
    return places


def literal_lsh(attention, queries_CD, keys_TD, values_TD, exclude_self=False):
    query_CD, key_TD = attention.query_key(queries_CD), attention.query_key(keys_TD)
    value_TD, L, d = attention.value(values_TD), attention._chunk, WIDTH // HEADS
    key_places = [literal_places(attention, key_TD, r) for r in range(ROUNDS)]
    query_places = [literal_places(attention, query_CD, r) for r in range(ROUNDS)]
    rows = []
    for c, query in enumerate(query_CD):
        heads = []
        for h in range(HEADS):
            own = slice(h * d, (h + 1) * d)
            outs, sums = [], []
            for r in range(ROUNDS):
                places = key_places[r]
                order = sorted(range(len(places)), key=places.__getitem__)
                before = sum(place < query_places[r][c] for place in places)
                chunk = min(before, len(order) - 1) // L
                window = order[max(0, chunk - 1) * L : (chunk + 2) * L]
                score = key_TD[window, own] @ query[own] / math.sqrt(d)
                if exclude_self and c in window:
                    score[window.index(c)] = -1e5
                outs.append(score.softmax(dim=0) @ value_TD[window, own])
                sums.append(score.logsumexp(dim=0))
            heads.append(torch.stack(sums).softmax(dim=0) @ torch.stack(outs))
        rows.append(attention.output(torch.cat(heads)))
    return torch.stack(rows)


@pytest.mark.parametrize(("top_k", "T"), [(6, 1), (6, 2), (6, 30), (30, 30), (30, 31), (60, 64)])
@torch.no_grad()
def test_rounds_follow_the_definition(top_k, T):
    attention = make_lsh(top_k)
    queries, keys, values = draw(11, WIDTH, seed=T), draw(T, WIDTH, seed=1), draw(T, WIDTH, seed=2)
    expected = literal_lsh(attention, queries, keys, values)
    assert_close(attention.attend_one(queries, keys, values), expected)


@torch.no_grad()
def test_queries_that_crowd_into_one_chunk_are_all_served():
    attention = make_lsh(6)
    queries = draw(1, WIDTH) + 1e-3 * draw(50, WIDTH, seed=1)
    keys = draw(40, WIDTH, seed=2)
    expected = literal_lsh(attention, queries, keys, keys)
    assert_close(attention.attend_one(queries, keys, keys), expected)


@pytest.mark.parametrize("T", [1, 5, 33])
@torch.no_grad()
def test_with_all_keys_in_one_chunk_it_is_softmax_attention(T):
    attention = make_lsh(top_k=3 * ROUNDS * 33)
    queries, keys = draw(20, WIDTH), draw(T, WIDTH, seed=1)
    key, value = attention.query_key(keys), attention.value(keys)
    expected = [attention.output(softmax_read(q, key, value)) for q in attention.query_key(queries)]
    assert_close(attention.attend_one(queries, keys, keys), torch.stack(expected))


@torch.no_grad()
def test_a_member_of_the_set_hardly_reads_itself():
    attention = make_lsh(30, keys_are_queries=True)
    members = draw(40, WIDTH)
    expected = literal_lsh(attention, members, members, members, exclude_self=True)
    assert_close(attention.attend_one(members, members, members), expected)


@torch.no_grad()
def test_a_member_that_is_alone_reads_itself():
    attention = make_lsh(30, keys_are_queries=True)
    alone = draw(1, WIDTH)
    expected = attention.output(attention.value(alone))
    assert_close(attention.attend_one(alone, alone, alone), expected)


@torch.no_grad()
def test_hashing_finds_what_is_alike():
    # Each query has one key like it among 500, of which a round reads three: at random the four
    # rounds would find 2.4%. Keys are equally long, so that it has the largest product by far.
    config = make_config("ifa", top_k=12, max_history=500, num_heads=1)
    attention = LshAttention(config)
    initialise(attention, 3)
    keys = 8.0 * torch.nn.functional.normalize(draw(500, WIDTH))
    queries = keys[:100] + 0.1 * draw(100, WIDTH, seed=1)
    found = attention.attend_one(queries, keys, keys)
    error = (found - keys[:100]).norm(dim=1) / 8.0
    assert (error < 0.1).float().mean() > 0.9


def test_tiles_hold_queries_of_one_chunk_and_are_few():
    chunk_C = torch.tensor([3, 0, 3, 3, 1] + [3] * 40)
    slot_C, chunk_M = _tiles(chunk_C, num_chunks=6)
    assert len(set(slot_C.tolist())) == len(chunk_C)
    assert torch.equal(chunk_M[slot_C // 16], chunk_C)
    assert len(chunk_M) == 1 + 1 + 3
