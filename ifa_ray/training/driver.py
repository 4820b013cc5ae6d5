"""The one training driver: a piece of a stream is predicted, learned and judged.

A run's stream (`ifa_ray.training.stream`), a log on disk (`ifa_ray.training.offline`) and an
evaluation (`ifa_ray.evaluation.runs`) differ in where their pieces come from and in what becomes of
a finished one. Knows learners and the gate.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ifa_ray.checkpoints.format import latest_version
from ifa_ray.data.run_folder import write_atomically
from ifa_ray.errors import RankerError
from ifa_ray.schema import OBJECTIVES, TrainingSample
from ifa_ray.training.gate import GateConfig, GateDecision, PublicationRefused, judge
from ifa_ray.training.learner import BatchResult, Learner, StreamMetrics, batches, summarise


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
    models: Path,
    record: Path,
    *,
    tested: int | None = None,
    on_batch: Callable[[BatchResult], None] = lambda _: None,
) -> tuple[list[BatchResult], StreamMetrics, GateDecision]:
    """Learns what makes a version of the one before, and has the gate judge it.

    Args:
        learner: at the version before.
        samples: in order of time.
        version: to be made.
        gate: what it must fulfil.
        previous: metrics of the version before; None for the first.
        models: root of the versions.
        record: file that the decision is written to.
        tested: see `summarise`.
        on_batch: told of every batch.

    Raises:
        PublicationRefused: if a loss is not finite or the version did not pass.
    """
    metrics = None
    try:
        results = learn(learner, samples, on_batch)
    except RankerError as error:
        decision = GateDecision(version=version, passed=False, reasons=(str(error),), gate=gate)
    else:
        metrics = summarise(results, tested)
        place = OBJECTIVES.index(gate.objective)
        positives = sum(int(sample.labels_CL[:, place].sum()) for sample in samples[:tested])
        arrays = learner.arrays(copy=False)
        decision = judge(gate, version, arrays, metrics.to_dict(), previous, positives)
    write_decision(record, dataclasses.asdict(decision))
    if metrics is None or not decision.passed:
        raise PublicationRefused(refusal_text(version, decision.reasons, latest_version(models)))
    return results, metrics, decision


def write_decision(path: Path, decision: Mapping[str, Any]) -> None:
    """Records a decision of the gate; the same one again is the same bytes."""
    text = json.dumps(decision, indent=1, sort_keys=True, allow_nan=False)
    write_atomically(path, text.encode() + b"\n")


def refusal_text(version: int, reasons: Sequence[str], newest: int | None) -> str:
    """A refusal in one sentence; `newest` is the version that stays the newest."""
    good = "no version is published" if newest is None else f"version {newest} stays the newest"
    return f"version {version} is not published: {'; '.join(reasons)}. {good}."
