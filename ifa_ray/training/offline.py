"""Continuous training on a log that is there: predict, learn, judge, publish, and again.

Knows streams, the driver and the folder; parses no flags and draws on no terminal. The stream is
cut into versions; each is predicted before it is learned from, judged, and published whole.
Whatever happens to the process, the newest version says where to go on.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import safetensors.torch

from ifa_ray.checkpoints.files import remove_folder
from ifa_ray.checkpoints.format import (
    latest_version,
    load_checkpoint,
    load_file,
    save_checkpoint,
    version_folder,
)
from ifa_ray.config import Config, ModelConfig, TrainingConfig, setting
from ifa_ray.schema import TrainingSample
from ifa_ray.training.driver import learn_version, refusal_text
from ifa_ray.training.gate import GateConfig, GateDecision, PublicationRefused
from ifa_ray.training.learner import BatchResult, Learner
from ifa_ray.training.offline_folder import (
    WINDOWS,
    Cursor,
    OfflineFolder,
    apply_retention,
    write_plots,
)
from ifa_ray.training.progressive import Every, StreamTotals, day_of, window_rows
from ifa_ray.training.restore import ITEMS, restore, row_hashes, warm_started
from ifa_ray.training.sources import SampleStream

TOTALS = "totals.safetensors"
"""The file of a version that holds sums over the whole stream."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfflineSettings(Config):
    """One training; a resumed one must agree in all of it."""

    data: str = setting(
        doc="folder of MovieLens, KuaiRand, EB-NeRD (one split), a run or a warm-up log; or "
        "DIR=module:function, an adapter"
    )
    arm: str | None = setting(
        None, "of a run with several: whose log to learn from; warmup is what all share"
    )
    replicate: int = setting(0, "of a run", ge=0)
    num_sampled: int = setting(
        99, "candidates drawn beside the shown ones, where a log has no candidate sets", ge=1
    )
    max_requests: int = setting(0, "of the stream; 0 for all of it", ge=0)
    seed: int = setting(0, "of the weights and of drawn candidates", ge=0)
    publish_every: str = setting("500", "a version for each hour, day or N requests")
    metrics_every: str = setting("500", "a line of metrics.jsonl for each hour, day or N requests")
    threads: int = setting(1, "of torch; compare runs of equal numbers only", ge=1)
    model: ModelConfig = setting(ModelConfig(name="ifa_plus"))
    training: TrainingConfig = setting(TrainingConfig())

    def check(self) -> None:
        """Checks how the stream is cut."""
        Every.parse("publish_every", self.publish_every)
        Every.parse("metrics_every", self.metrics_every)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keep(Config):
    """The versions that stay on disk: the last few whole, and the last of each day."""

    keep: int = setting(3, "versions that stay whole", ge=1)
    daily: bool = setting(True, "the last version of every day stays too, its weights alone")


class Listener(Protocol):
    """Told how it goes."""

    def begin(self, first: int, total: int) -> None:
        """`first` of `total` requests of the stream were learned before."""

    def learned(self, requests: int) -> None:
        """`requests` are learned."""

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
    warm_start: Path | None = None,
    allow_added_items: bool = False,
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
        warm_start: a version, of any training, whose weights version 0 begins with.
        allow_added_items: whether versions of a smaller catalogue are gone on from.
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
    cursor, totals, previous = Cursor(), StreamTotals.empty(), None
    if newest is not None:
        at = version_folder(folder.models, newest)
        found = load_checkpoint(at, with_optimizer=False)
        cursor, previous = Cursor.of_watermark(found.log_watermark), found.metrics
        totals = StreamTotals.of_tensors(safetensors.torch.load(load_file(at, TOTALS)))
        cursor.check(stream.samples)
        learner = restore(at, stream.items, allow_added_items, clock=clock)
    elif warm_start is not None:
        learner = warm_started(
            warm_start, settings.model, settings.training, stream.items, settings.seed,
            allow_added_items,
        )  # fmt: skip
    else:
        learner = Learner(
            settings.model, settings.training, stream.items, settings.seed, clock=clock
        )
    listener.begin(cursor.requests, len(stream.samples))
    times_ms = _times_ms(stream.samples)
    every = Every.parse("publish_every", settings.publish_every)
    publisher = _Publisher(folder, settings, learner, totals, gate, listener)
    version = -1 if newest is None else newest
    days = {v: day_of(row["last_ms"]) for row in rows if (v := row["version"]) >= 0}
    apply_retention(folder.models, days, keep.keep, keep.daily)
    for start, stop in every.pieces(times_ms, cursor.requests):
        version += 1
        samples = stream.samples[start:stop]
        cursor = cursor.after(samples)
        added, previous = publisher.publish(
            version, samples, times_ms[start:stop], start, cursor, previous
        )
        folder.append_rows(added)
        rows += added
        days[version] = day_of(cursor.last_ms)
        apply_retention(folder.models, days, keep.keep, keep.daily)
        write_plots(folder.root, rows)
    write_plots(folder.root, rows)
    return totals.metrics()


def _times_ms(samples: Sequence[TrainingSample]) -> npt.NDArray[np.int64]:
    """When the requests were asked, [S].

    What was asked at 23:59 may be logged after what was asked at 00:01; a piece ends only once.
    """
    return np.maximum.accumulate(np.array([each.request.time_ms for each in samples], np.int64))


class _Publisher:
    """Makes one version after the other."""

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
        """Learns, judges and publishes; returns the rows and metrics of the version."""
        learned_so_far = start

        def on_batch(result: BatchResult) -> None:
            nonlocal learned_so_far
            learned_so_far += len(result.sizes_B)
            self._totals.add(result)
            self._listener.learned(learned_so_far)

        learned = learn_version(
            self._learner, samples, version, self._gate, previous, on_batch=on_batch
        )
        metrics, decision = learned.metrics, learned.decision
        values = None if metrics is None else metrics.to_dict()
        self._folder.write_gate(version, decision.to_dict())
        if values is None or not decision.passed:
            self._refuse(decision, values, cursor)
        assert metrics is not None
        assert values is not None
        rows = window_rows(learned.results, times_ms, start, self._windows, version)
        self._folder.append_timing({"version": version, "seconds": metrics.seconds})
        self._save(self._folder.models, version, values, cursor, rows)
        self._listener.published(version, decision.auc)
        return rows, values

    def _refuse(
        self, decision: GateDecision, metrics: dict[str, Any] | None, cursor: Cursor
    ) -> None:
        """Keeps a refused version apart, and stops."""
        if metrics is not None:
            # The newest refusal alone: it is for looking at.
            remove_folder(self._folder.refused)
            self._save(self._folder.refused, decision.version, metrics, cursor, [])
        raise PublicationRefused(refusal_text(decision, latest_version(self._folder.models)))

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
