"""Stale rows: when each was visited, by the rule's words; what eviction does; that it resumes."""

import dataclasses
import json

import pytest
import torch
from tiny_learners import MODELS, assert_equal, make_items, make_learner, make_samples
from tiny_logs import contents, read, settings, train, write_run

from ifa_ray.config import TrainingConfig
from ifa_ray.errors import ConfigError
from ifa_ray.training.checkpoint import (
    load_checkpoint,
    load_learner,
    save_checkpoint,
    version_folder,
)
from ifa_ray.training.loop import Learner, LearnerArrays, batches
from ifa_ray.training.visits import naive_visits

DAY_MS = 86_400_000
REQUESTS = {"evict_after_requests": 6}
DAYS = {"evict_after_days": 1.0}


def learner_of(name="ifa", **changes):
    base = make_learner(name)
    training = dataclasses.replace(base.training_config, **changes)
    return Learner(base.model_config, training, make_items(), base.seed)


def over_days(samples):
    """One request every six hours."""
    return [
        dataclasses.replace(
            sample,
            request=dataclasses.replace(sample.request, time_ms=10_000_000 + i * DAY_MS // 4),
        )
        for i, sample in enumerate(samples)
    ]


def visited(learner):
    """The last visit of every row that had one, by table; the unknown rows left out."""
    found = {}
    for name, last_R in learner.arrays().optimizer.items():
        if name.endswith(":visited"):
            first = 0 if name.startswith("user") else 1
            rows = torch.nonzero(last_R >= 0)[:, 0].tolist()
            table = name.removesuffix(".weight:visited")
            found[table] = {row: int(last_R[row]) for row in rows if row >= first}
    return found


@pytest.mark.parametrize("span", [REQUESTS, DAYS], ids=["requests", "days"])
@pytest.mark.parametrize("name", MODELS)
def test_visits_are_those_of_the_rule_read_word_by_word(name, span):
    learner = learner_of(name, **span)
    samples = over_days(make_samples(18))
    learner.train(samples)
    now, expected = naive_visits(
        batches(samples, 4), make_items(), learner.model_config, learner.training_config,
        learner.model.history_reads,
    )  # fmt: skip
    assert visited(learner) == expected
    assert now == (18 if span is REQUESTS else 17 * DAY_MS // 4)


@pytest.mark.parametrize("optimizer", ["adam", "rowwise_adagrad"])
@pytest.mark.parametrize("span", [REQUESTS, DAYS], ids=["requests", "days"])
def test_stale_rows_alone_go_back_to_the_start_with_their_state(span, optimizer):
    learner = learner_of(**span, sparse_optimizer=optimizer)
    samples = over_days(make_samples(18))
    learner.train(samples)
    now, last = naive_visits(
        batches(samples, 4), make_items(), learner.model_config, learner.training_config,
        learner.model.history_reads,
    )  # fmt: skip
    limit = 6 if span is REQUESTS else DAY_MS
    stale = {
        table: {r for r, t in rows.items() if now - t >= limit} for table, rows in last.items()
    }
    before, start = learner.arrays(), learner_of().arrays()
    counts = learner.evict()
    assert counts == {
        "item": len(stale["items.id"]),
        "author": len(stale["items.author"]),
        "user": len(stale["user.user"]),
    }
    assert counts["item"] > 0
    after = learner.arrays()
    for table, rows in stale.items():
        name, gone = f"{table}.weight", torch.zeros(len(before.model[f"{table}.weight"])).bool()
        gone[list(rows)] = True
        assert torch.equal(after.model[name][gone], start.model[name][gone])
        assert torch.equal(after.model[name][~gone], before.model[name][~gone])
        for key in [k for k in before.optimizer if k.startswith(f"{name}:")]:
            if before.optimizer[key].ndim and not key.endswith(":visited"):
                assert not after.optimizer[key][gone].any()
                assert torch.equal(after.optimizer[key][~gone], before.optimizer[key][~gone])
    others = {name for name in before.model if name.removesuffix(".weight") not in stale}
    assert all(torch.equal(after.model[name], before.model[name]) for name in others)
    assert learner.evict() == {"item": 0, "author": 0, "user": 0}, "what is gone is gone once"


def test_the_unknown_items_row_stays_however_long_nobody_reads_it():
    learner = learner_of("avg_pooling", evict_after_requests=1)
    with torch.no_grad():
        learner.model.items.id.weight[0] += 1.0
    row = learner.model.items.id.weight[0].clone()
    learner.train(make_samples(8))
    learner.evict()
    assert torch.equal(learner.model.items.id.weight[0], row)


def test_watching_visits_changes_no_weight_until_a_row_goes():
    samples = make_samples(20)
    plain, watching = learner_of(), learner_of(evict_after_requests=1000)
    expected = plain.train(samples).to_dict()
    assert watching.train(samples).to_dict() == expected
    assert watching.evict() == {"item": 0, "author": 0, "user": 0}
    assert plain.evict() is None
    ours = watching.arrays()
    kept = {name: t for name, t in ours.optimizer.items() if "visit" not in name}
    assert_equal(LearnerArrays(model=ours.model, optimizer=kept, steps=ours.steps), plain.arrays())


def test_a_restored_learner_evicts_what_the_first_would_have(tmp_path):
    samples = over_days(make_samples(36))
    learner = learner_of(**DAYS)
    learner.train(samples[:20])
    learner.evict()
    folder = tmp_path / "version=00000"
    save_checkpoint(folder, learner, version=0, log_watermark={}, metrics={})
    restored = load_learner(folder, make_items())
    for each in (learner, restored):
        each.train(samples[20:])
    counts = learner.evict()
    assert restored.evict() == counts
    assert counts["item"] > 0
    assert_equal(restored.arrays(), learner.arrays())


def test_rows_of_a_warm_start_count_as_visited_when_the_training_begins():
    taught = learner_of()
    taught.train(make_samples(20))
    learner = learner_of(**DAYS)
    learner.load_arrays(LearnerArrays(model=taught.arrays().model, optimizer={}, steps=0))
    samples = over_days(make_samples(12, seed=2))
    learner.train(samples[:4])
    assert sum(learner.evict().values()) == 0, "a day has not passed"
    learner.train(samples[4:])
    counts = learner.evict()
    # The tables are larger than the catalogue: rows of no id, such as 3, had no visit.
    assert counts["item"] > 128 - 60
    assert torch.equal(learner.model.items.id.weight[3], learner_of().model.items.id.weight[3])


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("log")).root


@pytest.mark.parametrize("span", [{"evict_after_requests": 13}, {"evict_after_days": 1.0}])
def test_a_resumed_training_evicts_the_same_rows_and_counts_them(log, tmp_path, span):
    asked = settings(log, training={"batch_size": 4, **span})
    stream = read(log)
    assert train(tmp_path / "whole", asked, stream) == [0, 1, 2, 3]
    half = dataclasses.replace(stream, samples=stream.samples[:24])
    assert train(tmp_path / "parts", asked, half) == [0, 1]
    assert train(tmp_path / "parts", asked, stream, resume=True) == [2, 3]
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    rows = [json.loads(x) for x in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    newest = load_checkpoint(version_folder(tmp_path / "whole" / "models", 3))
    assert rows[-1]["evicted"] == newest.metrics["evicted"]
    assert sum(sum(row["evicted"].values()) for row in rows) > 0


def test_spans_are_checked_and_one_clock_is_chosen():
    with pytest.raises(ConfigError, match="evict_after_days == 0, must be > 0"):
        TrainingConfig(evict_after_days=0)
    with pytest.raises(ConfigError, match="evict_after_requests == 0, must be >= 1"):
        TrainingConfig(evict_after_requests=0)
    with pytest.raises(ConfigError, match="must be None with evict_after_requests == 5"):
        TrainingConfig(evict_after_days=1.0, evict_after_requests=5)
