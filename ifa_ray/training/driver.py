"""The one training driver: a piece of a stream is predicted, learned and judged.

A run's stream (`ifa_ray.training.stream`), a log on disk (`ifa_ray.training.offline`) and an
evaluation (`ifa_ray.evaluation.runs`) differ in where their pieces come from and in what becomes of
a finished one. Knows learners and the gate; no files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ifa_ray.errors import RankerError
from ifa_ray.schema import OBJECTIVES, TrainingSample
from ifa_ray.training.gate import GateConfig, GateDecision, judge, refusal_of_loss
from ifa_ray.training.learner import BatchResult, Learner, StreamMetrics, batches, summarise


@dataclasses.dataclass(frozen=True, eq=False)
class Learned:
    """A piece that was learned.

    Attributes:
        results: of its batches.
        metrics: of all of them; None where the training ended in a loss that is not finite.
        decision: of the gate.
    """

    results: list[BatchResult]
    metrics: StreamMetrics | None
    decision: GateDecision


def learn(
    learner: Learner,
    samples: Sequence[TrainingSample],
    on_batch: Callable[[BatchResult], None] = lambda _: None,
) -> list[BatchResult]:
    """Predicts then learns consecutive batches, in order.

    Raises:
        RankerError: if a loss is not finite.
    """
    results = []
    for batch in batches(samples, learner.training_config.batch_size):
        results.append(learner.step(batch))
        on_batch(results[-1])
    return results


def learn_version(
    learner: Learner,
    samples: Sequence[TrainingSample],
    version: int,
    gate: GateConfig,
    previous: Mapping[str, Any] | None,
    *,
    tested: int | None = None,
    on_batch: Callable[[BatchResult], None] = lambda _: None,
) -> Learned:
    """Learns what makes a version of the one before, and has the gate judge it.

    Args:
        learner: at the version before.
        samples: in order of time.
        version: to be made.
        gate: what it must fulfil.
        previous: metrics of the version before; None for the first.
        tested: the first `tested` samples make the metrics: one that comes again was learned from.
        on_batch: told of every batch.
    """
    try:
        results = learn(learner, samples, on_batch)
    except RankerError as error:
        return Learned([], None, refusal_of_loss(gate, version, error))
    metrics = summarise(results, tested)
    place = OBJECTIVES.index(gate.objective)
    positives = sum(int(sample.labels_CL[:, place].sum()) for sample in samples[:tested])
    arrays = learner.arrays(copy=False)
    decision = judge(gate, version, arrays, metrics.to_dict(), previous, positives)
    return Learned(results, metrics, decision)


def refusal_text(decision: GateDecision | Mapping[str, Any], newest: int | None) -> str:
    """A refusal in one sentence.

    Args:
        decision: that refused, or its plain values.
        newest: the version that stays the newest; None without any.
    """
    values = decision.to_dict() if isinstance(decision, GateDecision) else decision
    good = "no version is published" if newest is None else f"version {newest} stays the newest"
    return f"version {values['version']} is not published: {'; '.join(values['reasons'])}. {good}."
