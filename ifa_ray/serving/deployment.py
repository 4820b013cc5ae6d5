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
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

from ifa_ray.checkpoints.format import latest_version, load_model, version_folder
from ifa_ray.config import require
from ifa_ray.data.log import read_items
from ifa_ray.errors import CheckpointError, RequestError, ServingError
from ifa_ray.plugins import load_extension, load_ranker_class
from ifa_ray.ranking.ranker import ModelRanker, Ranker
from ifa_ray.ranking.state_cache import SequenceStates
from ifa_ray.ranking.state_ranker import StatefulRanker
from ifa_ray.schema import RankRequest, RankResponse, StoredHistory
from ifa_ray.serving.history_ranker import HistoryRanker, StoredHistories
from ifa_ray.serving.sequence_store import Append, Appended, HistoryStore, open_store
from ifa_ray.serving.settings import AppSettings
from ifa_ray.serving.versions import Loaded, Slot, score

_Result = TypeVar("_Result")


class UnknownSlotError(RequestError):
    """A request names a slot that this application does not have."""


class NoStoreError(RequestError):
    """The application keeps no histories."""


class DeadlineError(ServingError):
    """A call was still waiting when its deadline passed; it was not ranked."""


def _note_nothing(name: str, value: float, **labels: object) -> None:
    """Records no metric, as in tests and on a laptop."""


class RankerDeployment:
    """Ranks for R slots; slot i holds the model of replicate i."""

    def __init__(self, settings: AppSettings, slots: Sequence[Slot] | None = None) -> None:
        """Loads every slot's version, unless ready slots are given instead, and opens the store."""
        self.settings = settings
        self.note: Callable[..., None] = _note_nothing
        """Records a metric of `ifa_ray.serving.app.METRICS`: name, value, labels."""
        self._calls = 0
        # One scoring thread: a core per replica is the unit of capacity, and the event loop, with
        # its health checks, stays live while it works. OpenMP's thread count is per thread.
        self._scoring = ThreadPoolExecutor(
            1, "scoring", initializer=torch.set_num_threads, initargs=(settings.num_threads,)
        )
        self._loading = ThreadPoolExecutor(1, "loading")
        # Its own thread: an append waits for the disk, and scoring must not.
        self._storing = ThreadPoolExecutor(1, "storing")
        places = range(len(settings.slots if slots is None else slots))
        share = settings.state_bytes // len(settings.slots)
        self._states = [SequenceStates(share) if share else None for _ in places]
        if slots is None:
            settings.check_paths()
            slots = [open_slot(settings, place, self._states[place]) for place in places]
        self._slots = list(slots)
        self._store = store = open_store(settings)
        self._histories = [StoredHistories(store, one) for one in self._states if store is not None]

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
            exact: True lets `min_version` and no other answer.
            deadline_ms: how long from now the answer is of use; a call that still waits for the
                scoring thread then is not ranked. So is one that is cancelled.

        Raises:
            UnknownSlotError, RequestError: on a request that breaks the contract.
            CheckpointError: if the version does not exist.
            RankerError: if the ranker's answer breaks the contract.
            DeadlineError: if it passed.
        """
        asked_s = time.perf_counter()
        held = self._slot(slot)
        if self._store is None and any(isinstance(r.history, StoredHistory) for r in requests):
            raise NoStoreError("history is the service's, must be given: it keeps none.")
        loaded = held.find(min_version, exact=exact)  # read once: one request, one version
        if loaded is None:
            loaded = await self._on(self._loading, self._load, slot, min_version, exact)
        if self._store is not None:
            ranker = HistoryRanker(loaded.ranker, self._histories[slot])
            loaded = Loaded(loaded.version, ranker)
        self._calls += 1
        self.note("calls", self._calls)
        try:
            return await self._on(
                self._scoring, self._score, slot, loaded, requests, asked_s, deadline_ms
            )
        finally:
            self._calls -= 1
            self.note("calls", self._calls)

    async def load(self, slot: int, version: int) -> int:
        """Brings a version into memory before it is asked for; returns the one that now answers."""
        held = self._slot(slot)
        if held.find(version) is None:
            await self._on(self._loading, self._load, slot, version, False)
        return held.newest.version

    async def models(self) -> dict[str, Any]:
        """Slots, the versions in memory, the settings, and what the cached states hold."""
        stats = [states.stats() for states in self._states if states is not None]
        shown = [{**dataclasses.asdict(one), "hit_rate": one.hit_rate} for one in stats]
        return {
            "name": self.settings.name,
            "slots": [
                {"slot": place, "version": slot.newest.version, "in_memory": slot.versions}
                for place, slot in enumerate(self._slots)
            ],
            **({"states": shown} if shown else {}),
            "settings": self.settings.to_dict(),
        }

    async def append(self, appends: Sequence[Append]) -> list[Appended]:
        """Adds impressions to histories; raises as `HistoryStore.append`, or `NoStoreError`."""
        asked_s = time.perf_counter()
        done = await self._on(self._storing, self._kept().append, appends)
        self._spent("append", asked_s)
        self.note("appended", sum(one.appended for one in done))
        return done

    async def user(self, user_id: int) -> tuple[int, int | None]:
        """The number of a user's stored impressions, and the time of the last."""
        end = await self._on(self._storing, self._kept().watermark, user_id)
        return end.length, end.last_ms

    async def erase(self, user_id: int) -> int:
        """Removes a user's history and states; returns how many behaviours there were.

        On the scoring thread: no request is between reading a history and putting back its state.
        """
        asked_s = time.perf_counter()
        erased = await self._on(self._scoring, self._kept().erase, user_id)
        await self.forget(user_id)
        self._spent("erase", asked_s)
        return erased

    async def forget(self, user_id: int) -> None:
        """Drops the cached states of a user, as after an erasure by another replica."""
        for one in self._histories:
            await self._on(self._scoring, one.forget, user_id)

    def close(self) -> None:
        """Ends the threads after what they are at, and gives the store up."""
        for pool in (self._scoring, self._loading, self._storing):
            pool.shutdown(cancel_futures=True)
        if self._store is not None:
            self._store.close()

    async def _on(self, pool: Executor, function: Callable[..., _Result], *given: Any) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *given)

    def _score(
        self,
        slot: int,
        loaded: Loaded,
        requests: Sequence[RankRequest],
        asked_s: float,
        deadline_ms: int | None,
    ) -> list[RankResponse]:
        """On the scoring thread: `score`, measured, of what is still worth it."""
        waited_ms = self._spent("wait", asked_s)
        if deadline_ms is not None and waited_ms >= deadline_ms:
            self.note("expired_calls", 1)
            raise DeadlineError(
                f"deadline_ms passed after {waited_ms:.0f} ms in the queue: not ranked."
            )
        started_s = time.perf_counter()
        responses = score(loaded, requests)
        self._spent("rank", started_s)
        self.note("ranked_requests", len(requests), slot=slot)
        self.note("ranked_candidates", sum(len(r.candidates_C) for r in requests), slot=slot)
        self.note("version", loaded.version, slot=slot)
        if (states := self._states[slot]) is not None:
            stats = states.stats()
            for outcome, count in stats.outcomes.items():
                self.note("state_outcomes", count, slot=slot, outcome=outcome)
            self.note("state_hit_rate", stats.hit_rate, slot=slot)
            self.note("state_bytes", stats.state_bytes, slot=slot)
        return responses

    def _spent(self, stage: str, since_s: float) -> float:
        """Notes the wall time of a stage, which is also returned: milliseconds."""
        spent_ms = 1e3 * (time.perf_counter() - since_s)
        self.note("stage_ms", spent_ms, stage=stage)
        return spent_ms

    def _kept(self) -> HistoryStore:
        if self._store is None:
            raise NoStoreError("sequence_store == None: this application keeps no histories.")
        return self._store

    def _slot(self, slot: int) -> Slot:
        if not 0 <= slot < len(self._slots):
            raise UnknownSlotError(f"slot == {slot}, must be in [0, {len(self._slots) - 1}].")
        return self._slots[slot]

    def _load(self, slot: int, version: int, exact: bool) -> Loaded:
        held, states = self._slots[slot], self._states[slot]
        before = held.versions
        loaded = held.load(version, exact=exact)
        gone = set(before) - set(held.versions)
        if gone and states is not None:
            states.forget(lambda _, version: version in gone)
        return loaded


def open_slot(settings: AppSettings, place: int, states: SequenceStates | None = None) -> Slot:
    """Loads a slot from its files; with states of its users, where they are to be kept.

    Raises:
        ConfigError: if the model cannot keep states, or a card is asked for that is not there.
        CheckpointError: if there is no checkpoint, or it is damaged.
    """
    slot, name = settings.slots[place], f"slots[{place}] of {settings.name}"
    items = read_items(Path(slot.items))
    if settings.ranker is not None:
        ranker = load_ranker_class(settings.ranker)(items=items, seed=slot.seed)
        return Slot(Loaded(0, ranker), name=name)
    assert slot.checkpoints is not None  # AppSettings checked it
    versions = Path(slot.checkpoints)
    on_card = settings.num_gpus > 0
    rule = "0: torch sees no CUDA device"
    require(not on_card or torch.cuda.is_available(), "num_gpus", settings.num_gpus, rule)
    # What a request costs is CPU time, which a busy machine does not inflate; the clock of one
    # thread misses the others where several share the work.
    clock = time.thread_time if settings.num_threads == 1 else time.perf_counter

    def load_version(version: int) -> Ranker:
        model = load_model(version_folder(versions, version), items)
        score_all = None
        if on_card:
            model = model.to("cuda")
            load_extension("kernels")(model)
            if settings.graphs:
                score_all = load_extension("graphs").of_ranker(model).log_probabilities
        if states is not None:
            return StatefulRanker(model, items, version, states, clock, settings.precision)
        return ModelRanker(model, items, version, clock, settings.precision, score_all=score_all)

    if slot.version is not None:
        return Slot(Loaded(slot.version, load_version(slot.version)), name=name)
    newest = latest_version(versions)
    if newest is None:
        raise CheckpointError(f"{name}: {versions} holds no version=... folder, must hold one.")
    return Slot(Loaded(newest, load_version(newest)), load_version, name=name)
