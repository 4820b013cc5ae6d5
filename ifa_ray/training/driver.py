"""The one training driver: a piece of a stream is predicted, learned and judged.

A run's stream (`ifa_ray.training.stream`), a log on disk (`ifa_ray.training.offline`) and an
evaluation (`ifa_ray.evaluation.runs`) differ in where their pieces come from and in what becomes of
a finished one. Knows learners and the gate.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ifa_ray.checkpoints.format import LearnerArrays, latest_version
from ifa_ray.config import Config, setting
from ifa_ray.data.run_folder import write_atomically
from ifa_ray.errors import IfaRayError, RankerError
from ifa_ray.schema import OBJECTIVES, TrainingSample
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


class PublicationRefused(IfaRayError, RuntimeError):
    """A version did not pass the quality gate; the version before it stays the newest."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateConfig(Config):
    """Conditions of a version. Weights that are not finite are always refused."""

    objective: str = setting("impression", "whose progressive AUC is compared", choices=OBJECTIVES)
    # In healthy runs of the quick preset (64 requests a version) it fell by 0.041 at most.
    max_auc_drop: float | None = setting(
        0.1, "of the progressive AUC against the previous version's; none compares nothing", ge=0
    )
    min_positives: int = setting(200, "an AUC of fewer is not judged", ge=1)
    max_loss_ratio: float | None = setting(
        10.0, "of the mean loss to the previous version's; none compares nothing", gt=1
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateDecision:
    """The decision on a version: reasons of a refusal, notes of what could not be judged."""

    version: int
    passed: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()
    auc: float | None = None
    previous_auc: float | None = None
    loss: float | None = None
    previous_loss: float | None = None
    gate: GateConfig


def judge(
    gate: GateConfig,
    version: int,
    arrays: LearnerArrays,
    metrics: Mapping[str, Any],
    previous: Mapping[str, Any] | None,
    positives: int,
) -> GateDecision:
    """Judges a version before it is published.

    By what it has learned, the metrics of the requests that made it and those of the version
    before, and how many of the tested candidates were positives of the gate's objective.
    """
    reasons, notes = list(_not_finite(arrays)), []
    auc, loss = metrics["auc"][gate.objective], metrics["loss"]
    previous_auc = previous["auc"][gate.objective] if previous else None
    previous_loss = previous["loss"] if previous else None
    if gate.max_auc_drop is not None:
        if previous_auc is None:
            notes.append(f"no earlier AUC of {gate.objective} to compare with")
        elif auc is None or positives < gate.min_positives:
            notes.append(
                f"AUC of {gate.objective} not judged: {positives} positives, "
                f"min_positives == {gate.min_positives}"
            )
        elif auc < previous_auc - gate.max_auc_drop:
            reasons.append(
                f"progressive AUC of {gate.objective} == {auc:.4f}, must be >= {previous_auc:.4f} "
                f"- {gate.max_auc_drop:g} (max_auc_drop)"
            )
    ratio = loss / previous_loss if loss is not None and previous_loss else None
    if gate.max_loss_ratio is not None and ratio is not None and ratio > gate.max_loss_ratio:
        reasons.append(
            f"loss == {loss:.4g}, must be <= {gate.max_loss_ratio:g} (max_loss_ratio) times "
            f"the previous version's {previous_loss:.4g}"
        )
    return GateDecision(
        version=version,
        passed=not reasons,
        reasons=tuple(reasons),
        notes=tuple(notes),
        auc=auc,
        previous_auc=previous_auc,
        loss=loss,
        previous_loss=previous_loss,
        gate=gate,
    )


def _not_finite(arrays: LearnerArrays) -> Iterator[str]:
    for what, tensors in (("weights", arrays.model), ("optimiser state", arrays.optimizer)):
        for name, tensor in tensors.items():
            bad = int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0
            if bad:
                yield f"{what} {name}: {bad} of {tensor.numel()} values are not finite"
