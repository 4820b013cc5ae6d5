import pytest
import torch

from ifa_ray.models.embedding import initialise
from ifa_ray.models.towers import Towers


def naive(towers, blocks, user_BU, channel_BC, objective, widths):
    """One tower as equation 4 has it: the concatenation is formed, then layer by layer."""
    B, C = channel_BC.shape
    expanded = user_BU[:, None].expand(B, C, -1)
    x = torch.cat([*blocks, expanded, towers.channel.weight[channel_BC]], dim=2)
    parts = (towers.from_blocks, towers.from_user, towers.from_channel)
    weight = torch.cat([part.weight for part in parts], dim=1)
    own = slice(objective * widths[0], (objective + 1) * widths[0])
    x = x @ weight[own].T + towers.from_blocks.bias[own]
    for layer in towers.layers:
        x = torch.relu(x) @ layer.weight[objective] + layer.bias[objective]
    return x[..., 0]


def test_folded_towers_equal_separate_ones_on_the_concatenation():
    generator = torch.Generator().manual_seed(0)
    widths = (6, 5, 1)
    towers = Towers(block_width=7, user_width=4, tower_widths=widths[:-1], objectives=3)
    initialise(towers, seed=0)
    with torch.no_grad():
        for parameter in towers.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    blocks = [torch.randn(2, 9, w, generator=generator) for w in (3, 4)]
    user = torch.randn(2, 4, generator=generator)
    channel = torch.randint(0, 16, (2, 9), generator=generator)
    logits = towers(blocks, user, channel)
    for objective in range(3):
        expected = naive(towers, blocks, user, channel, objective, widths)
        torch.testing.assert_close(logits[..., objective], expected, rtol=1e-5, atol=1e-5)


def test_only_the_impression_starts_at_its_prior():
    for tower_widths in ((), (6,), (6, 5)):
        towers = Towers(block_width=7, user_width=4, tower_widths=tower_widths, objectives=3)
        initialise(towers, seed=0)
        before = towers(
            [torch.ones(1, 1, 7)], torch.ones(1, 4), torch.zeros(1, 1, dtype=torch.long)
        )
        towers.start_at_prior()
        after = towers([torch.ones(1, 1, 7)], torch.ones(1, 4), torch.zeros(1, 1, dtype=torch.long))
        difference = (after - before)[0, 0]
        torch.testing.assert_close(difference, torch.tensor([-3.0, 0.0, 0.0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("channel", [True, False])
@pytest.mark.parametrize("tower_widths", [(), (6, 5)])
@pytest.mark.parametrize("step", [1, 4, 9, 100])
@pytest.mark.parametrize("varying", [True, False])
def test_scoring_a_few_candidates_at_a_time_changes_nothing(
    channel, tower_widths, step, varying, monkeypatch
):
    monkeypatch.setattr("ifa_ray.models.towers._CHUNK_CANDIDATES", step)
    towers = Towers(
        block_width=7, user_width=4, tower_widths=tower_widths, objectives=3, channel=channel
    )
    initialise(towers, seed=3)
    generator = torch.Generator().manual_seed(1)
    same_for_all = torch.randn(2, 1, 4, generator=generator).expand(2, 9, 4)
    other = torch.randn(2, 9 if varying else 1, 3, generator=generator).expand(2, 9, 3)
    blocks = [other, same_for_all]
    channels = torch.randint(0, 16, (2, 9), generator=generator)
    inputs = (blocks, torch.randn(2, 4, generator=generator), channels)
    learned = towers(*inputs)
    with torch.no_grad():
        torch.testing.assert_close(towers(*inputs), learned, rtol=1e-5, atol=1e-6)
