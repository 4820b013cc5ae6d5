"""An arm's R models learning from a run's log as it is committed: plain torch, one process.

Knows the run folder and the learner, not Ray: `ifa_ray.training.trainer` puts it on a cluster. The
state is the newest checkpoint of each replicate, and a checkpoint is written whole, so a process
that is killed anywhere starts again from what is on disk and publishes the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ifa_ray.checkpoints.format import (
    drop_optimizer,
    latest_version,
    load_metrics,
    save_checkpoint,
    version_folder,
)
from ifa_ray.config import Config, ModelConfig, TrainingConfig, setting
from ifa_ray.data.log import read_impressions, read_items
from ifa_ray.data.run_folder import WARMUP, RunFolder, ShardDay, write_atomically
from ifa_ray.errors import CheckpointError, LogError
from ifa_ray.schema import TrainingSample
from ifa_ray.training.driver import GateConfig, learn_version, refusal_text
from ifa_ray.training.learner import Learner, StreamMetrics
from ifa_ray.training.samples import LogFollower
from ifa_ray.training.sources import read_day
from ifa_ray.training.versions import load_learner


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamSettings(Config):
    """One arm's trainer; plain values, so that it crosses processes."""

    root: str = setting(doc="the run folder, on storage that every node sees")
    arm: str = setting(doc="whose log is followed; also the checkpoints' folder")
    model_seeds: tuple[int, ...] = setting(doc="one per replicate, R of them")
    days: int = setting(doc="the last version is trained on all of them")
    shards: int = setting(doc="files per day and world")
    train_requests_per_day: int = setting(doc="samples learned from each day, exactly")
    model: ModelConfig
    training: TrainingConfig
    gate: GateConfig = dataclasses.field(default_factory=GateConfig)
    num_threads: int = setting(1, "of torch; results are the same for any number only with 1")
    poll_s: float = setting(0.1, "how often the folder is looked at while waiting for a day")


def exactly(samples: Sequence[TrainingSample], count: int) -> list[TrainingSample]:
    """So many samples: evenly spaced ones of more, or all and then round again of fewer.

    Arms must take equal numbers of steps, and an arm whose users leave early logs fewer requests.
    """
    if len(samples) > count:
        return [samples[i * len(samples) // count] for i in range(count)]
    if not samples:
        raise LogError("len(requests) == 0 on a training day, must be >= 1: too few users came.")
    return [samples[i % len(samples)] for i in range(count)]


def train_stream(
    settings: StreamSettings,
    on_version: Callable[[int, int, StreamMetrics], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Learns each day as it is committed (prequential), and publishes a version after each.

    Calls `on_version(replicate, version, metrics)` then; sleeps while a day is not committed yet.

    Raises:
        PublicationRefused: if a version did not pass the gate; what was published stays.
        CheckpointError: if a version was published with other settings, or is damaged.
    """
    torch.set_num_threads(settings.num_threads)
    slots = [_Slot(settings, replicate) for replicate in range(len(settings.model_seeds))]
    for version in range(settings.days + 1):
        for slot in slots:
            if slot.next_version == version:
                slot.wait_for_log(version, sleep)
                on_version(slot.replicate, version, slot.learn(version))


def refusal(settings: StreamSettings) -> str | None:
    """Why the gate stopped an arm's training; None where it did not."""
    folder = RunFolder(Path(settings.root))
    for replicate in range(len(settings.model_seeds)):
        newest = latest_version(folder.models(settings.arm, replicate))
        version = 0 if newest is None else newest + 1
        path = folder.gate(settings.arm, replicate, version)
        if path.exists():
            reasons = json.loads(path.read_bytes())["reasons"]
            return f"replicate {replicate}: {refusal_text(version, reasons, newest)}"
    return None


class _Slot:
    """One replicate's model: its learner, its histories and its next version."""

    def __init__(self, settings: StreamSettings, replicate: int) -> None:
        self.replicate, self._settings = replicate, settings
        self._folder = RunFolder(Path(settings.root))
        self._models = self._folder.models(settings.arm, replicate)
        newest = latest_version(self._models)
        self.next_version = 0 if newest is None else newest + 1
        self._learner: Learner | None = None
        self._previous: Mapping[str, Any] | None = None
        self._follower = LogFollower(max_history=settings.model.max_history)

    def wait_for_log(self, version: int, sleep: Callable[[float], None]) -> None:
        """Returns once everything that a version learns from is committed."""
        for key in self._shards(version):
            while not self._folder.is_committed(key):
                sleep(self._settings.poll_s)

    def learn(self, version: int) -> StreamMetrics:
        """Trains the version on its day of the log and publishes it."""
        if self._learner is None:
            self._learner = self._restored(version)
        settings, place = self._settings, (self._settings.arm, self.replicate, version)
        samples = read_day(self._folder, self._shards(version), self._follower)
        distinct, day = len(samples), version
        while not samples and day > 0:  # nobody came: the last day on which somebody did
            day -= 1
            samples = read_day(self._folder, self._shards(day), self._follower, append=False)
        if version > 0:
            samples = exactly(samples, settings.train_requests_per_day)
        _, metrics, _ = learn_version(
            self._learner,
            samples,
            version,
            settings.gate,
            self._previous,
            self._models,
            self._folder.gate(*place),
            # A sample that is gone over again was learned from, so it tests nothing.
            tested=min(distinct, len(samples)),
        )
        # Before the version: a version that is published has its time.
        write_atomically(
            self._folder.training_time(*place),
            json.dumps({"seconds": metrics.seconds, "samples": metrics.samples}).encode(),
        )
        self.next_version, self._previous = version + 1, metrics.to_dict()
        save_checkpoint(
            version_folder(self._models, version),
            self._learner,
            version=version,
            log_watermark={"arm": settings.arm, "days": version, "requests": distinct},
            metrics=self._previous,
        )
        if version > 0:
            drop_optimizer(version_folder(self._models, version - 1))
        return metrics

    def _restored(self, version: int) -> Learner:
        """The learner as it stood after the previous version, its histories read again."""
        asked, items = self._settings, read_items(self._folder.items(self.replicate))
        seed = asked.model_seeds[self.replicate]
        # CPU time, which a busy machine does not inflate, where one thread does all the work.
        clock = time.thread_time if asked.num_threads == 1 else time.perf_counter
        if version == 0:
            return Learner(asked.model, asked.training, items, seed, clock=clock)
        before = version_folder(self._models, version - 1)
        learner = load_learner(before, items, clock=clock)
        for name, found, wanted in (
            ("seed", learner.seed, seed),
            ("model", learner.model_config, asked.model),
            ("training", learner.training_config, asked.training),
        ):
            if found != wanted:
                raise CheckpointError(
                    f"{before}: {name} == {found}, must be {wanted}: it is of another training, "
                    "and a new one needs a folder of its own."
                )
        self._previous = load_metrics(before)
        for earlier in range(version):
            for key in self._shards(earlier):
                self._follower.append(read_impressions(self._folder.table("impressions", key)))
        return learner

    def _shards(self, version: int) -> Iterator[ShardDay]:
        """The shards of the day that a version adds: the warm-up, then day version - 1."""
        arm, day = (WARMUP, 0) if version == 0 else (self._settings.arm, version - 1)
        for shard in range(self._settings.shards):
            yield ShardDay(arm, self.replicate, day, shard)
