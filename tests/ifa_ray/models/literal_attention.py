"""TWIN's equations in loops, and a way to see what a model's attention was given."""

import dataclasses
import math

import torch

from ifa_ray.data.features import build_batch
from ifa_ray.models import build_model


def move_projections(model, seed=1):
    """Moves an attention's weights from where they start, at multiples of the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, layer in sorted(model.named_children()):
            if name in ("query", "key", "value", "output", "search_query", "search_key"):
                noise = torch.randn(layer.weight.shape, generator=generator)
                layer.weight.add_(0.3 * noise)
    return model


def attended(model, items, *requests):
    """Runs the model; returns what `attend` was given and the `Attended` it returned."""
    seen = {}
    attend = model.attend

    def spy(candidates, behaviours):
        seen["can"], seen["behaviours"] = candidates.features_BCD, behaviours
        seen["found"] = attend(candidates, behaviours)
        return seen["found"]

    model.attend = spy
    try:
        model(build_batch(requests, items, model.config))
    finally:
        model.attend = attend
    return seen["can"], seen["behaviours"], seen["found"]


def with_weights_of(model, name, items, **changes):
    """Another model, with every weight that it shares by name and shape with `model`."""
    config = dataclasses.replace(model.config, name=name, **changes)
    other = build_model(config, items, seed=99)
    state = other.state_dict()
    for key, value in model.state_dict().items():
        if key in state and state[key].shape == value.shape:
            state[key] = value
    other.load_state_dict(state)
    return other


def strongest(byte):
    click, long_view, hate = byte & 1, byte & 2, byte & 64
    engaged = byte & (4 | 8 | 16 | 32)
    return 4 if hate else 3 if engaged else 2 if long_view else 1 if click else 0


def literal_scores(model, q, behaviours):
    """Score of every behaviour for one candidate in each head, [H, T]."""
    H, d = model.config.num_heads, model.config.width // model.config.num_heads
    inherent = behaviours.items_BTD[0]
    alpha = torch.zeros(H, len(inherent))
    for h in range(H):
        own = slice(h * d, (h + 1) * d)
        query, keys = model.query.weight[own] @ q, inherent @ model.key.weight[own].T
        alpha[h] = keys @ query / math.sqrt(d)
        for j, (embedded, w) in enumerate(
            zip(cross_features(model, behaviours), model.cross_weights, strict=True)
        ):
            alpha[h] += (embedded @ w.weight[0]) * model.beta.weight[h, j]
    return alpha


def cross_features(model, behaviours):
    group = torch.tensor([strongest(byte) for byte in behaviours.actions_BT[0].tolist()])
    return [model.action_group.weight[group], model.gap.weight[behaviours.gap_BT[0]]]


def literal_read(model, alpha, behaviours, chosen):
    """What one candidate finds in the chosen behaviours, [D]."""
    H, d = model.config.num_heads, model.config.width // model.config.num_heads
    unsplit = [behaviours.features_BTD[0], *cross_features(model, behaviours)]
    values = torch.cat(unsplit, dim=1) @ model.value.weight.T
    heads = [
        alpha[h, chosen].softmax(dim=0) @ values[chosen, h * d : (h + 1) * d] for h in range(H)
    ]
    return model.output.weight @ torch.cat(heads)
