"""Which rows of the hashed tables were learned from when, and which have gone stale.

Knows tables, their gradients and a clock; nothing of files. An id that is gone leaves a row that
still has its opinion, and the next id which hashes to it would begin with that. So a row that
nothing has learned from for a stated span goes back to where a new model of the same seed has it,
and its optimiser state with it. Who learns says when; the clock is the log's, never the machine's,
so a resumed training evicts what an undisturbed one would have.

A row is visited when a batch that is learned from looks it up: as a candidate, as a behaviour that
the model reads, or as the user who asks. Row 0 of items and authors stands for all ids in no
catalogue, and stays.

Letters: R rows of a table, V visited rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ifa_ray.config import ModelConfig, TrainingConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.models import RankModel
from ifa_ray.models.layers import Table, starting_weight
from ifa_ray.schema import TrainingSample

__all__ = ["Visits", "naive_visits"]

TABLES = {"items.id": ("item", 1), "items.author": ("author", 1), "user.user": ("user", 0)}
"""What the rows of each hashed table stand for, and the first row that can go stale."""

NEVER = -1
_CLOCK, _VISITED = "visits:clock", ".weight:visited"
_DAY_MS = 86_400_000


class Visits:
    """The last visit of each row, by the clock of a training's settings.

    The clock stands at 0 before the first request; it counts requests, or the milliseconds since
    the first one was asked, and never goes back.

    Args:
        model: whose hashed tables are watched.
        config: with `evict_after_days` or `evict_after_requests`.
        seed: of the model's initial weights.
    """

    def __init__(self, model: RankModel, config: TrainingConfig, seed: int) -> None:
        self._seed, self._days = seed, config.evict_after_days is not None
        if config.evict_after_days is not None:
            self._span = round(config.evict_after_days * _DAY_MS)
        else:
            assert config.evict_after_requests is not None
            self._span = config.evict_after_requests
        self._tables: dict[str, Table] = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, Table) and module.sparse
        }
        assert self._tables.keys() <= TABLES.keys(), self._tables.keys()
        self._now, self._first_ms = 0, 0
        self._begun = False
        self._last = {
            name: torch.full((table.num_embeddings,), NEVER, dtype=torch.int64)
            for name, table in self._tables.items()
        }

    def note(self, samples: Sequence[TrainingSample]) -> None:
        """Notes what a batch has read, while its gradients, averaged over ranks, are there.

        O(V log V) a batch. All ranks are given the same whole batch.
        """
        self._now, self._first_ms = _later(
            self._now, self._first_ms, self._begun, samples, self._days
        )
        self._begun = True
        for name, table in self._tables.items():
            if table.weight.grad is not None:
                # Coalesced once, here: the optimiser then finds it so.
                table.weight.grad = table.weight.grad.coalesce()
                self._last[name][table.weight.grad.indices()[0]] = self._now

    def evict(self, optimizers: Iterable[torch.optim.Optimizer]) -> dict[str, int]:
        """Puts stale rows back to where they began, with their state; counts them by table.

        O(R) a call, and the starting values of a table are drawn again where a row of it is stale.
        """
        states = {
            id(parameter): state
            for optimizer in optimizers
            for parameter, state in optimizer.state.items()
        }
        counts = {}
        for name, table in self._tables.items():
            what, first = TABLES[name]
            last_R = self._last[name]
            stale_R = (last_R != NEVER) & (self._now - last_R >= self._span)
            stale_R[:first] = False
            counts[what] = int(stale_R.sum())
            if counts[what]:
                _restart(table, stale_R, starting_weight(table, self._seed, name))
                _forget(states.get(id(table.weight), {}), stale_R)
                last_R[stale_R] = NEVER
        return counts

    def tensors(self) -> dict[str, torch.Tensor]:
        """The clock and the visits by name, themselves and no copies; a checkpoint keeps them."""
        clock = torch.tensor([self._now, self._first_ms, int(self._begun)])
        return {_CLOCK: clock, **{name + _VISITED: last_R for name, last_R in self._last.items()}}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Continues from what `tensors` gave; returns those of the tensors that are not its own.

        Where there is no clock, the weights are another training's: all rows then count as visited
        when this one begins.

        Raises:
            KeyError, RuntimeError: if the tensors are of other tables.
        """
        rest = dict(tensors)
        clock = rest.pop(_CLOCK, None)
        for name, last_R in self._last.items():
            if clock is None:
                last_R.zero_()
            else:
                last_R.copy_(rest.pop(name + _VISITED))
        if clock is not None:
            self._now, self._first_ms, begun = map(int, clock)
            self._begun = bool(begun)
        return rest


def naive_visits(
    batches: Sequence[Sequence[TrainingSample]],
    items: ItemTable,
    config: ModelConfig,
    training: TrainingConfig,
    history_reads: int,
) -> tuple[int, dict[str, dict[int, int]]]:
    """The same by the words of the rule, one id at a time.

    Args:
        batches: learned one after the other.
        items: the catalogue.
        config: gives the tables' rows.
        training: gives the clock.
        history_reads: how many of the latest behaviours the model looks at.

    Returns:
        The clock after the last batch, and of each table the last visit of each visited row.
    """
    author_of = dict(zip(items.video_id_N.tolist(), items.author_id_N.tolist(), strict=True))
    last: dict[str, dict[int, int]] = {name: {} for name in TABLES}
    now, first_ms = 0, 0
    for number, batch in enumerate(batches):
        now, first_ms = _later(
            now, first_ms, number > 0, batch, training.evict_after_days is not None
        )
        for sample in batch:
            request = sample.request
            last["user.user"][request.user_id % config.user_buckets] = now
            behaviours = request.history.ids_T[-min(history_reads, config.max_history) :]
            for video_id in [*request.candidates_C.tolist(), *behaviours.tolist()]:
                if video_id in author_of:
                    last["items.id"][1 + video_id % config.id_buckets] = now
                    author_row = 1 + author_of[video_id] % config.author_buckets
                    last["items.author"][author_row] = now
    return now, last


def _later(
    now: int, first_ms: int, begun: bool, samples: Sequence[TrainingSample], days: bool
) -> tuple[int, int]:
    """The clock after a batch, and when the first request was asked."""
    if not days:
        return now + len(samples), first_ms
    times_ms = [sample.request.time_ms for sample in samples]
    first_ms = first_ms if begun else times_ms[0]
    # A log's clock may go back a little; this one does not.
    return max(now, max(times_ms) - first_ms), first_ms


@torch.no_grad()
def _restart(table: nn.Embedding, stale_R: torch.Tensor, start_RD: torch.Tensor) -> None:
    table.weight[stale_R] = start_RD[stale_R]


def _forget(state: Mapping[str, Any], stale_R: torch.Tensor) -> None:
    """Zeroes the stale rows of what an optimiser keeps by row; a count of steps is the table's."""
    for value in state.values():
        if isinstance(value, torch.Tensor) and value.ndim and len(value) == len(stale_R):
            value[stale_R] = 0
