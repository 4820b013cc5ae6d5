"""Attentions through clusters, learned points and projected lengths, against their definitions."""

import itertools

import pytest
import torch
from attention_cases import WIDTH, assert_close, draw, make_attention, softmax_read
from rank_cases import make_config

from ifa_ray.models.coarse_attention import (
    ClusteredAttention,
    InducingAttention,
    LinformerAttention,
    bucket_edges,
    hamming_k_means,
)


def literal_k_means(bits_CP, clusters):
    """Lloyd's algorithm in lists: votes of the members, equally near to the first centre."""
    codes = [tuple(row) for row in bits_CP.tolist()]
    distinct = sorted(set(codes), key=lambda code: code[::-1])  # bit p counts 2**p
    K = min(clusters, len(distinct))
    centres = [list(distinct[j * len(distinct) // K]) for j in range(K)]

    def nearest(code):
        return min(
            range(K), key=lambda j: sum(a != b for a, b in zip(code, centres[j], strict=True))
        )

    assigned = [nearest(code) for code in codes]
    for _ in range(9):
        for j in range(K):
            members = [code for code, own in zip(codes, assigned, strict=True) if own == j]
            for p in range(len(codes[0])):
                votes = sum(code[p] for code in members)
                if 2 * votes != len(members):
                    centres[j][p] = 2 * votes > len(members)
        assigned = [nearest(code) for code in codes]
    return assigned


@pytest.mark.parametrize(
    ("C", "K", "P"), [(1, 3, 5), (30, 4, 6), (50, 7, 63), (80, 6, 3), (9, 9, 2)]
)
def test_clusters_are_those_of_the_literal_algorithm(C, K, P):
    bits = draw(C, P, seed=C) > 0
    assert hamming_k_means(bits, K).tolist() == literal_k_means(bits, K)


def test_clusters_do_not_depend_on_the_order_of_the_codes():
    bits = draw(60, 10) > 0
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    assert torch.equal(hamming_k_means(bits[order], 5), hamming_k_means(bits, 5)[order])


def test_clusters_are_groups_of_codes_that_are_alike():
    centres = draw(3, 40) > 0
    flipped = draw(90, 40, seed=1) > 1.6  # one bit in twenty
    clusters = hamming_k_means(centres.repeat_interleave(30, dim=0) ^ flipped, 6)
    groups = [set(group.tolist()) for group in clusters.view(3, 30)]
    assert sum(len(group) for group in groups) == len(set.union(*groups))
    assert len(set.union(*groups)) > 3


@pytest.mark.parametrize("T", [1, 40])
@torch.no_grad()
def test_with_a_cluster_for_each_query_it_is_softmax_attention(T):
    config = make_config("ifa", top_k=20)
    attention = make_attention(ClusteredAttention, config=config)
    queries, keys, values = draw(20, WIDTH), draw(T, WIDTH, seed=1), draw(T, WIDTH, seed=2)
    key, value = attention.key(keys), attention.value(values)
    expected = [attention.output(softmax_read(q, key, value)) for q in attention.query(queries)]
    assert_close(attention.attend_one(queries, keys, values), torch.stack(expected))


@torch.no_grad()
def test_a_query_reads_as_its_cluster_but_for_the_best_keys():
    attention, heads, best_keys = make_attention(ClusteredAttention), 4, 2
    queries, keys, values = draw(30, WIDTH), draw(25, WIDTH, seed=1), draw(25, WIDTH, seed=2)
    query, key, value = attention.query(queries), attention.key(keys), attention.value(values)
    assigned = literal_k_means(query @ attention.planes.weight.T >= 0, 6)
    assert len(set(assigned)) > 1
    expected = []
    for q, own in zip(query, assigned, strict=True):
        members = [c for c, other in enumerate(assigned) if other == own]
        mean = query[members].mean(dim=0)
        parts = [slice(h * 4, h * 4 + 4) for h in range(heads)]
        weights = [(key[:, part] @ mean[part] / 2).softmax(dim=0) for part in parts]
        best = sum(weights).argsort(descending=True)[:best_keys]
        read = []
        for part, weight in zip(parts, weights, strict=True):
            mine = (key[best, part] @ q[part] / 2).softmax(dim=0) * weight[best].sum()
            weight[best] = mine
            read.append(weight @ value[:, part])
        expected.append(attention.output(torch.cat(read)))
    assert_close(attention.attend_one(queries, keys, values), torch.stack(expected))


@pytest.mark.parametrize("T", [1, 5])
@torch.no_grad()
def test_with_all_keys_among_the_best_it_is_softmax_attention(T):
    config = make_config("ifa", top_k=20)
    attention = make_attention(ClusteredAttention, config=config)
    queries, keys = draw(100, WIDTH), draw(T, WIDTH, seed=1)
    key, value = attention.key(keys), attention.value(keys)
    expected = [attention.output(softmax_read(q, key, value)) for q in attention.query(queries)]
    assert_close(attention.attend_one(queries, keys, keys), torch.stack(expected))


@pytest.mark.parametrize("T", [1, 40])
@torch.no_grad()
def test_queries_read_what_the_inducing_points_read(T):
    attention = make_attention(InducingAttention)
    queries, keys, values = draw(8, WIDTH), draw(T, WIDTH, seed=1), draw(T, WIDTH, seed=2)
    points = attention.summaries.points.weight
    assert points.shape == (6, WIDTH)
    point_key = attention.summaries.key(keys)
    summary = torch.stack([softmax_read(p, point_key, values) for p in points])
    key, value = attention.key(summary), attention.value(summary)
    expected = [attention.output(softmax_read(q, key, value)) for q in attention.query(queries)]
    assert_close(attention.attend_one(queries, keys, values), torch.stack(expected))


@pytest.mark.parametrize("T", [1, 2, 7, 30, 64])
@torch.no_grad()
def test_queries_read_mixed_means_over_stretches_of_time(T):
    attention = make_attention(LinformerAttention)
    queries, keys, values = draw(8, WIDTH), draw(T, WIDTH, seed=1), draw(T, WIDTH, seed=2)
    edges = bucket_edges(6, 64)
    means = []
    for x in (keys, values):
        latest_first = list(x.flip(0))
        stretches = [latest_first[a:b] for a, b in itertools.pairwise(edges)]
        means.append(torch.stack([torch.stack(s).mean(dim=0) for s in stretches if s]))
    J = len(means[0])
    key = attention.key(attention.mix_keys.weight[:J, :J] @ means[0])
    value = attention.value(attention.mix_values.weight[:J, :J] @ means[1])
    expected = [attention.output(softmax_read(q, key, value)) for q in attention.query(queries)]
    assert_close(attention.attend_one(queries, keys, values), torch.stack(expected))


@torch.no_grad()
def test_with_a_bucket_for_each_behaviour_it_is_softmax_attention():
    config = make_config("ifa", top_k=100)
    attention = make_attention(LinformerAttention, config=config)
    attention.mix_keys.weight.copy_(torch.eye(64))
    attention.mix_values.weight.copy_(torch.eye(64))
    queries, keys = draw(8, WIDTH), draw(50, WIDTH, seed=1)
    key, value = attention.key(keys), attention.value(keys)
    expected = [attention.output(softmax_read(q, key, value)) for q in attention.query(queries)]
    assert_close(attention.attend_one(queries, keys, keys), torch.stack(expected))


def test_buckets_by_hand():
    # 64**(j / 6) is 1, 2, 4, 8, 16, 32, 64.
    assert bucket_edges(6, 64) == [0, 2, 4, 8, 16, 32, 64]
    assert bucket_edges(3, 3) == [0, 1, 2, 3]
    assert bucket_edges(5, 2) == [0, 1, 2]


@pytest.mark.parametrize(
    ("buckets", "length"), [(1, 1), (1, 9), (6, 64), (100, 10_000), (7, 8), (20, 2_000)]
)
def test_buckets_cover_the_history_and_none_is_empty(buckets, length):
    edges = bucket_edges(buckets, length)
    widths = [b - a for a, b in itertools.pairwise(edges)]
    assert (edges[0], edges[-1], len(widths)) == (0, length, buckets)
    assert min(widths) >= 1
