"""A replica of a served ranker: slots, one scoring thread, one loading thread, one for histories.

A plain class, tested with plain awaits; `ifa_ray.serving.app` makes a Serve deployment of it and
`ifa_ray.serving.routes` gives it an HTTP face. Knows no model and no wire format. The checkpoint
store is a folder that all replicas see, so a replica that was down, or is behind, pulls what it
needs by itself; a push is only the fast path. Histories, where they are kept, are this replica's
alone, or lie in shards that all replicas ask.
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
from fastapi import FastAPI
from pydantic import ValidationError

from ifa_ray.data.log import read_items
from ifa_ray.errors import CheckpointError, ConfigError, IfaRayError, RequestError
from ifa_ray.plugins import load_ranker_class
from ifa_ray.ranker import ModelRanker, Ranker
from ifa_ray.schema import RankRequest, RankResponse, StoredHistory
from ifa_ray.sequence_states import SequenceStates
from ifa_ray.serving.appends import Append, Appended
from ifa_ray.serving.following import follow_slots
from ifa_ray.serving.history_ranker import erase_user, with_histories
from ifa_ray.serving.history_store import HistoryStore, open_store
from ifa_ray.serving.load import DeadlineError, check_deadline, fewer_candidates
from ifa_ray.serving.measures import Measures, ServeMeasures
from ifa_ray.serving.pins import LOG, UnknownSlotError, apply_pins, forgetting
from ifa_ray.serving.settings import AppSettings, LiveSettings, SlotSettings
from ifa_ray.serving.shadow import Shadow
from ifa_ray.serving.shadow_files import open_shadow
from ifa_ray.serving.sharded_store import ShardedStore
from ifa_ray.serving.slots import Loaded, Slot, score_first
from ifa_ray.stateful_ranker import StatefulRanker
from ifa_ray.training.checkpoint import load_model
from ifa_ray.training.storage import newest_version, version_here

__all__ = [
    "NoStoreError",
    "RankerDeployment",
    "UnknownSlotError",
    "open_slot",
]


class NoStoreError(RequestError):
    """The application keeps no histories."""


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
            StoreError: if the store of histories cannot be opened.
        """
        self.settings = settings
        self.measures = Measures()
        self._calls = 0
        self._served = False
        self._live_error: str | None = None
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
        if isinstance(self._store, ShardedStore):
            self._store.attend(self._forget_users, self._scoring.submit)
        self._shadows = [self._open_shadow(place) for place in range(len(self._slots))]
        self._following = follow_slots(settings, self._slots, self._load_here)

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
        self._served = True
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

        Of a slot that is pinned nothing is read: it answers with its pinned version, and takes the
        newest of the store when it is unpinned.

        Raises:
            UnknownSlotError, CheckpointError: as `rank`.
        """
        held = self._slot(slot)
        if held.pinned is None and held.find(version) is None:
            await self._load(slot, version, exact=False)
        return held.current.version

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve's hook: takes a `LiveSettings`, at the start and whenever the config changes.

        A replica that starts refuses settings that are wrong, and so `serve deploy` does. One that
        serves goes on with what it had, and says so in its log and in `models`: Serve would stop
        it for an error, and the next, until nobody served.

        Raises:
            ConfigError, CheckpointError: before the first request, if a field is unknown, a slot
                or version is not there, or the slot's version is fixed by its settings.
        """
        try:
            live = LiveSettings.model_validate(user_config)
            folders = [slot.checkpoints for slot in self.settings.slots]
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(
                self._loading, apply_pins, live, self._slots, folders, self._states
            )
        except (IfaRayError, ValidationError) as error:
            message = f"user_config == {user_config}: {error}"
            if not self._served:
                raise (CheckpointError if isinstance(error, CheckpointError) else ConfigError)(
                    message
                ) from None
            self._live_error = message
            LOG.error("goes on with what it had: %s", message)
        else:
            self._live_error = None

    async def models(self) -> dict[str, Any]:
        """What this replica serves: its settings, and the versions in memory, newest first."""
        return {
            "name": self.settings.name,
            "slots": [
                {
                    "slot": place,
                    "version": slot.current.version,
                    "in_memory": slot.versions,
                    **({"pinned": slot.pinned} if slot.pinned is not None else {}),
                    **({} if shadow is None else {"shadow": _of_shadow(shadow)}),
                }
                for place, (slot, shadow) in enumerate(zip(self._slots, self._shadows, strict=True))
            ],
            **({"user_config_error": self._live_error} if self._live_error else {}),
            **({"states": [_shown(cache) for cache in self._states]} if self._states else {}),
            "settings": self.settings.model_dump(),
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
        for following in self._following:
            following.close()
        for shadow in filter(None, self._shadows):
            shadow.close()
        for pool in (self._scoring, self._loading, self._storing):
            pool.shutdown(cancel_futures=True)
        if self._store is not None:
            self._store.close()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Serve's hook: the HTTP face of this replica, made after the constructor."""
        from ifa_ray.serving.routes import build_http

        self.measures = ServeMeasures()
        return build_http(self)

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
        responses = score_first(loaded, requests, limit)
        self.measures.spent("rank", time.perf_counter() - started_s)
        self.measures.degraded(slot, sum(response.degraded for response in responses))
        candidates = sum(len(request.candidates_C) for request in requests)
        self.measures.ranked(slot, loaded.version, len(requests), candidates)
        if (shadow := self._shadows[slot]) is not None:
            pairs = [x for x in zip(requests, responses, strict=True) if not x[1].degraded]
            shadow.offer([request for request, _ in pairs], [response for _, response in pairs])
        if self._states:
            self.measures.states(slot, self._states[slot].stats())
        return responses

    def _forget_users(self, is_meant: Callable[[int], bool]) -> None:
        for cache in self._states:
            cache.forget_users(is_meant)

    def _open_shadow(self, place: int) -> Shadow | None:
        def count(outcome: str, answers: int) -> None:
            self.measures.shadowed(place, outcome, answers)  # which is replaced after this

        if place >= len(self.settings.slots):  # a ready slot that no setting is about
            return None
        return open_shadow(self.settings, place, self._store, count)

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

    def _load_here(self, slot: int, version: int) -> None:
        """As `load`, for a thread that is no event loop."""
        self._loading.submit(self._read, slot, version, False).result()

    def _read(self, slot: int, version: int, exact: bool) -> Loaded:
        held = self._slots[slot]
        with forgetting(held, self._states[slot] if self._states else None):
            return held.load(version, exact=exact)


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
    place_of_versions = slot.checkpoints

    # What a request costs is CPU time, which a busy machine does not inflate; the clock of one
    # thread misses the others where several share the work.
    clock = time.thread_time if settings.num_threads == 1 else time.perf_counter

    if settings.num_gpus and not torch.cuda.is_available():
        raise ConfigError(f"num_gpus == {settings.num_gpus}, must be 0: torch sees no CUDA device.")
    device = "cuda" if settings.num_gpus else "cpu"

    def load_version(version: int) -> Ranker:
        with version_here(place_of_versions, version) as folder:
            model = load_model(folder, items).to(device)
        if states is not None:
            return StatefulRanker(model, items, version, states, clock, settings.precision)
        return ModelRanker(model, items, version, clock, settings.precision, graphs=settings.graphs)

    if slot.version is not None:
        return Slot(Loaded(slot.version, load_version(slot.version)), name=name)
    version = newest_version(place_of_versions)
    if version is None:
        raise CheckpointError(
            f"{name}: {place_of_versions} holds no version=... folder, must hold one."
        )
    return Slot(Loaded(version, load_version(version)), load_version, name=name)


def _of_shadow(shadow: Shadow) -> dict[str, Any]:
    return {"version": shadow.version, "answers": shadow.outcomes}


def _shown(states: SequenceStates) -> dict[str, Any]:
    stats = states.stats()
    return {**dataclasses.asdict(stats), "hit_rate": stats.hit_rate}
