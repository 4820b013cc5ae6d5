"""Histories in shards, all in this process: what a reader is told, and what no request may mix."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from lives import append_of, assert_same_history, life_of

from ifa_ray.errors import ConfigError, IfaRayError, RequestError
from ifa_ray.schema import History
from ifa_ray.serving import sharded_histories
from ifa_ray.serving.sequence_store import (
    Append,
    SequenceConflictError,
    SequenceStore,
    joined,
    part,
)
from ifa_ray.serving.sharded_histories import (
    ErasedMeanwhileError,
    HistoryShard,
    ShardedStore,
    check_layout,
    check_place,
    shard_of,
)

COUNT = 3
MAX_BYTES = 2**22


class Here:
    """Shards of this process, which may be ended and opened again."""

    def __init__(self, folder, count=COUNT):
        self.count, self.folder = count, folder
        self.shards = [self.opened(shard) for shard in range(count)]

    def opened(self, shard):
        return HistoryShard(self.folder, shard, self.count, MAX_BYTES)

    def restart(self, shard):
        self.shards[shard].close()
        self.shards[shard] = self.opened(shard)

    def ask(self, calls):
        answers = []
        for shard, method, given in calls:
            try:
                answers.append(getattr(self.shards[shard], method)(*given))
            except IfaRayError as error:
                answers.append(error)
        return answers

    def close(self):
        pass


@pytest.fixture
def here(tmp_path):
    made = Here(tmp_path / "histories")
    yield made
    for shard in made.shards:
        shard.close()


@pytest.fixture
def store(here):
    return ShardedStore(here)


class Forgotten:
    """Notes which of some users' states a store had forgotten."""

    def __init__(self, store, users):
        self.users, self.found = users, set()
        self.pool = ThreadPoolExecutor(1)
        store.attend(self.note, self.pool.submit)

    def note(self, is_meant):
        self.found |= {user for user in self.users if is_meant(user)}


def test_users_lie_in_their_shards_and_answers_keep_the_order_of_the_call(here, store):
    users = list(range(20))
    done = store.append([append_of(user, 0, user + 1) for user in users])
    assert [one.user_id for one in done] == users
    assert [one.watermark for one in done] == [user + 1 for user in users]
    for user in users:
        assert_same_history(store.read(user), life_of(user, user + 1))
        lengths = [shard.extent(user)[0] for shard in here.shards]
        assert lengths == [(user + 1) * (shard == shard_of(user, COUNT)) for shard in range(COUNT)]


def test_a_rule_that_is_broken_stores_nothing_and_a_conflict_what_other_shards_hold(store):
    broken = append_of(5, 0, 3)
    broken.history.ids_T[1] = -1
    with pytest.raises(RequestError, match=r"min\(ids\) == -1"):
        store.append([append_of(user, 0, 2) for user in range(5)] + [broken])
    assert {store.extent(user) for user in range(6)} == {(0, None)}

    gap = append_of(5, 7, 9)
    with pytest.raises(SequenceConflictError, match="begin == 7, must be <= 0"):
        store.append([append_of(user, 0, 2) for user in range(5)] + [gap])
    stored = {user for user in range(6) if store.extent(user)[0]}
    assert stored == {user for user in range(5) if shard_of(user, COUNT) != shard_of(5, COUNT)}
    done = store.append([append_of(user, 0, 2) for user in range(6)])  # the call, corrected
    assert {one.watermark for one in done} == {2}


def test_what_was_stored_is_there_after_a_shard_ended(here, store):
    store.append([append_of(user, 0, 300) for user in range(6)])
    for shard in range(COUNT):
        here.restart(shard)
    for user in range(6):
        assert store.watermark(user) == 300
        assert_same_history(store.read(user, 0, 300), life_of(user, 300))


def test_another_replica_forgets_who_was_erased_before_it_reads_a_watermark(here, store):
    users = range(8)
    store.append([append_of(user, 0, 4) for user in users])
    other = ShardedStore(here)
    forgotten = Forgotten(other, users)
    assert other.watermark(3) == 4
    assert forgotten.found == set()
    assert store.erase(3) == 4
    assert forgotten.found == set()
    assert other.watermark(3) == 0
    assert forgotten.found == {3}
    other.close()


def test_a_replica_that_reads_nothing_forgets_too_after_a_while(here, store, monkeypatch):
    monkeypatch.setattr(sharded_histories, "REFRESH_S", 0.02)
    store.append([append_of(3, 0, 4)])
    other = ShardedStore(here)
    forgotten = Forgotten(other, [3, 4])
    found = threading.Event()
    note = forgotten.note
    other._forget = lambda is_meant: (note(is_meant), found.set())
    store.erase(3)
    assert found.wait(10)
    assert forgotten.found == {3}
    other.close()


def test_after_a_shards_restart_any_of_its_users_may_have_been_erased(here, store):
    users = range(30)
    forgotten = Forgotten(store, users)
    user = 3
    here.restart(shard_of(user, COUNT))
    store.watermark(user)
    mine = {one for one in users if shard_of(one, COUNT) == shard_of(user, COUNT)}
    assert forgotten.found == mine != set(users)
    store.close()


def test_a_reader_far_behind_is_told_that_anybody_may_have_been_erased(here, monkeypatch):
    monkeypatch.setattr(sharded_histories, "_REMEMBERED", 4)
    shard = HistoryShard(here.folder / "few", 0, 1, MAX_BYTES)
    start = shard.news(None).seen
    for user in range(4):
        shard.erase(user)
    assert shard.news(start).erased == (0, 1, 2, 3)
    shard.erase(4)
    assert shard.news(start).erased is None
    assert shard.news(shard.news(start).seen).erased == ()
    shard.close()


def test_a_read_after_an_erasure_is_refused_to_whoever_had_the_watermark_of_before(here, store):
    store.append([append_of(3, 0, 4)])
    assert store.watermark(3) == 4
    ShardedStore(here).erase(3)
    with pytest.raises(ErasedMeanwhileError, match="user 3 was erased"):
        store.read(3, 0, 4)
    assert store.watermark(3) == 0
    assert len(store.read(3, 0, 0)) == 0
    assert len(store.read(3)) == 0  # without a watermark before: what is there


def test_the_shadow_of_a_request_or_another_thread_is_not_refused(here, store):
    store.append([append_of(3, 0, 4)])
    store.watermark(3)
    ShardedStore(here).erase(3)
    with ThreadPoolExecutor(1) as pool:
        assert len(pool.submit(store.read, 3, 0, 4).result()) == 0


def test_while_a_user_is_erased_reads_are_refused_and_watermarks_wait(here, monkeypatch):
    shard = here.shards[0]
    shard.append([append_of(3, 0, 4)])
    _, before = shard.watermark(3, None, None)
    gone, go_on, erase = threading.Event(), threading.Event(), shard._store.erase

    def slow(user_id):
        erased = erase(user_id)
        gone.set()
        assert go_on.wait(30)
        return erased

    monkeypatch.setattr(shard._store, "erase", slow)
    with ThreadPoolExecutor(2) as pool:
        erasing = pool.submit(shard.erase, 3)
        assert gone.wait(30)
        with pytest.raises(ErasedMeanwhileError):
            shard.read(3, 0, 4, before.seen)
        assert len(shard.read(4, 0, 0, before.seen)) == 0  # others are read all the while
        asked = pool.submit(shard.watermark, 3, None, before.seen)
        with pytest.raises(TimeoutError):
            asked.result(timeout=0.1)
        go_on.set()
        assert erasing.result() == 4
        watermark, news = asked.result(timeout=30)
    assert (watermark, news.erased) == (0, (3,))


def test_a_watermark_that_met_an_erasure_is_read_again(here, monkeypatch):
    shard = here.shards[0]
    shard.append([append_of(3, 0, 4)])
    _, before = shard.watermark(3, None, None)
    read = shard._store.watermark

    def met(user_id, at_ms):
        found = read(user_id, at_ms)
        monkeypatch.setattr(shard._store, "watermark", read)
        shard.erase(3)
        return found

    monkeypatch.setattr(shard._store, "watermark", met)
    watermark, news = shard.watermark(3, None, before.seen)
    assert (watermark, news.erased) == (0, (3,))


class StateReader:
    """Reads as a replica with states does: what a state lacks, and whole after an erasure."""

    def __init__(self, here):
        self.store, self.state, self.refused = ShardedStore(here), History.empty(), 0
        self.store.attend(self.forget, ThreadPoolExecutor(1).submit)

    def forget(self, is_meant):
        if is_meant(7):
            self.state = History.empty()

    def life(self):
        watermark = self.store.watermark(7)
        begin = len(self.state) if len(self.state) <= watermark else 0
        try:
            new = self.store.read(7, begin, watermark - begin)
        except ErasedMeanwhileError:
            self.refused += 1
            return None
        found = joined([part(self.state, 0, begin), new])
        if begin or not len(self.state):
            self.state = found
        return found


def test_no_reader_mixes_the_life_before_an_erasure_with_the_one_after(here):
    """Two lives under one id take turns; whatever a reader makes of them is the start of one."""
    lives = {turn: life_of(8 + turn, 60) for turn in range(2)}
    stop, turns = threading.Event(), 0

    def write():
        nonlocal turns
        writer = ShardedStore(here)
        while not stop.is_set():
            turns += 1
            for begin in (0, 30):
                new = part(lives[turns % 2], begin, begin + 30)
                writer.append([Append(user_id=7, begin=begin, history=new)])
            time.sleep(2e-3 * (turns % 3))
            writer.erase(7)

    reader = StateReader(here)
    found = {0: 0, 30: 0, 60: 0}
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        deadline = time.monotonic() + 30
        try:
            while turns < 40 or not (reader.refused and all(found.values())):
                assert time.monotonic() < deadline
                if (life := reader.life()) is not None:
                    begins = [part(one, 0, len(life)).ids_T.tolist() for one in lives.values()]
                    assert life.ids_T.tolist() in begins
                    found[len(life)] += 1
        finally:
            stop.set()
            reader.store.close()
        writing.result(timeout=60)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_histories_are_not_taken_for_those_of_another_number_of_shards(here, count):
    with pytest.raises(ConfigError, match=f"shards == {count}, must be 3: .* not moved"):
        HistoryShard(here.folder, 0, count, MAX_BYTES)
    with pytest.raises(ConfigError, match="shards == None, must be 3"):
        check_layout(here.folder, None)


def test_a_store_without_shards_is_not_given_any(tmp_path):
    SequenceStore(tmp_path).close()
    with pytest.raises(ConfigError, match="shards == 2, must be None"):
        HistoryShard(tmp_path, 0, 2, MAX_BYTES)
    check_layout(tmp_path, None)
    check_layout(tmp_path / "new", 2)


def test_on_several_nodes_it_must_be_said_where_shards_lie():
    check_place(None, 1)
    check_place("disk", 3)
    with pytest.raises(ConfigError, match=r"resource == None, .* cluster of 3 nodes"):
        check_place(None, 3)
