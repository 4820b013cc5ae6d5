"""Prequential learning of one model: a batch is predicted before it is learned from (section 5.1).

Plain torch, one process. Knows the model, the features and the loss; knows nothing of files, days
or Ray.

Letters: B requests, C candidates, X real candidates of all requests, L objectives.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ifa_ray.checkpoints.format import LearnerArrays
from ifa_ray.config import ModelConfig, TrainingConfig, require
from ifa_ray.data.features import build_batch
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import RankerError
from ifa_ray.metrics import auc, calibration, gauc, log_loss
from ifa_ray.models import build_model
from ifa_ray.models.base import RankModel
from ifa_ray.reranking.response import Teacher
from ifa_ray.schema import OBJECTIVES, TrainingSample
from ifa_ray.training.losses import (
    Importance,
    NegativeSampler,
    auxiliary_loss,
    entire_space_log_probs,
    entire_space_loss,
)

_CLICK = OBJECTIVES.index("is_click")
ByObjective = Mapping[str, float | None]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BatchResult:
    """The predictions for a batch, made before it was learned from.

    Attributes:
        loss: of the batch, weighted over objectives.
        sizes_B: int64, candidates of each request.
        log_probs_XL: float32, log p(l|can) of each candidate, request after request.
        labels_XL: uint8.
        seconds: of testing and training together.
        learned_B: int64, candidates of each request that were learned from; None means all.
    """

    loss: float
    sizes_B: npt.NDArray[np.int64]
    log_probs_XL: npt.NDArray[np.float32]
    labels_XL: npt.NDArray[np.uint8]
    seconds: float
    learned_B: npt.NDArray[np.int64] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamMetrics:
    """Progressive metrics of a stream; by objective, of p(l|can) over whole candidate sets.

    Attributes:
        loss: mean over the steps.
        gauc: mean over the requests that have both classes, each counting once.
        log_loss: mean over candidates, nats.
        calibration: predicted over observed positives.
        seconds: of testing and training. A measurement: all else repeats exactly.
        learned_candidates: of `candidates`; None means all.
    """

    steps: int
    samples: int
    candidates: int
    loss: float | None
    auc: ByObjective
    gauc: ByObjective
    log_loss: ByObjective
    calibration: ByObjective
    seconds: float
    learned_candidates: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """All but the seconds, so that what a resumed run writes has the same bytes."""
        values = dataclasses.asdict(self)
        del values["seconds"]
        if self.learned_candidates is None:
            del values["learned_candidates"]
        return values


class Learner:
    """One model and its optimisers. Equal arguments and samples give bit-equal weights.

    torch's threads are the caller's business; results are compared between runs of equal counts.
    The clock, in seconds, is for measurements only.
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
        self.model_config, self.training_config = model_config, training_config
        self.items, self.seed, self.steps, self._clock = items, seed, 0, clock
        self.model: RankModel = build_model(model_config, items, seed)
        rate = training_config.negative_rate
        rule = f"1 for {model_config.name}: its candidates attend to each other (F_cc)"
        require(rate == 1 or not self.model.reads_candidates_together, "negative_rate", rate, rule)
        self._sampler = NegativeSampler(rate, seed) if rate < 1 else None
        response = self.model.set_response
        self._teacher = None if response is None else Teacher(response, items)
        # Of a table with millions of rows a batch touches thousands, and dense Adam would update
        # them all. Their gradients are sparse, which torch.optim.Adam refuses.
        sparse, dense = list(self.model.sparse_parameters()), list(self.model.dense_parameters())
        self._optimizers: list[torch.optim.Optimizer] = []
        if sparse:
            kinds = {"adam": torch.optim.SparseAdam, "rowwise_adagrad": RowwiseAdagrad}
            sparse_rate = training_config.sparse_learning_rate or training_config.learning_rate
            made = kinds[training_config.sparse_optimizer](sparse, lr=sparse_rate)
            self._optimizers.append(made)
        if dense:
            self._optimizers.append(torch.optim.Adam(dense, lr=training_config.learning_rate))

    def step(self, samples: Sequence[TrainingSample]) -> BatchResult:
        """Predicts one batch, then takes one optimiser step on it.

        Raises:
            RankerError: if the loss is not finite; the weights are then as before the step.
        """
        started = self._clock()
        self.model.train()
        # Where some candidates alone are learned from, all are predicted, without a gradient.
        with torch.set_grad_enabled(self._sampler is None):
            loss, logits_BCL, mask_BC = self._loss(samples)
        tested_loss, learned_B = loss.item(), None
        if not math.isfinite(tested_loss):
            ids = [sample.request.request_id for sample in samples]
            raise RankerError(
                f"loss == {tested_loss} of {self.model_config.name} at step {self.steps} on "
                f"requests {ids}, must be finite."
            )
        if self._sampler is not None:
            kept, importance = self._sampler(samples)
            loss = self._loss(kept, importance)[0]
            learned_B = importance.weights_BC.count_nonzero(dim=1).numpy()
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in self._optimizers:
            optimizer.step()
        self.steps += 1
        if self._teacher is not None:
            self._teacher(samples, logits_BCL.detach().numpy())
        return BatchResult(
            loss=tested_loss,
            sizes_B=np.array([len(s.labels_CL) for s in samples], np.int64),
            log_probs_XL=entire_space_log_probs(logits_BCL.detach())[mask_BC].numpy(),
            labels_XL=np.concatenate([s.labels_CL for s in samples]),
            seconds=self._clock() - started,
            learned_B=learned_B,
        )

    def _loss(
        self, samples: Sequence[TrainingSample], importance: Importance | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The loss of some requests, their logits [B, C, L] and the mask [B, C]."""
        outputs = self.model(
            build_batch([s.request for s in samples], self.items, self.model_config)
        )
        logits_BCL = outputs.logits_BCL
        labels_BCL = torch.zeros(logits_BCL.shape, dtype=torch.uint8)
        mask_BC = torch.zeros(logits_BCL.shape[:2], dtype=torch.bool)
        for row, sample in enumerate(samples):
            labels_BCL[row, : len(sample.labels_CL)] = torch.from_numpy(sample.labels_CL)
            mask_BC[row, : len(sample.labels_CL)] = True
        loss, _ = entire_space_loss(
            logits_BCL, labels_BCL, mask_BC, self.training_config.objective_weights, importance
        )
        if outputs.auxiliary_BC is not None:
            clicks_BC = labels_BCL[..., _CLICK]
            loss = loss + auxiliary_loss(outputs.auxiliary_BC, clicks_BC, mask_BC, importance)
        return loss, logits_BCL, mask_BC

    def train(self, samples: Sequence[TrainingSample], tested: int | None = None) -> StreamMetrics:
        """Predicts then learns consecutive batches, in order; `tested` is `summarise`'s."""
        size = self.training_config.batch_size
        return summarise([self.step(batch) for batch in batches(samples, size)], tested)

    def arrays(self, *, copy: bool = True) -> LearnerArrays:
        """Everything learned; without a copy, the tensors that the next step changes."""

        def taken(value: torch.Tensor) -> torch.Tensor:
            return value.detach().clone() if copy else value.detach()

        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        optimizer = {
            f"{names[id(parameter)]}:{key}": taken(torch.as_tensor(value))
            for each in self._optimizers
            for parameter, state in each.state.items()
            for key, value in state.items()
        }
        model = {name: taken(value) for name, value in self.model.state_dict().items()}
        return LearnerArrays(model=model, optimizer=optimizer, steps=self.steps)

    def load_arrays(self, arrays: LearnerArrays) -> None:
        """Continues from a copy, bit for bit as the learner it was taken from would have."""
        self.model.load_state_dict(arrays.model)
        parameters = dict(self.model.named_parameters())
        owners: dict[int, torch.optim.Optimizer] = {}
        for optimizer in self._optimizers:
            optimizer.state.clear()
            for group in optimizer.param_groups:
                owners |= {id(parameter): optimizer for parameter in group["params"]}
        for name_and_key, value in arrays.optimizer.items():
            name, _, key = name_and_key.rpartition(":")
            owner = owners[id(parameters[name])]
            # SparseAdam counts steps with a Python int and would otherwise count in float32.
            is_count = key == "step" and isinstance(owner, torch.optim.SparseAdam)
            owner.state[parameters[name]][key] = int(value) if is_count else value.clone()
        self.steps = arrays.steps


def batches(samples: Sequence[TrainingSample], size: int) -> list[Sequence[TrainingSample]]:
    """Consecutive batches of `size` samples; the last may be shorter."""
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def summarise(results: Sequence[BatchResult], tested: int | None = None) -> StreamMetrics:
    """The metrics of consecutive batches, exact, over all of their candidates at once.

    The first `tested` requests make them, all by default: samples that come a second time have
    been learned from, and test nothing. Counts are of all.
    """
    sizes_B, log_probs_XL, labels_XL = joined(results)
    X = int(sizes_B[:tested].sum())
    learned = [int(r.learned_B.sum()) for r in results if r.learned_B is not None]
    return StreamMetrics(
        steps=len(results),
        samples=len(sizes_B),
        candidates=int(sizes_B.sum()),
        loss=float(np.mean([r.loss for r in results])) if results else None,
        **quality(sizes_B[:tested], log_probs_XL[:X], labels_XL[:X]),
        seconds=float(sum(r.seconds for r in results)),
        learned_candidates=sum(learned) if learned else None,
    )


def joined(
    results: Sequence[BatchResult],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Sizes of all requests, and log probabilities and labels of all of their candidates."""
    none_XL = np.empty((0, len(OBJECTIVES)), np.uint8)
    return (
        np.concatenate([np.empty(0, np.int64), *(r.sizes_B for r in results)]),
        np.concatenate([none_XL.astype(np.float32), *(r.log_probs_XL for r in results)]),
        np.concatenate([none_XL, *(r.labels_XL for r in results)]),
    )


def quality(
    sizes_B: npt.NDArray[np.int64],
    log_probs_XL: npt.NDArray[np.float32],
    labels_XL: npt.NDArray[np.uint8],
) -> dict[str, ByObjective]:
    """The four metrics of `StreamMetrics`, over the candidates of B requests."""
    # The place in the stream and not the request id: a stream may hold a request twice.
    groups_X = np.repeat(np.arange(len(sizes_B)), sizes_B)
    columns = {name: (log_probs_XL[:, i], labels_XL[:, i]) for i, name in enumerate(OBJECTIVES)}
    return {
        "auc": {name: auc(p, y) for name, (p, y) in columns.items()},
        "gauc": {name: gauc(p, y, groups_X) for name, (p, y) in columns.items()},
        "log_loss": {name: log_loss(p, y) for name, (p, y) in columns.items()},
        "calibration": {name: calibration(p, y) for name, (p, y) in columns.items()},
    }


class RowwiseAdagrad(torch.optim.Optimizer):
    """A row's step is lr / sqrt(sum over its visits of its gradient's mean square).

    Of tables [R, D] with sparse gradients; O(V D) a step of V visited rows, whatever R is. Adam
    keeps two numbers for each weight and moves a row for as long as its momentum lasts; here a row
    keeps one number, so a table of a hundred million ids at D = 64 has 0.4 GB of state instead of
    51 GB (Mudigere et al., "Software-hardware co-design for fast and scalable training of deep
    learning recommendation models", ISCA 2022).
    """

    def __init__(self, params: Iterable[torch.nn.Parameter], lr: float, eps: float = 1e-8) -> None:
        super().__init__(params, {"lr": lr, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step with the gradients that are there."""
        assert closure is None
        for group in self.param_groups:
            for table_RD in group["params"]:
                if table_RD.grad is None:
                    continue
                state = self.state[table_RD]
                if not state:
                    state["sum"] = table_RD.new_zeros(len(table_RD))
                # Coalesced, a row occurs once, so that the order of additions is fixed.
                grad = table_RD.grad.coalesce()
                rows_V, grad_VD = grad.indices()[0], grad.values()
                sum_V = state["sum"][rows_V] + grad_VD.square().mean(dim=1)
                state["sum"][rows_V] = sum_V
                step_VD = grad_VD / (sum_V.sqrt() + group["eps"])[:, None]
                table_RD.index_add_(0, rows_V, step_VD, alpha=-group["lr"])
