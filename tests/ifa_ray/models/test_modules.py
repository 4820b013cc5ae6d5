"""The optional modules, against the same things written out."""

import itertools

import pytest
import torch
from rank_cases import ITEMS, make_config

from ifa_ray.config import MODULES
from ifa_ray.errors import ConfigError
from ifa_ray.models import build_model
from ifa_ray.models.embedding import initialise
from ifa_ray.models.linear_attention import feature_map, naive_linear_attention
from ifa_ray.models.modules import Gate, ModularTowers, SequenceAttention, mix_experts

L = 3
IN_TOWERS = [m for m in MODULES if m != "sequence_attention"]
COMBINATIONS = [c for n in range(5) for c in itertools.combinations(IN_TOWERS, n)]


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def shaken(module, seed=1):
    """The module with all weights, also those that start at 0 or 1, moved at random."""
    initialise(module, seed)
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.add_(0.3 * draw(*parameter.shape, seed=100 + i))
    return module


def literal_gate(gate, x, prior):
    """As PEPNet has it: one product on the concatenation of the prior and the input."""
    parts = (gate.from_x, gate.from_user, gate.from_channel)
    weight = torch.cat([part.weight for part in parts], dim=1)
    hidden = torch.relu(weight @ torch.cat([x, *prior]) + gate.from_x.bias)
    return 2 / (1 + torch.exp(-(gate.out.weight @ hidden + gate.out.bias)))


def literal_logits(towers, x, user, channel, widths, modules):
    """Logits of one candidate: the concatenation formed, tower by tower and layer by layer."""
    if "layer_norm" in modules:
        x = (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()
        x = x * towers.norm.weight + towers.norm.bias
    if "pepnet" in modules:
        x = x * literal_gate(towers.input_gate, x, (user, channel))
        gates = literal_gate(towers.hidden_gate, x, (user, channel)).view(L, sum(widths))
    parts = (towers.from_blocks, towers.from_user, towers.from_channel)
    weight = torch.cat([part.weight for part in parts], dim=1)
    first = weight @ torch.cat([x, user, channel]) + towers.from_blocks.bias
    logits = []
    for objective in range(L):
        if "mmoe" in modules:
            gate = first[: L * L].view(L, L)[objective].softmax(dim=0)
            experts = torch.relu(first[L * L :].view(L, widths[0]))
            hidden = sum(g * expert for g, expert in zip(gate, experts, strict=True))
        else:
            hidden = first.view(L, widths[0])[objective]
        done = 0
        for i, layer in enumerate(towers.layers):
            active = torch.relu(hidden)
            if "pepnet" in modules:
                active = active * gates[objective, done : done + widths[i]]
                done += widths[i]
            out = active @ layer.weight[objective] + layer.bias[objective, 0]
            if "residual" in modules and i < len(widths) - 1:
                out = out + hidden @ towers.skips[i].weight[objective]
            hidden = out
        logits.append(hidden[0])
    return torch.stack(logits)


@pytest.mark.parametrize("modules", COMBINATIONS, ids="-".join)
@torch.no_grad()
def test_towers_with_modules_equal_what_is_written_out(modules):
    widths = (6, 5, 4)
    towers = ModularTowers(modules, block_width=7, user_width=4, tower_widths=widths, objectives=L)
    shaken(towers)
    blocks, user = [draw(2, 5, 3), draw(2, 5, 4, seed=1)], draw(2, 4, seed=2)
    channel = torch.arange(10).view(2, 5)
    logits = towers(blocks, user, channel)
    x = torch.cat(blocks, dim=2)
    for b, c in itertools.product(range(2), range(5)):
        expected = literal_logits(
            towers, x[b, c], user[b], towers.channel.weight[channel[b, c]], widths, modules
        )
        torch.testing.assert_close(logits[b, c], expected, rtol=1e-4, atol=1e-5)


def test_a_mixture_by_hand():
    # Experts 1 and 3 (the ReLU of -3 is 0); gates of one quarter and three, and all on the second.
    hidden = torch.tensor([[[1.0, -3.0], [3.0, 3.0]]])
    gates = torch.tensor([[[0.25, 0.75], [1e-30, 1.0]]]).log()
    mixed = mix_experts(hidden, gates)
    torch.testing.assert_close(mixed, torch.tensor([[[2.5, 2.25]], [[3.0, 3.0]]]))


def test_a_gate_starts_near_one_and_is_cut_off_from_what_it_gates():
    gate = Gate(6, 4, 8, 10)
    initialise(gate, 0)
    x, user, channel = (draw(2, 5, 6).requires_grad_(), draw(2, 4).requires_grad_(),
                        draw(2, 5, 8).requires_grad_())  # fmt: skip
    factors = gate(x, user, channel)
    assert (factors - 1).abs().max() < 0.3
    factors.sum().backward()
    assert x.grad is None
    assert (user.grad != 0).any()
    assert (channel.grad != 0).any()


def test_sequence_attention_is_linear_self_attention_beside_the_sequence():
    module = shaken(SequenceAttention(8, "softplus"))
    x, mask = draw(2, 9, 8), torch.arange(9)[None] >= torch.tensor([[0], [4]])
    q, k = (feature_map(p(x), "softplus") for p in (module.attention.query, module.attention.key))
    expected = x + naive_linear_attention(q, k, module.attention.value(x), mask)
    torch.testing.assert_close(module(x, mask), expected, rtol=1e-4, atol=1e-5)


def test_modules_that_are_off_leave_no_weights():
    plain = set(build_model(make_config("ifa"), ITEMS, seed=0).state_dict())
    for module in MODULES:
        with_it = build_model(make_config("ifa", modules=(module,)), ITEMS, seed=0)
        added = set(with_it.state_dict()) - plain
        assert plain <= set(with_it.state_dict())
        assert bool(added) == (module != "mmoe")  # whose experts and gates widen a layer


def test_an_unknown_module_is_refused_with_the_near_miss():
    with pytest.raises(ConfigError, match=r"modules == 'layernorm'.*Did you mean 'layer_norm'\?"):
        make_config("ifa", modules=("layernorm",))


def test_a_module_is_named_once():
    with pytest.raises(ConfigError, match=r"modules == \('mmoe', 'mmoe'\), must be named once"):
        make_config("ifa", modules=("mmoe", "mmoe"))


def test_experts_need_a_hidden_layer():
    with pytest.raises(ConfigError, match=r"tower_widths == \(\), must be at least one width"):
        make_config("ifa", modules=("mmoe",), tower_widths=())
    towerless = make_config("ifa", modules=("pepnet", "residual", "layer_norm"), tower_widths=())
    assert build_model(towerless, ITEMS, seed=0).towers.hidden_gate is None
