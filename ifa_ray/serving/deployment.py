"""A replica of a served ranker: slots, one scoring thread, one loading thread.

A plain class, tested with plain awaits; `ifa_ray.serving.app` makes a Serve deployment of it and
`ifa_ray.serving.routes` gives it an HTTP face. Knows no model and no wire format. The checkpoint
store is a folder that all replicas see, so a replica that was down, or is behind, pulls what it
needs by itself; a push is only the fast path.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI

from ifa_ray.data.log import read_items
from ifa_ray.errors import CheckpointError, RequestError
from ifa_ray.plugins import load_ranker_class
from ifa_ray.ranker import ModelRanker, Ranker
from ifa_ray.schema import RankRequest, RankResponse
from ifa_ray.serving.settings import AppSettings, SlotSettings
from ifa_ray.serving.slots import Loaded, Slot, score
from ifa_ray.training.checkpoint import latest_version, load_model, version_folder

__all__ = ["RankerDeployment", "UnknownSlotError", "open_slot"]


class UnknownSlotError(RequestError):
    """A request names a slot that this application does not have."""


class RankerDeployment:
    """Ranks for R slots; slot i holds the model of replicate i."""

    def __init__(self, settings: AppSettings, slots: Sequence[Slot] | None = None) -> None:
        """Loads every slot's newest version (or its pinned one).

        Args:
            settings: what to serve.
            slots: ready slots instead of the settings' files.

        Raises:
            ConfigError: if a file or folder is missing.
            CheckpointError: if a checkpoint is missing or damaged.
        """
        self.settings = settings
        # One scoring thread: a core per replica is the unit of capacity, and the event loop, with
        # its health checks, stays live while it works. OpenMP's thread count is per thread.
        self._scoring = ThreadPoolExecutor(
            1, "scoring", initializer=torch.set_num_threads, initargs=(settings.num_threads,)
        )
        self._loading = ThreadPoolExecutor(1, "loading")
        if slots is None:
            settings.check_paths()
            slots = [open_slot(settings, place) for place in range(len(settings.slots))]
        self._slots = list(slots)

    async def rank(
        self,
        slot: int,
        requests: Sequence[RankRequest],
        min_version: int = 0,
        *,
        exact: bool = False,
    ) -> list[RankResponse]:
        """Ranks requests, all with the same one version.

        Args:
            slot: which model.
            requests: of any users; each is checked before any is ranked.
            min_version: the oldest version that may answer; pulled from the checkpoint store if
                this replica is behind.
            exact: True lets `min_version` and no other answer.

        Raises:
            UnknownSlotError, RequestError: on a request that breaks the contract.
            CheckpointError: if the version does not exist.
            RankerError: if the ranker's answer breaks the contract.
        """
        held = self._slot(slot)
        loaded = held.find(min_version, exact=exact)  # read once: one request, one version
        if loaded is None:
            loaded = await self._load(held, min_version, exact=exact)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._scoring, score, loaded, requests)

    async def load(self, slot: int, version: int) -> int:
        """Brings a version into memory before it is asked for; returns the newest one held.

        Raises:
            UnknownSlotError, CheckpointError: as `rank`.
        """
        held = self._slot(slot)
        if held.find(version) is None:
            await self._load(held, version, exact=False)
        return held.newest.version

    async def models(self) -> dict[str, Any]:
        """What this replica serves: its settings, and the versions in memory, newest first."""
        return {
            "name": self.settings.name,
            "slots": [
                {"slot": place, "version": slot.newest.version, "in_memory": slot.versions}
                for place, slot in enumerate(self._slots)
            ],
            "settings": self.settings.model_dump(),
        }

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Serve's hook: the HTTP face of this replica, made after the constructor."""
        from ifa_ray.serving.routes import build_http

        return build_http(self)

    def _slot(self, slot: int) -> Slot:
        if not 0 <= slot < len(self._slots):
            raise UnknownSlotError(f"slot == {slot}, must be in [0, {len(self._slots) - 1}].")
        return self._slots[slot]

    async def _load(self, held: Slot, version: int, *, exact: bool) -> Loaded:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._loading, lambda: held.load(version, exact=exact))


def open_slot(settings: AppSettings, place: int) -> Slot:
    """Loads a slot from its files.

    Raises:
        CheckpointError: if there is no checkpoint, or it is damaged.
    """
    slot: SlotSettings = settings.slots[place]
    name = f"slots[{place}] of {settings.name}"
    items = read_items(Path(slot.items))
    if settings.ranker is not None:
        ranker = load_ranker_class(settings.ranker)(items=items, seed=slot.seed)
        return Slot(Loaded(0, ranker), name=name)
    assert slot.checkpoints is not None  # AppSettings checked it
    root = Path(slot.checkpoints)

    # What a request costs is CPU time, which a busy machine does not inflate; the clock of one
    # thread misses the others where several share the work.
    clock = time.thread_time if settings.num_threads == 1 else time.perf_counter

    def load_version(version: int) -> Ranker:
        model = load_model(version_folder(root, version), items)
        return ModelRanker(model, items, version, clock, settings.precision)

    if slot.version is not None:
        return Slot(Loaded(slot.version, load_version(slot.version)), name=name)
    version = latest_version(root)
    if version is None:
        raise CheckpointError(f"{name}: {root} holds no version=... folder, must hold one.")
    return Slot(Loaded(version, load_version(version)), load_version, name=name)
