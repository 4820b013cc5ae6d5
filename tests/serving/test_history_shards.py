"""Two replicas that share histories in two shards, by handle: who ranks whom, and what kills do.

Tolerance: scores within 3e-5 of those of the bare model with the whole history, whichever replica
answers, from a state or not; see test_state_ranker.py for where it comes from.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from private_cluster import MARK, ROOT, end_marked, wait_until
from test_serve_deploy import make_items, make_learner, make_request

from ifa_ray.checkpoints.format import load_model, save_checkpoint, version_folder
from ifa_ray.data.log import write_items
from ifa_ray.errors import CheckpointError, ConfigError, RequestError, StoreError
from ifa_ray.ranking.ranker import ModelRanker
from ifa_ray.schema import FROM_STORE, History
from ifa_ray.serving.sequence_store import Append, part
from ifa_ray.serving.settings import AppSettings

pytestmark = pytest.mark.cluster

NUM_ITEMS, LENGTH, TOLERANCE = 60, 40, 3e-5
USERS = range(24)


def life_of(user_id, seed=0):
    rng = np.random.default_rng([seed, user_id])
    return History(
        ids_T=rng.integers(0, NUM_ITEMS, LENGTH).astype(np.int32),
        actions_T=rng.integers(0, 128, LENGTH).astype(np.uint8),
        times_ms_T=1_600_000_000_000 + 1000 * np.arange(LENGTH, dtype=np.int64),
    )


class Shared:
    """The application, and the same model in this process."""

    def __init__(self, folder):
        self.folder, items = folder, make_items()
        write_items(folder / "items.parquet", items)
        path = version_folder(folder / "models", 0)
        save_checkpoint(path, make_learner(items, 0), version=0, log_watermark={}, metrics={})
        self.bare = ModelRanker(load_model(path, items), items, 0)
        self.handle = None

    def settings(self, **changes):
        slot = {
            "items": str(self.folder / "items.parquet"),
            "checkpoints": str(self.folder / "models"),
        }
        values = {
            "name": "shared", "slots": [slot], "num_cpus": 0.25, "num_replicas": 2,
            "sequence_store": str(self.folder / "histories"), "state_bytes": 10**7,
            "store_class": "ifa_ray.serving.sharded_histories:ShardedHistories",
            "store_options": {"shards": 2}, "session_affinity": True,
        }  # fmt: skip
        return AppSettings.from_dict(values | changes)

    def run(self, name, **changes):
        from ray import serve

        from ifa_ray.serving.app import deployment_for

        return serve.run(deployment_for(self.settings(**changes)), name=name, route_prefix=None)

    def ask(self, method, *args, session=""):
        """Asks until a replica answers: calls that a kill cut off are repeated, as by a client."""
        from ray.exceptions import RayActorError

        handle = self.handle.options(session_id=session) if session else self.handle
        deadline = time.monotonic() + 60
        while True:
            try:
                return getattr(handle, method).remote(*args).result(timeout_s=60)
            except RayActorError:
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def append(self, user_id, begin, stop, seed=0):
        new = part(life_of(user_id, seed), begin, stop)
        (done,) = self.ask("append", [Append(user_id=user_id, begin=begin, history=new)])
        return done.watermark

    def rank(self, user_id, watermark, seed=0, session=None):
        """Ranks from the store, and checks the answer against the bare model's.

        At the replica of a session, or at every replica without one.
        """
        whole = dataclasses.replace(
            make_request(user_id),
            user_id=user_id,
            history=part(life_of(user_id, seed), 0, watermark),
        )
        asked = dataclasses.replace(whole, history=FROM_STORE)
        if session is None:
            found = self.handle.broadcast("rank", 0, [asked]).results(timeout_s=60)
            assert len(found) == 2
        else:
            found = [self.ask("rank", 0, [asked], session=session)]
        (expected,) = self.bare.rank([whole])
        for (served,) in found:
            assert served.watermark == watermark
            np.testing.assert_allclose(served.scores_K, expected.scores_K, rtol=0, atol=TOLERANCE)

    def outcomes(self):
        """What became of states, of both replicas together."""
        found = self.handle.broadcast("models").results(timeout_s=60)
        assert len(found) == 2
        return sum((Counter(one["states"][0]["outcomes"]) for one in found), Counter())

    def states(self):
        """How many states each replica holds."""
        found = self.handle.broadcast("models").results(timeout_s=60)
        return sorted(one["states"][0]["states"] for one in found)


@pytest.fixture(scope="module")
def shared(tmp_path_factory, local_ray):  # noqa: ARG001 - Ray must be up
    from ray import serve

    made = Shared(tmp_path_factory.mktemp("shared"))
    made.handle = made.run("shared")
    for user in USERS:
        made.append(user, 0, 20)
    yield made
    serve.delete("shared")


def processes(name):
    """Of this test's Ray, those that live."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            if name in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_a_users_requests_meet_one_replica_and_its_state(shared):
    before = shared.outcomes()
    for turn in range(4):
        for user in USERS:
            assert shared.append(user, 20 + turn, 21 + turn) == 21 + turn
            shared.rank(user, 21 + turn, session=str(user))
    found = shared.outcomes() - before
    assert found == {"missing": len(USERS), "behind": 3 * len(USERS)}
    assert sum(shared.states()) == len(USERS)
    assert min(shared.states()) > 0


def test_answers_do_not_depend_on_the_replica(shared):
    for _ in range(2):
        for user in USERS:
            shared.rank(user, 24)
    assert shared.states() == [len(USERS), len(USERS)]


def test_an_erasure_reaches_the_states_of_every_replica(shared):
    shared.rank(3, 24)
    before = shared.states()
    assert shared.ask("erase", 3) == 24
    assert shared.states() == [held - 1 for held in before]
    for seed in (1, 0):  # other lives under the same id, which any state that is left would spoil
        shared.append(3, 0, 24, seed)
        shared.rank(3, 24, seed)
        assert shared.ask("erase", 3) == 24
        shared.append(3, 0, 24, seed + 2)
        shared.rank(3, 24, seed + 2)
        assert shared.ask("erase", 3) == 24
    shared.append(3, 0, 24)


def test_shards_that_are_killed_under_load_come_back_with_all_that_was_answered(shared):
    before = processes("ray::ShardActor")
    answered = dict.fromkeys(USERS, 24)

    def live(user):
        for begin in range(24, LENGTH, 2):
            answered[user] = shared.append(user, begin, begin + 2)

    with ThreadPoolExecutor(6) as pool:
        living = [pool.submit(live, user) for user in USERS]
        for victim in before:
            wait_until(lambda: any(one.running() for one in living), 30, "load")
            os.kill(victim.pid, signal.SIGKILL)
            time.sleep(0.5)
        for one in living:
            one.result(timeout=60)
    assert set(answered.values()) == {LENGTH}
    for user in USERS:
        assert shared.ask("user", user)[0] == LENGTH
        shared.rank(user, LENGTH, session=str(user))
    after = processes("ray::ShardActor")
    assert len(after) == 2
    assert not {one.pid for one in after} & {one.pid for one in before}


def test_a_replica_that_is_killed_leaves_its_users_to_the_other(shared):
    (victim, _) = processes("ray::ServeReplica:shared")
    os.kill(victim.pid, signal.SIGKILL)
    for user in USERS:
        shared.rank(user, LENGTH, session=str(user))
    wait_until(lambda: len(shared.handle.broadcast("models").results(timeout_s=60)) == 2, 60, "two")
    for user in USERS:
        shared.rank(user, LENGTH, session=str(user))


def test_errors_keep_their_class_across_processes(shared):
    with pytest.raises(RequestError, match=r"slot == 5, must be in \[0, 0\]"):
        shared.ask("rank", 5, [make_request()])
    with pytest.raises(CheckpointError, match="version=00009"):
        shared.ask("rank", 0, [make_request()], 9)


def test_another_number_of_shards_and_another_owner_are_refused(shared):
    from ifa_ray.serving.sequence_store import SequenceStore, open_store
    from ifa_ray.serving.sharded_histories import shard_folder

    with pytest.raises(ConfigError, match="shards == 3, must be 2"):
        open_store(shared.settings(store_options={"shards": 3}))
    with pytest.raises(ConfigError, match="shards == None, must be 2"):
        open_store(shared.settings(store_class=None, store_options=None, num_replicas=1))
    with pytest.raises(StoreError, match="another process's"):
        SequenceStore(shard_folder(shared.folder / "histories", 0, 2), patience_s=0.1)


def test_on_several_nodes_a_shard_lies_and_comes_back_where_its_resource_is(tmp_path):
    """In a process of its own, for there is a Ray in this one."""
    session = tempfile.mkdtemp(prefix="ifa-ray-", dir="/tmp")  # short, as in conftest.py
    environment = {
        **os.environ, MARK: (mark := uuid.uuid4().hex), "PYTHONPATH": str(ROOT),
        "RAY_AUTH_TOKEN": "0" * 64, "RAY_TMPDIR": session,
    }  # fmt: skip
    program = [sys.executable, str(Path(__file__).with_name("shards_on_nodes.py")), str(tmp_path)]
    try:
        done = subprocess.run(
            program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
    finally:
        end_marked(mark)
        shutil.rmtree(session, ignore_errors=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert "resource == None, must be set on a cluster of 2 nodes" in found["refusal"]
    assert found["before"] == found["after"] == ["disk-0", "disk-1"]
    assert found["stored"] == [5] * 10
    assert found["same processes"] == 0
