import pytest
import torch

from ifa_ray.models.target_attention import HeadWalk, _walk_on_device, walk_heads, walk_heads_naive


def walked(scores_HT, k):
    return walk_heads(torch.tensor(scores_HT)[:, None], k)[0].tolist()


def test_heads_take_turns_until_enough_are_found():
    # Rankings 3 0 2 1 and 0 3 1 2: the turns offer 3, 0, 0, 3, 2, so the third found is 2, the
    # third best of the first head; 1 is the third best of the second, but its turn comes later.
    scores = [[0.7, 0.1, 0.3, 0.9], [0.9, 0.3, 0.1, 0.7]]
    assert walked(scores, 1) == [3]
    assert walked(scores, 2) == [0, 3]
    assert walked(scores, 3) == [0, 2, 3]


def test_a_head_that_agrees_with_another_adds_nothing():
    scores = [[5.0, 4.0, 3.0, 2.0, 1.0, 0.0]] * 4
    assert walked(scores, 3) == [0, 1, 2]


def test_heads_that_disagree_get_a_share_each():
    scores = [[9.0, 8.0, 7.0, 0.0, 0.1, 0.2], [0.0, 0.1, 0.2, 9.0, 8.0, 7.0]]
    assert walked(scores, 4) == [0, 1, 3, 4]


def test_of_equal_scores_the_latest_behaviour_is_found():
    assert walked([[1.0, 2.0, 2.0, 2.0, 0.0]], 2) == [2, 3]
    assert walked([[-0.0, 0.0, -0.0]], 2) == [1, 2]


def draw(H, C, T, seed, steps=None):
    scores = torch.randn(H, C, T, generator=torch.Generator().manual_seed(seed))
    return scores if steps is None else (scores * steps).round() / steps


CASES = [(4, 7, 50, 5), (4, 5, 53, 20), (2, 3, 30, 30), (1, 6, 500, 3), (4, 5, 97, 1), (4, 2, 9, 2),
         (3, 4, 1000, 10), (4, 3, 1733, 5), (4, 5, 1202, 40), (2, 3, 1501, 300)]  # fmt: skip


@pytest.mark.parametrize("steps", [None, 3, 0.5])
@pytest.mark.parametrize(("H", "C", "T", "k"), CASES)
def test_the_fast_walk_finds_what_the_literal_walk_finds(H, C, T, k, steps):
    scores = draw(H, C, T, seed=T, steps=steps)
    expected = walk_heads_naive(scores, k).sort(dim=1).values
    assert torch.equal(walk_heads(scores, k), expected)


@pytest.mark.parametrize("agreeing", [0.0, 1e-3, 0.3, 1.0, 3.0])
def test_the_walk_goes_as_deep_as_it_must_where_heads_agree(agreeing):
    scores = agreeing * draw(1, 6, 700, seed=1) + draw(4, 6, 700, seed=2)
    scores[:, 0] = scores[0, 0]
    expected = walk_heads_naive(scores, 30).sort(dim=1).values
    assert torch.equal(walk_heads(scores, 30), expected)


def test_chunks_in_which_heads_agree_do_not_change_what_later_ones_find():
    heads = HeadWalk(4, 30)
    agreeing = draw(1, 6, 700, seed=1).repeat(4, 1, 1)
    for scores in (draw(4, 6, 700, seed=2), agreeing, draw(4, 6, 700, seed=3), agreeing):
        expected = walk_heads_naive(scores, 30).sort(dim=1).values
        assert torch.equal(heads.walk(scores), expected)


@pytest.mark.parametrize(("H", "C", "T", "k"), CASES)
def test_the_walk_on_another_device_finds_the_same(H, C, T, k):
    scores = draw(H, C, T, seed=T)
    best = torch.topk(scores, k, dim=-1).indices
    assert torch.equal(_walk_on_device(best), walk_heads(scores, k))


@pytest.mark.parametrize("T", [400, 1733])
def test_scores_that_rise_with_time_are_found_at_the_end(T):
    # The likely pattern, recency, and the worst for a bound taken from blocks of neighbours.
    scores = torch.arange(float(T)).expand(2, 3, T).contiguous()
    assert walk_heads(scores, 5).tolist() == [list(range(T - 5, T))] * 3


@pytest.mark.parametrize("where", [0, 399, slice(None)])
def test_scores_that_are_not_numbers_still_give_k_behaviours(where):
    scores = draw(2, 3, 400, seed=1)
    scores[0, 1, where] = float("nan")
    chosen = walk_heads(scores, 5)
    assert all(len(set(row)) == 5 for row in chosen.tolist())
