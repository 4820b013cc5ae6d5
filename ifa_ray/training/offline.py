"""Continuous training on a log that is there: test, train, judge, publish, and again.

Knows streams, learners, the gate and the folder; parses no flags and draws on no terminal. The
stream is cut into versions; each is tested on its requests before it learns from them, judged, and
published whole. Whatever happens to the process, the newest version says where to go on.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import safetensors.torch

from ifa_ray.config import Config, ModelConfig, TrainingConfig, require
from ifa_ray.errors import LogError, RankerError
from ifa_ray.schema import OBJECTIVES, TrainingSample
from ifa_ray.training.catalogues import row_hashes
from ifa_ray.training.checkpoint import (
    latest_version,
    load_checkpoint,
    load_file,
    save_checkpoint,
    version_folder,
)
from ifa_ray.training.checkpoint_files import remove_folder
from ifa_ray.training.cursor import Cursor
from ifa_ray.training.gate import (
    GateConfig,
    GateDecision,
    PublicationRefused,
    judge,
    refusal_of_loss,
)
from ifa_ray.training.loop import BatchResult, Learner, batches, summarise
from ifa_ray.training.offline_folder import WINDOWS, OfflineFolder
from ifa_ray.training.offline_output import write_plots
from ifa_ray.training.parallel import Ranks, require_workers
from ifa_ray.training.retention import apply_retention
from ifa_ray.training.sources import SampleStream
from ifa_ray.training.totals import StreamTotals
from ifa_ray.training.trackers import Tracker
from ifa_ray.training.warm_start import first_learner, restore
from ifa_ray.training.windows import Every, day_of, window_rows

__all__ = ["Keep", "Listener", "OfflineSettings", "follow", "train_offline"]

TOTALS, ITEMS = "totals.safetensors", "items.safetensors"
"""Files of a version: sums over the whole stream, and hashes of the catalogue's items."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfflineSettings(Config):
    """What a training is; a resumed one must agree in all of it.

    Attributes:
        data: what `ifa_ray.training.sources.read_stream` reads.
        arm, replicate: of a run.
        num_sampled: drawn candidates, where a log has no candidate sets.
        max_requests: cap on the stream; 0 is none.
        seed: of the weights and of draws.
        publish_every: how the stream is cut into versions: see `Every`.
        metrics_every: how it is cut into rows of metrics.
        threads: of torch; sums in another order are other numbers.
        workers: processes that share each batch, which makes another order too.
        model, training: settings of the learner.
    """

    data: str
    arm: str | None = None
    replicate: int = 0
    num_sampled: int = 99
    max_requests: int = 0
    seed: int = 0
    publish_every: str = "500"
    metrics_every: str = "500"
    threads: int = 1
    workers: int = 1
    model: ModelConfig
    training: TrainingConfig

    def __post_init__(self) -> None:
        Every.parse("publish_every", self.publish_every)
        Every.parse("metrics_every", self.metrics_every)
        for field in ("num_sampled", "threads"):
            require(getattr(self, field) >= 1, field, getattr(self, field), ">= 1")
        for field in ("max_requests", "replicate", "seed"):
            require(getattr(self, field) >= 0, field, getattr(self, field), ">= 0")
        require_workers(self.workers, self.model, self.training)

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values; one worker is left out, as before there could be more."""
        values = super().to_dict()
        if self.workers == 1:
            del values["workers"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Builds the settings, nested ones included, from plain values."""
        nested = {
            "model": ModelConfig.from_dict(values["model"]),
            "training": TrainingConfig.from_dict(values["training"]),
        }
        return super().from_dict({**values, **nested})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keep(Config):
    """Which versions stay on disk: the `last` so many whole, and the last of each day."""

    last: int = 3
    daily: bool = True

    def __post_init__(self) -> None:
        require(self.last >= 1, "keep", self.last, ">= 1")


class Listener(Protocol):
    """Who is told how it goes."""

    def begin(self, first: int, total: int) -> None:
        """So many requests of the stream were learned before, of so many."""

    def learned(self, requests: int) -> None:
        """So many are learned."""

    def published(self, version: int, auc: float | None) -> None:
        """A version passed the gate."""


def train_offline(
    folder: OfflineFolder,
    settings: OfflineSettings,
    stream: SampleStream,
    *,
    gate: GateConfig,
    keep: Keep,
    listener: Listener,
    trackers: Callable[[int], Sequence[Tracker]] = lambda _: (),
    warm_start: Path | None = None,
    allow_added_items: bool = False,
    ranks: Ranks | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Trains from the newest version to the end of the stream.

    Args:
        folder: open and locked.
        settings: of the training; torch's threads are the caller's.
        stream: the log.
        gate: what a version must fulfil.
        keep: which versions stay.
        listener: told how it goes.
        trackers: made when the first row that they get is known, by its number of requests.
        warm_start: a version, of any training, whose weights version 0 begins with.
        allow_added_items: whether versions of a smaller catalogue are gone on from.
        ranks: those that share the learning, of which this is the first; the others `follow`.
        clock: seconds, for measurements.

    Returns:
        The metrics of the whole stream, plain values.

    Raises:
        LogError: if the log is not the one that was learned, or its clock goes back.
        CheckpointError: if a version is damaged, or of another catalogue.
        PublicationRefused: if a version did not pass the gate; earlier ones are untouched.
    """
    newest = latest_version(folder.models)
    rows = folder.recover_rows()
    if newest is None:
        learner = first_learner(settings, stream.items, warm_start, allow_added_items, clock=clock)
        cursor, totals, previous = Cursor(), StreamTotals.empty(), None
    else:
        at = version_folder(folder.models, newest)
        found = load_checkpoint(at, with_optimizer=False)
        cursor, previous = Cursor.of_watermark(found.log_watermark), found.metrics
        totals = StreamTotals.of_tensors(safetensors.torch.load(load_file(at, TOTALS)))
        cursor.check(stream.samples)
        learner = restore(at, stream.items, allow_added_items, clock=clock)
    if ranks is not None:
        for number in (-1 if newest is None else newest, cursor.requests, _digest(stream.samples)):
            ranks.of_first(number)
        learner.share(ranks)
    listener.begin(cursor.requests, len(stream.samples))
    shown = [row for row in rows if row["version"] == newest]
    sinks = trackers(shown[0]["requests_so_far"] if shown else cursor.requests + 1)
    _each(sinks, shown)
    times_ms = _times_ms(stream.samples)
    every = Every.parse("publish_every", settings.publish_every)
    trainer = _Trainer(folder, settings, learner, totals, gate, listener)
    version = -1 if newest is None else newest
    days = {v: day_of(row["last_ms"]) for row in rows if (v := row["version"]) >= 0}
    apply_retention(folder.models, days, keep.last, keep.daily)
    for start, stop in every.pieces(times_ms, cursor.requests):
        version += 1
        samples = stream.samples[start:stop]
        cursor = cursor.after(samples)
        added, previous = trainer.publish(
            version, samples, times_ms[start:stop], start, cursor, previous
        )
        folder.append_rows(added)
        rows += added
        days[version] = day_of(cursor.last_ms)
        apply_retention(folder.models, days, keep.last, keep.daily)
        write_plots(folder.root, rows)
        _each(sinks, added)
    write_plots(folder.root, rows)
    for sink in sinks:
        sink.close()
    return totals.metrics()


def follow(
    folder: OfflineFolder,
    settings: OfflineSettings,
    stream: SampleStream,
    ranks: Ranks,
    *,
    warm_start: Path | None = None,
    allow_added_items: bool = False,
) -> None:
    """Learns along with `train_offline` as one of the other ranks, and writes nothing.

    Raises:
        LogError: if the log is not the one that the first rank has read.
        RankerError: if a loss is not finite; the first rank says what comes of it.
    """
    # The first of them comes when the first rank has found where to begin.
    newest, start, digest = (ranks.of_first(0) for _ in range(3))
    if digest != _digest(stream.samples):
        raise LogError("the log changed while the workers read it; run the command again.")
    if newest < 0:
        learner = first_learner(settings, stream.items, warm_start, allow_added_items)
    else:
        learner = restore(version_folder(folder.models, newest), stream.items, allow_added_items)
    learner.share(ranks)
    every = Every.parse("publish_every", settings.publish_every)
    for low, high in every.pieces(_times_ms(stream.samples), start):
        for batch in batches(stream.samples[low:high], settings.training.batch_size):
            learner.step(batch)
        learner.evict()


def _times_ms(samples: Sequence[TrainingSample]) -> npt.NDArray[np.int64]:
    """When the requests were asked, [S].

    What was asked at 23:59 may be logged after what was asked at 00:01; a piece ends only once.
    """
    return np.maximum.accumulate(np.array([each.request.time_ms for each in samples], np.int64))


def _digest(samples: Sequence[TrainingSample]) -> int:
    """A number of 60 bits that tells two streams apart."""
    return int(Cursor().after(samples).digest[:15], 16)


class _Trainer:
    """What makes one version after the other."""

    def __init__(
        self,
        folder: OfflineFolder,
        settings: OfflineSettings,
        learner: Learner,
        totals: StreamTotals,
        gate: GateConfig,
        listener: Listener,
    ) -> None:
        self._folder, self._settings, self._listener = folder, settings, listener
        self._learner, self._totals, self._gate = learner, totals, gate
        self._windows = Every.parse("metrics_every", settings.metrics_every)
        self._items_file = safetensors.torch.save(row_hashes(learner.items))

    def publish(
        self,
        version: int,
        samples: Sequence[TrainingSample],
        times_ms: npt.NDArray[np.int64],
        start: int,
        cursor: Cursor,
        previous: Mapping[str, Any] | None,
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Tests, trains, judges and publishes; returns the rows and metrics of the version."""
        results: list[BatchResult] = []
        try:
            for batch in batches(samples, self._settings.training.batch_size):
                results.append(self._learner.step(batch))
                self._totals.add(results[-1])
                self._listener.learned(start + sum(len(r.sizes_B) for r in results))
        except RankerError as error:
            decision = refusal_of_loss(self._gate, version, error)
            self._refuse(decision, None, cursor)
        evicted = self._learner.evict()
        metrics = dataclasses.replace(summarise(results), evicted=evicted)
        rows = window_rows(results, times_ms, start, self._windows, version)
        if evicted is not None:
            rows[-1]["evicted"] = evicted
        place = OBJECTIVES.index(self._gate.objective)
        positives = sum(int(r.labels_XL[:, place].sum()) for r in results)
        values = metrics.to_dict()
        decision = judge(
            self._gate, version, self._learner.arrays(copy=False), values, previous, positives
        )
        if not decision.passed:
            self._refuse(decision, values, cursor)
        self._folder.write_gate(version, decision.to_dict())
        self._folder.append_timing({"version": version, "seconds": metrics.seconds})
        self._save(self._folder.models, version, values, cursor, rows)
        self._listener.published(version, decision.auc)
        return rows, values

    def _refuse(
        self, decision: GateDecision, metrics: dict[str, Any] | None, cursor: Cursor
    ) -> None:
        """Records a refusal, keeps the version apart, and stops."""
        self._folder.write_gate(decision.version, decision.to_dict())
        if metrics is not None:
            # The newest refusal alone: it is for looking at.
            remove_folder(self._folder.refused)
            self._save(self._folder.refused, decision.version, metrics, cursor, [])
        kept = latest_version(self._folder.models)
        good = "no version is published" if kept is None else f"version {kept} stays the newest"
        raise PublicationRefused(
            f"version {decision.version} is not published: {'; '.join(decision.reasons)}. {good}."
        )

    def _save(
        self,
        root: Path,
        version: int,
        metrics: dict[str, Any],
        cursor: Cursor,
        rows: Sequence[Mapping[str, Any]],
    ) -> None:
        save_checkpoint(
            version_folder(root, version),
            self._learner,
            version=version,
            log_watermark=cursor.to_dict(),
            metrics=metrics,
            files={
                WINDOWS: OfflineFolder.encode(rows),
                TOTALS: safetensors.torch.save(self._totals.tensors()),
                ITEMS: self._items_file,
            },
        )


def _each(sinks: Sequence[Tracker], rows: Sequence[Mapping[str, Any]]) -> None:
    for sink in sinks:
        sink.rows(rows)
