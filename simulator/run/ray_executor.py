"""The story of a run, top to bottom: worlds, warm-up, trainers, rankers, days, verdict.

Knows Ray. Actors and trainers meet only in the run's folder (`ifa_ray.data.run_folder`) and at the
rankers' handles; a day of a shard is in `simulator.run.shards`. Every arm goes through its days at
its own pace: a day starts once the version that must rank it is published, so results do not depend
on who is faster, and training overlaps with the next day's simulation (`RunConfig.lag_days`).
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray import serve
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.serve.api import RunTarget
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus

from ifa_ray.checkpoints.format import version_folder
from ifa_ray.data.run_folder import RunFolder, ShardDay
from ifa_ray.errors import CheckpointError, ConfigError, IfaRayError, RankerError, ServingError
from ifa_ray.schema import RankRequest, RankResponse
from ifa_ray.serving.app import deployment_for
from ifa_ray.serving.settings import AppSettings, SlotSettings
from ifa_ray.training.trainer import ArmTrainer, start_supervisor
from simulator.run.cluster import Cluster, plan_resources
from simulator.run.presets import Arm, RunConfig
from simulator.run.process_executor import stream_settings
from simulator.run.progress import RunProgress
from simulator.run.shards import Shards, compile_ahead, write_catalogue
from simulator.world.queries import Candidates, Retrieval, RetrievalQuery
from simulator.world.retrieval import ChannelRetrieval
from simulator.world.world import RetrievalFactory, World

_T = TypeVar("_T")

POLL_S = 0.1
PATIENCE_S = 60.0
OBJECT_STORE_BYTES = 400 * 2**20


def run_on_ray(
    folder: RunFolder, config: RunConfig, cluster: Cluster, progress: RunProgress
) -> None:
    """Simulates all days of all arms that are not committed.

    Args:
        folder: open (see `simulator.run.opening.open_run`).
        config: what to run.
        cluster: where.
        progress: is told of each shard's day.

    Raises:
        IfaRayError: whatever a part of the run raised, unchanged.
    """
    with ExitStack() as stack:
        stack.enter_context(_ray_session(cluster))
        progress.say(f"Ray is up with {ray.cluster_resources().get('CPU', 0):g} CPUs")
        compile_ahead()  # or all actors would, at once
        _Run(folder, config, cluster, progress, stack).simulate()


class _Run:
    """The actors, trainers and applications of one run."""

    def __init__(
        self,
        folder: RunFolder,
        config: RunConfig,
        cluster: Cluster,
        progress: RunProgress,
        stack: ExitStack,
    ) -> None:
        self._folder, self._config, self._cluster = folder, config, cluster
        self._progress, self._stack = progress, stack
        self._learning = [arm for arm in config.parsed_arms if arm.ranker is None]
        self._plan = plan_resources(
            cpus=ray.available_resources().get("CPU", 0.0),
            trainers=len(self._learning),
            replicas=sum(not arm.in_world for arm in config.parsed_arms) * cluster.replicas,
            actors=cluster.user_actors + cluster.retrieval_actors,
        )
        self._trainers: dict[str, ArmTrainer] = {}
        self._serving = asyncio.Lock()
        # Application names are the cluster's, where other runs and deployed rankers may be. Of the
        # folder, so that a resumed run replaces what a killed driver has left there.
        path = str(folder.root.resolve())
        self._prefix = f"run-{hashlib.sha256(path.encode()).hexdigest()[:8]}-"

    def simulate(self) -> None:
        """Starts trainers and actors, and takes every arm through its days."""
        for replicate in range(self._config.replicates):
            write_catalogue(self._folder, self._config, replicate)
        self._start_trainers()
        actors = self._start_actors()
        try:
            asyncio.run(self._simulate_arms(actors))
        except (BaseExceptionGroup, RayTaskError) as error:
            raise _first_error(error)  # noqa: B904  (its own cause stays its cause)

    def _start_trainers(self) -> None:
        """One long fit per arm; each waits in the folder for the warm-up's commits."""
        config, supervisor = self._config, start_supervisor(max(1, len(self._learning)))
        for arm in self._learning:
            if self._published(arm, config.days):
                continue
            self._trainers[arm.name] = ArmTrainer(
                supervisor,
                stream_settings(self._folder, config, arm),
                num_cpus=self._plan.trainer_cpus,
            )

    def _start_actors(self) -> list[ActorHandle]:
        settings = self._config.to_dict()
        # A killed driver's actors may still be dying under their names.
        mark = os.urandom(4).hex()
        retrieval = [
            f"{self._prefix}retrieval-{mark}-{i}" for i in range(self._cluster.retrieval_actors)
        ]
        self._retrieval = [
            ray.remote(num_cpus=self._plan.actor_cpus, max_restarts=3, max_task_retries=3)(
                RetrievalActor
            )
            .options(name=name)
            .remote(settings)
            for name in retrieval
        ]
        return [
            ray.remote(
                num_cpus=self._plan.actor_cpus,
                max_restarts=3,
                max_task_retries=3,
                max_concurrency=1000,
            )(UserShards).remote(
                settings, str(self._folder.root.resolve()), self._prefix, retrieval
            )
            for _ in range(self._cluster.user_actors)
        ]

    async def _simulate_arms(self, actors: list[ActorHandle]) -> None:
        config = self._config
        self._progress.say("warm-up: lifelong histories under the earlier policy")
        summaries = await asyncio.gather(
            *(
                actors[shard % len(actors)].warm_up.remote(replicate, shard)
                for replicate in range(config.replicates)
                for shard in range(config.shards)
            )
        )
        impressions = sum(summary["impressions"] for summary in summaries)
        self._progress.say(f"warm-up: {impressions} impressions; starting trainers and rankers")
        async with asyncio.TaskGroup() as group:
            for arm in config.parsed_arms:
                group.create_task(self._simulate_arm(arm, actors))

    async def _simulate_arm(self, arm: Arm, actors: list[ActorHandle]) -> None:
        """An arm's days in order; its replicates and shards side by side within a day."""
        await self._wait_for(arm, 0)
        if arm.ranker is None:
            self._progress.say(f"{arm.name}: version 0 has learned the warm-up")
        if not arm.in_world:
            await self._deploy(arm)
        for day in range(self._config.days):
            version = self._config.version_of_day(day) if arm.ranker is None else 0
            await self._wait_for(arm, version)
            async with asyncio.TaskGroup() as group:
                for replicate in range(self._config.replicates):
                    for shard in range(self._config.shards):
                        key = ShardDay(arm.name, replicate, day, shard)
                        group.create_task(
                            self._simulate_day(actors[shard % len(actors)], key, version)
                        )
        # The last days' training is part of every arm's progressive metrics and step count.
        await self._wait_for(arm, self._config.days)

    async def _simulate_day(self, actor: ActorHandle, key: ShardDay, version: int) -> None:
        fresh = not self._folder.is_committed(key)
        summary = await actor.simulate_day.remote(key, version)
        self._progress.finished(key.arm, key.day, summary["requests"], fresh=fresh)

    async def _deploy(self, arm: Arm) -> None:
        """Brings up the arm's application, and returns once it runs."""
        name = self._prefix + arm.name
        if not self._cluster.embedded:  # a private Ray ends as a whole
            self._stack.callback(serve.delete, name)
        settings = self._settings(arm)

        def deploy() -> None:
            target = RunTarget(target=deployment_for(settings), name=name, route_prefix=None)
            serve.run_many([target], wait_for_applications_running=False)

        await self._in_serve(deploy)
        asked, warned = time.monotonic(), False
        while True:
            status = (await self._in_serve(serve.status)).applications[name]
            if status.status == ApplicationStatus.RUNNING:
                return
            if status.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
                raise ServingError(f"arm {arm.name}: its application failed: {status.message}")
            if not warned and time.monotonic() - asked > PATIENCE_S:
                warned = True
                free = ray.available_resources().get("CPU", 0.0)
                self._progress.say(
                    f"arm {arm.name}: its application waits for {self._plan.replica_cpus:g} CPUs "
                    f"a replica; {free:g} of the cluster are free"
                )
            await asyncio.sleep(POLL_S)

    async def _in_serve(self, call: Callable[[], _T]) -> _T:
        """Calls Serve on a thread, one call at a time.

        Even making a deployment registers a module with the process's pickler for a moment, and
        two threads that do so fail.
        """
        async with self._serving:
            return await asyncio.to_thread(call)

    def _settings(self, arm: Arm) -> AppSettings:
        """Slot r of every replica holds replicate r's model."""
        learns = arm.ranker is None
        return AppSettings(
            name=arm.name,
            slots=tuple(
                SlotSettings(
                    items=str(self._folder.items(r).resolve()),
                    checkpoints=str(self._folder.models(arm.name, r).resolve()) if learns else None,
                    seed=0 if learns else self._config.model_seed(r, arm.name),
                )
                for r in range(self._config.replicates)
            ),
            ranker=arm.ranker,
            num_replicas=self._cluster.replicas,
            num_cpus=self._plan.replica_cpus,
            max_ongoing_requests=64,
        )

    async def _wait_for(self, arm: Arm, version: int) -> None:
        """Returns once a version of all the arm's replicates is published."""
        while arm.ranker is None and not self._published(arm, version):
            trainer = self._trainers.get(arm.name)
            if (trainer is None or trainer.has_ended()) and not self._published(arm, version):
                raise CheckpointError(
                    f"version {version} of arm {arm.name} is missing below "
                    f"{self._folder.root / 'models' / arm.name}, though a later one was published."
                )
            await asyncio.sleep(POLL_S)

    def _published(self, arm: Arm, version: int) -> bool:
        return all(
            (version_folder(self._folder.models(arm.name, replicate), version)).exists()
            for replicate in range(self._config.replicates)
        )


def _serve_is_up() -> bool:
    try:
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return False
    return True


def _first_error(error: BaseException) -> BaseException:
    """The first error, one of ours if there is any, out of Ray's wrapping."""
    leaves: list[BaseException] = []
    rest = [error]
    while rest:
        error = rest.pop(0)
        if isinstance(error, BaseExceptionGroup):
            rest.extend(error.exceptions)
        elif isinstance(error, RayTaskError) and isinstance(error.cause, IfaRayError):
            leaves.append(error.cause)
        else:
            leaves.append(error)  # with the remote traceback, if it has one
    ours = [leaf for leaf in leaves if isinstance(leaf, IfaRayError)]
    return (ours or leaves)[0]


@contextmanager
def _ray_session(cluster: Cluster) -> Iterator[None]:
    """A private embedded Ray, or the cluster at the address; Serve is up within."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if cluster.embedded:
        yield from _embedded_ray()
    else:
        yield from _joined_ray(cluster)


def _embedded_ray() -> Iterator[None]:
    # Short, because sockets lie below it and their paths are limited to 107 bytes.
    session = tempfile.mkdtemp(prefix="ifa-")
    try:
        ray.init(
            address="local",
            # Ray Train asks the dashboard's state API when it cleans up after a dead controller.
            include_dashboard=True,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=session,
        )
        serve.start(proxy_location="Disabled")
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(session, ignore_errors=True)


def _joined_ray(cluster: Cluster) -> Iterator[None]:
    try:
        ray.init(address=cluster.address, log_to_driver=False)
    except ConnectionError as error:
        raise ConfigError(
            f"address == {cluster.address!r}, must be of a running Ray cluster: {error}"
        ) from error
    found_serve = _serve_is_up()
    try:
        serve.start(proxy_location="Disabled")
        yield
    finally:
        # Left running, a Serve without a proxy would refuse the next deployment its HTTP port. But
        # somebody may have come to use it.
        if not found_serve and not serve.status().applications:
            serve.shutdown()
        ray.shutdown()


# Large enough to spread a call's fixed cost, small enough to spread a round over replicas.
REQUESTS_PER_CALL = 4
MAX_TRIES = 7
_TRANSIENT = (ActorDiedError, ActorUnavailableError, DeploymentUnavailableError)


class UserShards:
    """Simulates users through their days; async, so that many worlds wait on rankers at once."""

    def __init__(
        self, config: dict[str, Any], root: str, application_prefix: str, retrieval: Sequence[str]
    ) -> None:
        run = RunConfig.from_dict(config)
        self._shards = Shards(RunFolder(Path(root)), run)
        self._in_world = {arm.name for arm in run.parsed_arms if arm.in_world}
        # By name: a handle among its arguments would keep a restarted actor from starting.
        self._retrieval = [ray.get_actor(name) for name in retrieval]
        self._prefix = application_prefix
        self._application = functools.cache(self._find_application)

    async def warm_up(self, replicate: int, shard: int) -> dict[str, int]:
        """The summary of the prehistory that all arms of a replicate share."""
        return await self._shards.warm_up(replicate, shard)

    async def simulate_day(self, key: ShardDay, version: int) -> dict[str, int]:
        """The summary of one day of one shard under an arm's ranker."""

        async def retrieve(query: RetrievalQuery) -> Candidates:
            actor = self._retrieval[key.shard % len(self._retrieval)]
            return await actor.retrieve.remote(key.replicate, query)

        async def rank(requests: list[RankRequest]) -> list[RankResponse]:
            starts = range(0, len(requests), REQUESTS_PER_CALL)
            chunks = [requests[start : start + REQUESTS_PER_CALL] for start in starts]
            calls = (self._rank_chunk(key, version, chunk) for chunk in chunks)
            return [response for answer in await asyncio.gather(*calls) for response in answer]

        answer = None if key.arm in self._in_world else rank
        return await self._shards.simulate_day(key, version, answer, retrieve)

    async def _rank_chunk(
        self, key: ShardDay, version: int, requests: list[RankRequest]
    ) -> list[RankResponse]:
        """One call of the arm's application. Ranking changes nothing, so it is safe to repeat."""
        handle = self._application(key.arm)
        for attempt in range(MAX_TRIES):
            try:
                return await handle.rank.remote(
                    slot=key.replicate, requests=requests, min_version=version, exact=True
                )
            except RankerError as error:
                # Ray raises it as it was, or in a wrapper that prints the remote traceback.
                raise RankerError(f"arm {key.arm}: {getattr(error, 'cause', error)}") from None
            except _TRANSIENT:
                if attempt == MAX_TRIES - 1:
                    raise
                await asyncio.sleep(0.5 * 2**attempt)  # a replica is back within half a minute
        raise AssertionError("unreachable")

    def _find_application(self, arm: str) -> DeploymentHandle:
        # Ids and one history are small; by value they skip the object store (about 2 ms a call).
        return serve.get_app_handle(self._prefix + arm).options(_by_reference=False)


class RetrievalActor:
    """Holds each replicate's retrieval stage and emits candidates for batches of users."""

    def __init__(
        self, config: dict[str, Any], retrieval: RetrievalFactory = ChannelRetrieval
    ) -> None:
        self._config = RunConfig.from_dict(config)
        self._factory = retrieval
        # The latent half of the world is not kept: retrieval sees what a platform sees.
        self._stage = functools.cache(self._build_stage)

    def retrieve(self, replicate: int, query: RetrievalQuery) -> Candidates:
        """C unique candidates for each user of the query."""
        return self._stage(replicate).retrieve(query)

    def _build_stage(self, replicate: int) -> Retrieval:
        seed = self._config.world_seed(replicate)
        return World(self._config.world, seed, self._factory).retrieval
