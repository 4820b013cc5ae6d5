"""Row-wise Adagrad against the formula, row by row, and inside a learner."""

import numpy as np
import pytest
import torch
from tiny_learners import assert_equal, make_items, make_learner, make_samples, with_request

from ifa_ray.checkpoints.format import save_checkpoint
from ifa_ray.schema import History
from ifa_ray.training.learner import RowwiseAdagrad
from ifa_ray.training.versions import load_learner


def literal(table, visits, lr, eps):
    """The formula, one row and one visit at a time, in float64."""
    table, sums = table.astype(np.float64).copy(), np.zeros(len(table))
    for gradients in visits:
        for row, gradient in gradients.items():
            sums[row] += (gradient**2).mean()
            table[row] -= lr * gradient / (np.sqrt(sums[row]) + eps)
    return table, sums


def test_a_step_is_the_formula_and_touches_visited_rows_alone():
    rng = np.random.default_rng(0)
    start = rng.normal(size=(9, 4)).astype(np.float32)
    table = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer, visits = RowwiseAdagrad([table], lr=0.1), []
    for _ in range(5):
        rows = rng.choice(8, 3, replace=False)
        values = rng.normal(size=(4, 4))
        # The first row comes twice in one gradient: its parts are added first.
        places = torch.tensor([[*rows, rows[0]]])
        table.grad = torch.sparse_coo_tensor(
            places, torch.tensor(values).float(), (9, 4), check_invariants=True
        )
        optimizer.step()
        sums = {int(row): values[i] for i, row in enumerate(rows)}
        sums[int(rows[0])] = values[0] + values[3]
        visits.append(sums)
    expected, sums = literal(start, visits, 0.1, 1e-8)
    assert table.detach().numpy() == pytest.approx(expected, abs=1e-5)
    assert optimizer.state[table]["sum"].numpy() == pytest.approx(sums, rel=1e-5)
    assert np.array_equal(table.detach().numpy()[8], start[8])


def test_a_learner_with_it_learns_and_goes_on_from_a_checkpoint(tmp_path):
    samples = make_samples(40)
    learner = make_learner(sparse_optimizer="rowwise_adagrad", sparse_learning_rate=0.05)
    first = learner.train(samples[:20])
    save_checkpoint(tmp_path / "version=00000", learner, version=0, log_watermark={}, metrics={})
    expected = learner.train(samples[20:])
    restored = load_learner(tmp_path / "version=00000", make_items())
    assert restored.training_config.sparse_optimizer == "rowwise_adagrad"
    assert restored.train(samples[20:]).to_dict() == expected.to_dict()
    assert_equal(restored.arrays(), learner.arrays())
    assert expected.loss < first.loss
    sums = [t for name, t in learner.arrays().optimizer.items() if name.endswith(":sum")]
    assert {len(t.shape) for t in sums} == {1}


@pytest.mark.parametrize("name", ["ifa", "ifa_plus", "twin"])
def test_ids_in_no_catalogue_teach_the_unknown_items_row_and_padding_does_not(name):
    known = make_samples(8)
    learner = make_learner(name)
    before = learner.model.items.id.weight[0].clone()
    learner.train(known)
    assert torch.equal(learner.model.items.id.weight[0], before), "padding has no gradient"
    history = History(
        ids_T=np.full(5, 100_000, np.int32),
        actions_T=np.ones(5, np.uint8),
        times_ms_T=np.arange(5),
    )
    gone = [with_request(sample, history=history) for sample in known]
    learner.train(gone)
    assert not torch.equal(learner.model.items.id.weight[0], before)
