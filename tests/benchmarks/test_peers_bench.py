import dataclasses
import json

import pytest
import torch
from torch import nn

from benchmarks import peers


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    threads = torch.get_num_threads()
    path = tmp_path_factory.mktemp("bench") / "peers.json"
    peers.main(["--quick", "--json", str(path)])
    torch.set_num_threads(threads)
    return json.loads(path.read_text())["results"]


def test_every_form_is_timed_beside_ours(quick):
    assert {peers.OURS, peers.KEPT, peers.SOFTMAX, peers.TWIN, peers.PUBLIC} <= set(quick)
    assert quick[peers.OURS]["times_ours"] == 1
    for row in quick.values():
        assert 0 < row["min_ms"] <= row["p50_ms"]


def test_with_one_head_the_public_form_reads_what_our_twin_reads():
    # Their heads choose each for itself, ours together: of one head there is no difference.
    size = dataclasses.replace(peers.QUICK, heads=1, candidates_timed=peers.QUICK.m)
    with torch.inference_mode():
        forms = peers._forms(size)
        torch.testing.assert_close(forms[peers.PUBLIC](), forms[peers.TWIN](), rtol=1e-4, atol=1e-4)


def test_with_all_behaviours_chosen_it_is_softmax_attention():
    size = dataclasses.replace(peers.QUICK, top_k=peers.QUICK.n, candidates_timed=peers.QUICK.m)
    with torch.inference_mode():
        forms = peers._forms(size)
        expected = forms[peers.SOFTMAX]()
        torch.testing.assert_close(forms[peers.PUBLIC](), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(forms[peers.TWIN](), expected, rtol=1e-4, atol=1e-4)


def test_a_kept_state_is_read_as_the_history_it_was_made_of():
    with torch.inference_mode():
        forms = peers._forms(peers.QUICK)
        torch.testing.assert_close(forms[peers.KEPT](), forms[peers.OURS](), rtol=1e-4, atol=1e-5)


def test_the_public_form_by_hand():
    # One candidate, two heads of width 1, k = 1, identity projections: each head takes the value
    # of the behaviour with its largest product.
    eye = nn.Linear(2, 2, bias=False)
    eye.weight.data = torch.eye(2)
    target = torch.tensor([[1.0, -1.0]])
    history = torch.tensor([[3.0, 5.0], [2.0, -4.0]])
    read = peers.one_history_per_candidate(target, history, (eye, eye, eye, eye), 2, 1)
    assert read.tolist() == [[3.0, -4.0]]


def test_a_package_that_is_not_there_is_named():
    rows = {name: {"times_ours": 50.0} for name in (peers.PUBLIC, peers.TWIN, peers.SOFTMAX)}
    lines = peers.verdicts(rows)
    assert "missed" in lines[0]
    assert lines[1].endswith("wanted >= 20x: met")
    assert lines[-1].endswith("not installed here, so not compared")
