"""Test, then train: one model learning from a stream of requests, plain torch, one process.

Knows the model, the features and the loss; knows nothing of files, days or Ray. Each batch is
predicted before it is learned from (section 5.1), so the metrics of a stream are those of a model
that has seen nothing of what it is asked.

Letters: B requests, C candidates, X real candidates of all requests, L objectives.
"""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ifa_ray.config import ModelConfig, TrainingConfig, require
from ifa_ray.data.features import build_batch
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import RankerError
from ifa_ray.metrics import auc, calibration, gauc, log_loss
from ifa_ray.models import RankModel, build_model
from ifa_ray.schema import OBJECTIVES, TrainingSample
from ifa_ray.set_step.lessons import lesson_of
from ifa_ray.set_step.response import SetResponse
from ifa_ray.set_step.traits import ItemTraits
from ifa_ray.training.losses import (
    Importance,
    auxiliary_loss,
    entire_space_log_probs,
    entire_space_loss,
)
from ifa_ray.training.negatives import kept_places, learned_part
from ifa_ray.training.parallel import Ranks
from ifa_ray.training.precision import multiply_towers_in_bfloat16
from ifa_ray.training.rowwise_adagrad import RowwiseAdagrad
from ifa_ray.training.visits import Visits

__all__ = ["BatchResult", "Learner", "LearnerArrays", "StreamMetrics", "batches", "summarise"]

_CLICK = OBJECTIVES.index("is_click")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BatchResult:
    """What a model said of a batch before it learned from it.

    Attributes:
        loss: of the batch, weighted over objectives.
        user_ids_B: int64, who asked.
        sizes_B: int64, candidates of each request.
        log_probs_XL: float32, log p(l|can) of each candidate, request after request.
        labels_XL: uint8.
        seconds: of testing and training together.
        learned_B: int64, candidates of each request that were learned from; None means all.
    """

    loss: float
    user_ids_B: npt.NDArray[np.int64]
    sizes_B: npt.NDArray[np.int64]
    log_probs_XL: npt.NDArray[np.float32]
    labels_XL: npt.NDArray[np.uint8]
    seconds: float
    learned_B: npt.NDArray[np.int64] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamMetrics:
    """Progressive metrics of a stream; by objective, of p(l|can) over whole candidate sets.

    Attributes:
        steps, samples, candidates: how much was tested and learned.
        loss: mean over the steps.
        auc: over all candidates of all requests.
        gauc: mean over the requests that have both classes, each counting once.
        log_loss: mean over candidates, nats.
        calibration: predicted over observed positives.
        seconds: of testing and training. A measurement: all else repeats exactly.
        learned_candidates: of `candidates`; None means all.
        evicted: after the last step, rows of each hashed table; None where none ever are.
    """

    steps: int
    samples: int
    candidates: int
    loss: float | None
    auc: Mapping[str, float | None]
    gauc: Mapping[str, float | None]
    log_loss: Mapping[str, float | None]
    calibration: Mapping[str, float | None]
    seconds: float
    learned_candidates: int | None = None
    evicted: Mapping[str, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """All but the seconds, so that what a resumed run writes has the same bytes."""
        values = dataclasses.asdict(self)
        del values["seconds"]
        for name in ("learned_candidates", "evicted"):
            if values[name] is None:
                del values[name]
        return values


@dataclasses.dataclass(frozen=True, eq=False)
class LearnerArrays:
    """Everything that a learner has learned, as flat dicts of tensors.

    Attributes:
        model: the model's state dict.
        optimizer: `parameter:key` of the optimisers' state, and the visits of rows that may be
            evicted.
        steps: optimiser steps taken.
    """

    model: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    steps: int


class Learner:
    """One model and its optimisers. Equal arguments and samples give bit-equal weights.

    torch's threads are the caller's business; results are compared between runs of equal counts.

    Args:
        model_config: which model.
        training_config: batch size, learning rate, weights of the objectives.
        items: the catalogue.
        seed: of the initial weights.
        clock: seconds, for measurements only.
    """

    def __init__(
        self,
        model_config: ModelConfig,
        training_config: TrainingConfig,
        items: ItemTable,
        seed: int,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._ranks: Ranks | None = None
        self.model_config = model_config
        self.training_config = training_config
        self.items = items
        self.seed = seed
        self.steps = 0
        self.model: RankModel = build_model(model_config, items, seed)
        if training_config.tower_precision == "bfloat16":
            multiply_towers_in_bfloat16(self.model)
        require(training_config.negative_rate == 1 or not self.model.reads_candidates_together,
                "negative_rate", training_config.negative_rate,
                f"1 for {model_config.name}: its candidates read each other (F_cc)")  # fmt: skip
        self._clock = clock
        self._traits = ItemTraits.of(items) if self.model.set_response is not None else None
        rate = training_config.learning_rate
        sparse_rate = training_config.sparse_learning_rate or rate
        # Of a table with millions of rows a batch touches thousands, and dense Adam would update
        # them all. Their gradients are sparse, which torch.optim.Adam refuses.
        sparse, dense = list(self.model.sparse_parameters()), list(self.model.dense_parameters())
        self._optimizers: list[torch.optim.Optimizer] = []
        if sparse and training_config.sparse_optimizer == "adam":
            self._optimizers.append(torch.optim.SparseAdam(sparse, lr=sparse_rate))
        elif sparse:
            self._optimizers.append(RowwiseAdagrad(sparse, lr=sparse_rate))
        if dense:
            self._optimizers.append(torch.optim.Adam(dense, lr=rate))
        evicts = (training_config.evict_after_days, training_config.evict_after_requests)
        self._visits = None if evicts == (None, None) else Visits(self.model, training_config, seed)

    def share(self, ranks: Ranks) -> None:
        """From now on learns its part of each batch, and the ranks take each step together.

        Every rank's learner must be equal to the others', and is given the same whole batches.
        """
        self._ranks = ranks

    def step(self, samples: Sequence[TrainingSample]) -> BatchResult:
        """Tests on one batch, then takes one optimiser step on it.

        Returns:
            What was said of the whole batch, on every rank where there are several.

        Raises:
            RankerError: if the loss is not finite, on all ranks alike; the weights are then as
                before the step.
        """
        started = self._clock()
        self.model.train()
        part = samples if self._ranks is None else self._ranks.part(samples)
        # Where some negatives alone are learned from, all are tested, without a gradient.
        sampled = self.training_config.negative_rate < 1
        with torch.set_grad_enabled(not sampled):
            loss, logits_BCL, mask_BC = self._loss(part)
        value = loss.item()
        log_probs_XL = entire_space_log_probs(logits_BCL.detach())[mask_BC].numpy()
        if self._ranks is not None:
            value, log_probs_XL = self._ranks.gather(samples, value, log_probs_XL)
        if not math.isfinite(value):
            ids = [sample.request.request_id for sample in samples]
            raise RankerError(
                f"loss == {value} of {self.model_config.name} at step {self.steps} on "
                f"requests {ids}, must be finite."
            )
        if sampled:
            loss = self._loss_of_kept(part)
        if self._ranks is not None:
            loss = loss * self._ranks.weight(samples)
        if self.model.set_response is not None:
            self._teach_set_step(self.model.set_response, part, logits_BCL.detach().numpy())
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self._ranks is not None:
            self._ranks.average(self.model.parameters())
        if self._visits is not None:
            self._visits.note(samples)
        for optimizer in self._optimizers:
            optimizer.step()
        self.steps += 1
        return BatchResult(
            loss=value,
            user_ids_B=np.array([s.request.user_id for s in samples], np.int64),
            sizes_B=np.array([len(s.labels_CL) for s in samples], np.int64),
            log_probs_XL=log_probs_XL,
            labels_XL=np.concatenate([s.labels_CL for s in samples]),
            seconds=self._clock() - started,
            learned_B=self._learned(samples) if sampled else None,
        )

    def _loss(
        self, samples: Sequence[TrainingSample], importance: Importance | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The loss of some requests, their logits [B, C, L] and the mask [B, C]."""
        batch = build_batch([s.request for s in samples], self.items, self.model_config)
        outputs = self.model.outputs(batch)
        logits_BCL = outputs.logits_BCL
        labels_BCL, mask_BC = _padded_labels(samples, logits_BCL.shape[1])
        loss, _ = entire_space_loss(
            logits_BCL, labels_BCL, mask_BC, self.training_config.objective_weights, importance
        )
        if outputs.auxiliary_BC is not None:
            clicks_BC = labels_BCL[..., _CLICK]
            loss = loss + auxiliary_loss(outputs.auxiliary_BC, clicks_BC, mask_BC, importance)
        return loss, logits_BCL, mask_BC

    def _loss_of_kept(self, samples: Sequence[TrainingSample]) -> torch.Tensor:
        """An unbiased estimate of the loss, from all positives and some negatives."""
        kept, weights = learned_part(samples, self.training_config.negative_rate, self.seed)
        weights_BC = np.zeros((len(kept), max(len(each) for each in weights)), np.float32)
        for row, weights_C in enumerate(weights):
            weights_BC[row, : len(weights_C)] = weights_C
        candidates = sum(len(sample.labels_CL) for sample in samples)
        return self._loss(kept, Importance(torch.from_numpy(weights_BC), candidates))[0]

    def _learned(self, samples: Sequence[TrainingSample]) -> npt.NDArray[np.int64]:
        """How many candidates of each request count anything, [B]."""
        rate, seed = self.training_config.negative_rate, self.seed
        counts = [np.count_nonzero(kept_places(sample, rate, seed)[1]) for sample in samples]
        return np.array(counts, np.int64)

    def _teach_set_step(
        self,
        response: SetResponse,
        samples: Sequence[TrainingSample],
        logits_BCL: npt.NDArray[np.float32],
    ) -> None:
        """Teaches the set step what was shown in which order.

        The ranker's logits are those from before it learned from the batch.
        """
        assert self._traits is not None
        lessons, logits, labels = [], [], []
        for sample, logits_CL in zip(samples, logits_BCL, strict=True):
            if sample.positions_C is None:
                warnings.warn(
                    "set_step == 'learned', but the log has no positions: the step learns "
                    "nothing from it and changes no slate.",
                    stacklevel=2,
                )
                continue
            lesson = lesson_of(sample, self.items, self._traits)
            lessons.append(lesson)
            logits.append(logits_CL[lesson.places_J, 1:])
            labels.append(sample.labels_CL[lesson.places_J, 1:])
        if lessons:
            response.learn(
                np.concatenate([lesson.controls_JA for lesson in lessons]),
                np.concatenate([lesson.features_JF for lesson in lessons]),
                np.concatenate(logits).astype(np.float64),
                np.concatenate(labels),
            )

    def train(self, samples: Sequence[TrainingSample], tested: int | None = None) -> StreamMetrics:
        """Tests then trains on consecutive batches of the samples, in order.

        The last batch may be short. The predictions of the whole call are kept until its end: 20
        bytes for each candidate.

        Args:
            samples: to learn from.
            tested: the first so many of them make the metrics, all by default. Samples that come a
                second time have been learned from, and must not.
        """
        size = self.training_config.batch_size
        return summarise([self.step(batch) for batch in batches(samples, size)], tested)

    def evict(self) -> dict[str, int] | None:
        """Puts stale rows of the hashed tables back to where they began, at a version's end.

        Returns:
            How many of each table; None where the settings keep all rows.
        """
        return None if self._visits is None else self._visits.evict(self._optimizers)

    def arrays(self, *, copy: bool = True) -> LearnerArrays:
        """Everything learned.

        Args:
            copy: False gives the tensors that the next step changes, to be read before it.
        """

        def taken(value: torch.Tensor) -> torch.Tensor:
            return value.detach().clone() if copy else value.detach()

        optimizer = {
            f"{name}:{key}": taken(torch.as_tensor(value))
            for name, state in self._optimizer_states()
            for key, value in state.items()
        }
        if self._visits is not None:
            optimizer |= {name: taken(value) for name, value in self._visits.tensors().items()}
        model = {name: taken(value) for name, value in self.model.state_dict().items()}
        return LearnerArrays(model=model, optimizer=optimizer, steps=self.steps)

    def load_arrays(self, arrays: LearnerArrays) -> None:
        """Continues from a copy, bit for bit as the learner it was taken from would have.

        Raises:
            KeyError, RuntimeError: if the arrays are of another model.
        """
        self.model.load_state_dict(arrays.model)
        parameters = dict(self.model.named_parameters())
        for optimizer in self._optimizers:
            optimizer.state.clear()
        owners = {
            id(parameter): optimizer
            for optimizer in self._optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        ours = arrays.optimizer
        if self._visits is not None:
            ours = self._visits.load(ours)
        for name_and_key, value in ours.items():
            name, _, key = name_and_key.rpartition(":")
            parameter = parameters[name]
            owner = owners[id(parameter)]
            # SparseAdam counts steps with a Python int and would otherwise count in float32.
            is_count = key == "step" and isinstance(owner, torch.optim.SparseAdam)
            owner.state[parameter][key] = int(value) if is_count else value.clone()
        self.steps = arrays.steps

    def _optimizer_states(self) -> Iterable[tuple[str, dict[str, Any]]]:
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        for optimizer in self._optimizers:
            for parameter, state in optimizer.state.items():
                yield names[id(parameter)], state


def batches(samples: Sequence[TrainingSample], size: int) -> list[Sequence[TrainingSample]]:
    """Consecutive batches of `size` samples; the last may be shorter."""
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def summarise(results: Sequence[BatchResult], tested: int | None = None) -> StreamMetrics:
    """The metrics of consecutive batches, exact, over all of their candidates at once.

    Args:
        results: of the batches.
        tested: the first so many requests make the metrics, all by default; counts are of all.
    """
    sizes = np.concatenate([np.empty(0, np.int64), *(r.sizes_B for r in results)])
    tested_sizes = sizes[:tested]
    X = int(tested_sizes.sum())
    # The place in the stream and not the request id: a stream may hold a request twice.
    groups_X = np.repeat(np.arange(len(tested_sizes)), tested_sizes)
    none = np.empty((0, len(OBJECTIVES)), np.uint8)
    log_probs_XL = np.concatenate([none.astype(np.float32), *(r.log_probs_XL for r in results)])
    labels_XL = np.concatenate([none, *(r.labels_XL for r in results)])
    learned = [r.learned_B for r in results if r.learned_B is not None]
    columns = {name: (log_probs_XL[:X, i], labels_XL[:X, i]) for i, name in enumerate(OBJECTIVES)}
    return StreamMetrics(
        steps=len(results),
        samples=len(sizes),
        candidates=int(sizes.sum()),
        loss=float(np.mean([r.loss for r in results])) if results else None,
        auc={name: auc(p, y) for name, (p, y) in columns.items()},
        gauc={name: gauc(p, y, groups_X) for name, (p, y) in columns.items()},
        log_loss={name: log_loss(p, y) for name, (p, y) in columns.items()},
        calibration={name: calibration(p, y) for name, (p, y) in columns.items()},
        seconds=float(sum(r.seconds for r in results)),
        learned_candidates=sum(int(n.sum()) for n in learned) if learned else None,
    )


def _padded_labels(
    samples: Sequence[TrainingSample], width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels [B, C, L] uint8 and the mask [B, C] of real candidates."""
    labels = np.zeros((len(samples), width, len(OBJECTIVES)), np.uint8)
    mask = np.zeros((len(samples), width), bool)
    for row, sample in enumerate(samples):
        labels[row, : len(sample.labels_CL)] = sample.labels_CL
        mask[row, : len(sample.labels_CL)] = True
    return torch.from_numpy(labels), torch.from_numpy(mask)
