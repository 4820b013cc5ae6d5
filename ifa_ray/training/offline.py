"""Continuous training on a log that is there: predict, learn, judge, publish, and again.

Knows streams, the driver and the folder; parses no flags and draws on no terminal. The stream is
cut into versions; each is predicted before it is learned from, judged, and published whole.
Whatever happens to the process, the newest version says where to go on.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch

from ifa_ray.checkpoints.format import (
    latest_version,
    load_file,
    read_record,
    save_checkpoint,
    version_folder,
)
from ifa_ray.config import Config, ModelConfig, TrainingConfig, setting
from ifa_ray.progress import TrainingProgress
from ifa_ray.training.driver import GateConfig, learn_version
from ifa_ray.training.learner import BatchResult, Learner
from ifa_ray.training.offline_folder import (
    WINDOWS,
    Cursor,
    OfflineFolder,
    apply_retention,
    json_lines,
)
from ifa_ray.training.progressive import Every, StreamTotals, window_rows
from ifa_ray.training.sources import SampleStream
from ifa_ray.training.versions import ITEMS, load_learner, row_hashes, warm_started

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


def train_offline(
    folder: OfflineFolder,
    settings: OfflineSettings,
    stream: SampleStream,
    *,
    gate: GateConfig,
    keep: Keep,
    listener: TrainingProgress,
    warm_start: Path | None = None,
    allow_added_items: bool = False,
) -> dict[str, Any]:
    """Trains from the newest version to the end of the stream; returns metrics of all of it.

    The folder is open and locked; torch's threads are the caller's. Version 0 begins with the
    weights of `warm_start`, a version of any training.

    Raises:
        LogError: if the log is not the one that was learned, or its clock goes back.
        CheckpointError: if a version is damaged, or of another catalogue.
        PublicationRefused: if a version did not pass the gate; earlier ones are untouched.
    """
    newest, rows = latest_version(folder.models), folder.recover_rows()
    cursor, totals, previous = Cursor(), StreamTotals(), None
    model, training, items = settings.model, settings.training, stream.items
    if newest is not None:
        at = version_folder(folder.models, newest)
        record = read_record(at)
        cursor, previous = Cursor(**record["log_watermark"]), record["metrics"]
        totals = StreamTotals(safetensors.torch.load(load_file(at, TOTALS)))
        cursor.check(stream.samples)
        learner = load_learner(at, items, allow_added_items=allow_added_items)
    elif warm_start is not None:
        learner = warm_started(warm_start, model, training, items, settings.seed, allow_added_items)
    else:
        learner = Learner(model, training, items, settings.seed)
    listener.begin(cursor.requests, len(stream.samples))
    learned = cursor.requests

    def on_batch(result: BatchResult) -> None:
        nonlocal learned
        learned += len(result.sizes_B)
        totals.add(result)
        listener.learned(learned)

    hashes = safetensors.torch.save(row_hashes(items))
    # What was asked at 23:59 may be logged after what was asked at 00:01; a piece ends only once.
    times_ms = np.maximum.accumulate([each.request.time_ms for each in stream.samples])
    every = Every.parse("publish_every", settings.publish_every)
    windows = Every.parse("metrics_every", settings.metrics_every)
    version = -1 if newest is None else newest
    apply_retention(folder.models, rows, keep.keep, keep.daily)
    for start, stop in every.pieces(times_ms, cursor.requests):
        version += 1
        samples = stream.samples[start:stop]
        cursor = cursor.after(samples)
        places = folder.models, folder.gate(version)
        results, metrics, decision = learn_version(
            learner, samples, version, gate, previous, *places, on_batch=on_batch
        )
        previous = metrics.to_dict()
        added = window_rows(results, times_ms[start:stop], start, windows, version)
        with (folder.root / "timings.jsonl").open("ab") as file:
            file.write(json_lines([{"version": version, "seconds": metrics.seconds}]))
        save_checkpoint(
            version_folder(folder.models, version),
            learner,
            version=version,
            log_watermark=dataclasses.asdict(cursor),
            metrics=previous,
            files={
                WINDOWS: json_lines(added),
                TOTALS: safetensors.torch.save(totals.tensors()),
                ITEMS: hashes,
            },
        )
        listener.published(version, decision.auc)
        rows += added
        folder.write_rows(rows)
        apply_retention(folder.models, rows, keep.keep, keep.daily)
    return totals.metrics()
