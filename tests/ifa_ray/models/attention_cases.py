"""Fast attentions with weights of no special form, and softmax attention as it is read."""

import math

import torch
from rank_cases import make_config

from ifa_ray.models.embedding import Projection, initialise

HEADS = 4
WIDTH = 16


def make_attention(attention_class, seed=2, config=None, **arguments):
    """An attention whose projections are no longer where they start, at multiples of identity."""
    attention = attention_class(config or make_config("ifa"), **arguments)
    initialise(attention, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in attention.modules():
            if isinstance(layer, Projection):
                layer.weight.add_(0.3 * torch.randn(layer.weight.shape, generator=generator))
    return attention


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def softmax_read(query_D, key_ND, value_ND, heads=HEADS):
    """What one query reads, head by head, [D]."""
    d = len(query_D) // heads
    read = []
    for h in range(heads):
        own = slice(h * d, (h + 1) * d)
        score_N = key_ND[:, own] @ query_D[own] / math.sqrt(d)
        read.append(score_N.softmax(dim=0) @ value_ND[:, own])
    return torch.cat(read)


def assert_close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
