"""The settings of one Serve application, checked before anything is loaded; no Ray, no torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ifa_ray.config import Config, require, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlotSettings(Config):
    """One catalogue and the versions of one model over it: a replicate of an arm."""

    items: str = setting(doc="path of the catalogue's Parquet file")
    checkpoints: str | None = setting(None, "folder of `version=00003` folders; none for a ranker")
    version: int | None = setting(
        None, "this one and no other; none: the newest, what is pushed", ge=0
    )
    seed: int = setting(0, "given to a custom ranker", ge=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AppSettings(Config):
    """One application of `ifa_ray.serving.app`."""

    name: str = setting(doc="the application's name, an arm in a comparison")
    slots: tuple[SlotSettings, ...] = setting(doc="slot i serves the model of replicate i")
    # From the command line or a config only, never from a request: whoever sets it runs code.
    ranker: str | None = setting(None, "package.module:Class of a custom one; none: checkpoints")
    precision: str = setting(
        "fp32",
        "of scoring; bf16 gives the same slates, sooner where the processor multiplies bfloat16 "
        "much faster than float32",
        choices=("bf16", "fp32"),
    )
    graphs: bool = setting(False, "record CUDA graphs of requests and replay them")
    num_threads: int = setting(1, "of scoring; the last bit of a score may depend on it", ge=1)
    num_replicas: int = setting(1, "processes", ge=1)
    num_cpus: float = setting(1.0, "cores that each replica reserves", ge=0)
    num_gpus: float = setting(
        0.0, "of each replica, which then scores on it; or a share", ge=0, le=1
    )
    max_ongoing_requests: int = setting(16, "at one replica, those that wait included", ge=1)
    max_queued_requests: int = setting(
        -1, "waiting at one caller for a replica; more are refused (503); -1: no limit", ge=-1
    )
    # Holds a request at the contract's limits (50,000 candidates, 1,000,000 impressions) in Arrow.
    max_body_bytes: int = setting(16 * 2**20, "of an HTTP body", ge=1)
    max_requests: int = setting(64, "rank requests in one HTTP body", ge=1)
    sequence_store: str | None = setting(
        None, "folder of histories on a local disk; none: no store"
    )
    store_class: str | None = setting(
        None, "package.module:Class of a history store; none: ours, which one replica owns"
    )
    store_options: dict[str, Any] | None = setting(None, "further arguments of `store_class`")
    store_bytes: int = setting(64 * 2**30, "of the store; beyond it events are refused", ge=2**16)
    state_bytes: int = setting(
        0, "of cached attention states in memory; 0 attends to the whole history each time", ge=0
    )
    session_affinity: bool = setting(
        False, "a user's requests go to one replica: header x-session-id, handle session_id"
    )
    token_env: str | None = setting(None, "environment variable of the token that callers bring")

    def check(self) -> None:
        """Checks rules between settings."""
        custom, cached = f"ranker == {self.ranker!r}", self.state_bytes
        folder, owner = self.sequence_store, self.store_class
        for holds, field, rule in (
            (self.slots, "slots", "at least one"),
            (folder or not owner, "sequence_store", f"set with store_class == {owner!r}"),
            (owner or not self.store_options, "store_options", "None without store_class"),
            (
                owner or not folder or self.num_replicas == 1,
                "num_replicas",
                f"1 with sequence_store == {folder!r}, which one process owns. Replicas share "
                "store_class == 'ifa_ray.serving.sharded_histories:ShardedHistories'",
            ),
            (folder or not cached, "state_bytes", "0 without sequence_store"),
            (not self.ranker or not cached, "state_bytes", f"0 with {custom}"),
            (not self.ranker or not self.num_gpus, "num_gpus", f"0 with {custom}"),
            (not self.graphs or self.num_gpus, "graphs", "False with num_gpus == 0"),
            (not self.graphs or not cached, "graphs", f"False with state_bytes == {cached}"),
        ):
            require(bool(holds), field, getattr(self, field), rule)
        for place, slot in enumerate(self.slots):
            field = f"slots[{place}].checkpoints"
            if self.ranker is None:
                require(slot.checkpoints is not None, field, None, "set unless `ranker` is")
            else:
                own = slot.checkpoints, slot.version
                require(own == (None, None), field, own, f"unset, as the version, with {custom}")

    def check_paths(self) -> None:
        """Checks that every file and folder is there; names the folder it is relative to."""
        for place, slot in enumerate(self.slots):
            for field in ("items", "checkpoints"):
                path = getattr(slot, field)
                require(
                    path is None or Path(path).exists(),
                    f"slots[{place}].{field}",
                    path,
                    f"there (looked in {Path.cwd()}). `make run` writes both; then start Ray "
                    "in the folder that holds `runs`",
                )
