"""A replica of a served ranker: slots, one scoring thread, one loading thread, one for histories.

A plain class, tested with plain awaits; `ifa_ray.serving.app` makes a Serve deployment of it and
`ifa_ray.serving.http_api` its HTTP API. Knows no model and no wire format. The checkpoint store is
a folder that all replicas see, so a replica that was down, or is behind, pulls what it needs by
itself; a push is only the fast path.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ifa_ray.checkpoints.format import latest_version, load_model, version_folder
from ifa_ray.data.log import read_items
from ifa_ray.errors import CheckpointError, ConfigError, RequestError
from ifa_ray.plugins import load_ranker_class
from ifa_ray.ranking.ranker import ModelRanker, Ranker
from ifa_ray.ranking.state_cache import SequenceStates
from ifa_ray.ranking.state_ranker import StatefulRanker
from ifa_ray.schema import RankRequest, RankResponse, StoredHistory
from ifa_ray.serving.history_ranker import erase_user, with_histories
from ifa_ray.serving.history_store import HistoryStore, open_store
from ifa_ray.serving.measures import Measures
from ifa_ray.serving.sequence_store import Append, Appended
from ifa_ray.serving.settings import AppSettings, SlotSettings
from ifa_ray.serving.versions import (
    DeadlineError,
    Loaded,
    Slot,
    check_deadline,
    fewer_candidates,
    score,
)


class UnknownSlotError(RequestError):
    """A request names a slot that this application does not have."""


class NoStoreError(RequestError):
    """The application keeps no histories."""


class RankerDeployment:
    """Ranks for R slots; slot i holds the model of replicate i."""

    def __init__(self, settings: AppSettings, slots: Sequence[Slot] | None = None) -> None:
        """Loads every slot's newest version, or the one that its settings name.

        Args:
            settings: what to serve.
            slots: ready slots instead of the settings' files.

        Raises:
            ConfigError: if a file or folder is missing.
            CheckpointError: if a checkpoint is missing or damaged.
            StoreError: if the store of histories cannot be opened.
        """
        self.settings = settings
        self.measures = Measures()
        self._calls = 0
        # One scoring thread: a core per replica is the unit of capacity, and the event loop, with
        # its health checks, stays live while it works. OpenMP's thread count is per thread.
        self._scoring = ThreadPoolExecutor(
            1, "scoring", initializer=torch.set_num_threads, initargs=(settings.num_threads,)
        )
        self._loading = ThreadPoolExecutor(1, "loading")
        # Its own thread: an append waits for the disk, and scoring must not.
        self._storing = ThreadPoolExecutor(1, "storing")
        self._states: list[SequenceStates] = []
        if settings.state_bytes:
            share = settings.state_bytes // len(settings.slots)
            self._states = [SequenceStates(share) for _ in settings.slots]
        if slots is None:
            settings.check_paths()
            slots = [
                open_slot(settings, place, self._states[place] if self._states else None)
                for place in range(len(settings.slots))
            ]
        self._slots = list(slots)
        self._store = open_store(settings)
        if (attend := getattr(self._store, "attend", None)) is not None:
            attend(self._forget_users, self._scoring.submit)

    async def rank(
        self,
        slot: int,
        requests: Sequence[RankRequest],
        min_version: int = 0,
        *,
        exact: bool = False,
        deadline_ms: int | None = None,
    ) -> list[RankResponse]:
        """Ranks requests, all with the same one version.

        Args:
            slot: which model.
            requests: of any users; each is checked before any is ranked.
            min_version: the oldest version that may answer; pulled from the checkpoint store if
                this replica is behind.
            exact: True lets `min_version` and no other answer, and ranks all candidates always.
            deadline_ms: how long from now the answer is of use; a call that still waits for the
                scoring thread then is not ranked. So is one that is cancelled.

        Raises:
            UnknownSlotError, RequestError: on a request that breaks the contract.
            CheckpointError: if the version does not exist.
            RankerError: if the ranker's answer breaks the contract.
            DeadlineError: if it passed.
        """
        asked_s = time.perf_counter()
        deadline_s = None if deadline_ms is None else asked_s + deadline_ms / 1e3
        held = self._slot(slot)
        if self._store is None and any(isinstance(r.history, StoredHistory) for r in requests):
            raise NoStoreError("history is the service's, must be given: it keeps none.")
        loaded = held.find(min_version, exact=exact)  # read once: one request, one version
        if loaded is None:
            loaded = await self._load(slot, min_version, exact=exact)
        if self._store is not None:
            loaded = Loaded(loaded.version, with_histories(loaded.ranker, self._store))
        self._calls += 1
        self.measures.waiting(self._calls)
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(
                self._scoring, self._score, slot, loaded, requests, asked_s, deadline_s, exact
            )
        finally:
            self._calls -= 1
            self.measures.waiting(self._calls)

    async def load(self, slot: int, version: int) -> int:
        """Brings a version into memory before it is asked for; returns the one that now answers.

        Raises:
            UnknownSlotError, CheckpointError: as `rank`.
        """
        held = self._slot(slot)
        if held.find(version) is None:
            await self._load(slot, version, exact=False)
        return held.newest.version

    async def models(self) -> dict[str, Any]:
        """The settings of this replica, and the versions in memory, newest first."""
        return {
            "name": self.settings.name,
            "slots": [
                {"slot": place, "version": slot.newest.version, "in_memory": slot.versions}
                for place, slot in enumerate(self._slots)
            ],
            **({"states": [_shown(cache) for cache in self._states]} if self._states else {}),
            "settings": self.settings.to_dict(),
        }

    async def append(self, appends: Sequence[Append]) -> list[Appended]:
        """Adds impressions to histories, all of them or none; on disk when it returns.

        Raises:
            NoStoreError: if the application keeps none.
            RequestError, SequenceConflictError, StoreError: as `HistoryStore.append`.
        """
        store = self._kept()
        asked_s = time.perf_counter()
        loop = asyncio.get_running_loop()
        done = await loop.run_in_executor(self._storing, store.append, appends)
        self.measures.spent("append", time.perf_counter() - asked_s)
        self.measures.appended(sum(one.appended for one in done))
        return done

    async def user(self, user_id: int) -> tuple[int, int | None]:
        """How many behaviours of a user are stored, and when the last happened.

        Raises:
            NoStoreError, StoreError: as `append`.
        """
        store = self._kept()

        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._storing, store.extent, user_id)

    async def erase(self, user_id: int) -> int:
        """Removes a user's history and states; returns how many behaviours there were.

        On the scoring thread: no request is between reading a history and putting back its state.

        Raises:
            NoStoreError, StoreError: as `append`.
        """
        store = self._kept()
        asked_s = time.perf_counter()
        loop = asyncio.get_running_loop()
        erased = await loop.run_in_executor(self._scoring, erase_user, user_id, store, self._states)
        self.measures.spent("erase", time.perf_counter() - asked_s)
        return erased

    def close(self) -> None:
        """Ends the threads after what they are at, and gives the store up."""
        for pool in (self._scoring, self._loading, self._storing):
            pool.shutdown(cancel_futures=True)
        if self._store is not None:
            self._store.close()

    def _score(
        self,
        slot: int,
        loaded: Loaded,
        requests: Sequence[RankRequest],
        asked_s: float,
        deadline_s: float | None,
        exact: bool,
    ) -> list[RankResponse]:
        """On the scoring thread: `score`, measured, of what is still worth it."""
        started_s = time.perf_counter()
        self.measures.spent("wait", started_s - asked_s)
        try:
            check_deadline(deadline_s, started_s, started_s - asked_s)
        except DeadlineError:
            self.measures.expired()
            raise
        limit = None if exact else fewer_candidates(self._calls, self.settings)
        responses = score(loaded, requests, limit)
        self.measures.spent("rank", time.perf_counter() - started_s)
        self.measures.degraded(slot, sum(response.degraded for response in responses))
        candidates = sum(len(request.candidates_C) for request in requests)
        self.measures.ranked(slot, loaded.version, len(requests), candidates)
        if self._states:
            self.measures.states(slot, self._states[slot].stats())
        return responses

    def _forget_users(self, is_meant: Callable[[int], bool]) -> None:
        for cache in self._states:
            cache.forget_users(is_meant)

    def _kept(self) -> HistoryStore:
        if self._store is None:
            raise NoStoreError("sequence_store == None: this application keeps no histories.")
        return self._store

    def _slot(self, slot: int) -> Slot:
        if not 0 <= slot < len(self._slots):
            raise UnknownSlotError(f"slot == {slot}, must be in [0, {len(self._slots) - 1}].")
        return self._slots[slot]

    async def _load(self, slot: int, version: int, *, exact: bool) -> Loaded:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._loading, self._read, slot, version, exact)

    def _read(self, slot: int, version: int, exact: bool) -> Loaded:
        held = self._slots[slot]
        before = held.versions
        loaded = held.load(version, exact=exact)
        for gone in set(before) - set(held.versions) if self._states else ():
            self._states[slot].forget_version(gone)
        return loaded


def open_slot(settings: AppSettings, place: int, states: SequenceStates | None = None) -> Slot:
    """Loads a slot from its files.

    Args:
        settings: of the application.
        place: which of its slots.
        states: of this slot's users; None keeps none.

    Raises:
        ConfigError: if states are to be kept of a model that must see a history whole, or a card
            is asked for that is not there.
        CheckpointError: if there is no checkpoint, or it is damaged.
    """
    slot: SlotSettings = settings.slots[place]
    name = f"slots[{place}] of {settings.name}"
    items = read_items(Path(slot.items))
    if settings.ranker is not None:
        ranker = load_ranker_class(settings.ranker)(items=items, seed=slot.seed)
        return Slot(Loaded(0, ranker), name=name)
    assert slot.checkpoints is not None  # AppSettings checked it
    versions = Path(slot.checkpoints)

    # What a request costs is CPU time, which a busy machine does not inflate; the clock of one
    # thread misses the others where several share the work.
    clock = time.thread_time if settings.num_threads == 1 else time.perf_counter

    if settings.num_gpus and not torch.cuda.is_available():
        raise ConfigError(f"num_gpus == {settings.num_gpus}, must be 0: torch sees no CUDA device.")
    device = "cuda" if settings.num_gpus else "cpu"

    def load_version(version: int) -> Ranker:
        model = load_model(version_folder(versions, version), items).to(device)
        score_all = None
        if settings.num_gpus:  # kernels and graphs are other classes, chosen here
            from ifa_ray.cuda.fused import fuse
            from ifa_ray.cuda.graphs import GraphedModel

            fuse(model)
            if settings.graphs:
                score_all = GraphedModel.of_ranker(model).log_probabilities
        if states is not None:
            return StatefulRanker(model, items, version, states, clock, settings.precision)
        return ModelRanker(model, items, version, clock, settings.precision, score_all=score_all)

    if slot.version is not None:
        return Slot(Loaded(slot.version, load_version(slot.version)), name=name)
    version = latest_version(versions)
    if version is None:
        raise CheckpointError(f"{name}: {versions} holds no version=... folder, must hold one.")
    return Slot(Loaded(version, load_version(version)), load_version, name=name)


def _shown(states: SequenceStates) -> dict[str, Any]:
    stats = states.stats()
    return {**dataclasses.asdict(stats), "hit_rate": stats.hit_rate}
