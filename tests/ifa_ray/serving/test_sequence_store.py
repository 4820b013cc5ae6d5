import contextlib
import dataclasses
import itertools
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from lives import append_of, assert_same_history, life_of

from ifa_ray.errors import ConfigError, RequestError, StoreError
from ifa_ray.schema import History
from ifa_ray.serving.sequence_store import (
    CHUNK,
    MAX_BATCH,
    MAX_LENGTH,
    Append,
    SequenceConflictError,
    SequenceStore,
    StoreCorruptError,
    StoreFullError,
    part,
)


@pytest.fixture
def store(tmp_path):
    with_folder = SequenceStore(tmp_path / "store")
    yield with_folder
    with_folder.close()


def reopened(store, **options):
    store.close()
    return SequenceStore(store.path.parent, patience_s=0, **options)


def test_a_history_is_read_back_in_any_part(store):
    cuts = [0, 3, CHUNK, CHUNK + 1, 3 * CHUNK + 7, 3 * CHUNK + 8]
    for begin, stop in itertools.pairwise(cuts):
        (done,) = store.append([append_of(7, begin, stop)])
        assert (done.watermark, done.appended) == (stop, stop - begin)
    whole = life_of(7, cuts[-1])
    assert_same_history(store.read(7), whole)
    for begin, count in [(0, 5), (2, CHUNK), (CHUNK, CHUNK), (CHUNK - 1, 2), (770, 9), (10**6, 5)]:
        assert_same_history(store.read(7, begin, begin + count), part(whole, begin, begin + count))
    assert store.watermark(7)[:2] == (len(whole), whole.times_ms_T[-1])


@pytest.mark.parametrize("field", ["ids_T", "actions_T", "times_ms_T"])
def test_other_behaviours_in_the_same_place_are_refused(store, field):
    store.append([append_of(7, 0, 10)])
    one = append_of(7, 5, 12)
    column = getattr(one.history, field).copy()
    column[0] -= 1
    other = dataclasses.replace(one, history=dataclasses.replace(one.history, **{field: column}))
    with pytest.raises(SequenceConflictError, match=r"stored in \[5, 10\)"):
        store.append([other])
    assert_same_history(store.read(7), life_of(7, 10))


def history(ids=(1, 2), actions=(0, 0), times_ms=(10, 20)):
    return History(
        ids_T=np.array(ids, np.int32),
        actions_T=np.array(actions, np.uint8),
        times_ms_T=np.array(times_ms, np.int64),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"history": History.empty()}, r"len\(ids\) == 0, must be in \[1, 10000\]"),
        ({"history": life_of(1, MAX_BATCH + 1)}, r"len\(ids\) == 10001, must be in"),
        ({"user_id": -1}, "user_id == -1, must be in"),
        ({"user_id": 2**63}, "user_id == 9223372036854775808, must be in"),
        ({"begin": -1}, "begin == -1, must be in"),
        ({"begin": MAX_LENGTH + 1}, "begin == 10000001, must be in"),
        (
            {"history": history(actions=(0,))},
            r"actions has type and shape uint8 \(1,\), must be uint8 \(2,\)",
        ),
        ({"history": history(ids=(1, -2))}, r"min\(ids\) == -2, must be >= 0"),
        ({"history": history(times_ms=(20, 10))}, "times_ms decreases"),
        (
            {"history": dataclasses.replace(history(), ids_T=np.array([1, 2]))},
            "ids has type and shape int64",
        ),
    ],
)
def test_an_append_that_breaks_a_rule_is_refused_with_it(store, change, message):
    valid = Append(user_id=7, begin=0, history=history())
    with pytest.raises(RequestError, match=message):
        store.append([valid, dataclasses.replace(valid, **change)])
    assert store.watermark(7).length == 0  # none of the call


WRITER = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from lives import append_of
from ifa_ray.serving.sequence_store import SequenceStore
store = SequenceStore(Path(sys.argv[1]))
at = {user: store.watermark(user).length for user in range(3)}
while True:
    for user in at:
        store.append([append_of(user, at[user], at[user] + 37)])
        at[user] += 37
        print(user, at[user], flush=True)
"""


def test_a_killed_writer_loses_nothing_that_was_answered(tmp_path):
    draw = random.Random(0)
    answered = dict.fromkeys(range(3), 0)
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[3])]
    for _ in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), *paths],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        for _ in range(draw.randrange(20, 60)):
            user, watermark = map(int, writer.stdout.readline().split())
            answered[user] = watermark
        writer.send_signal(signal.SIGKILL)
        for line in writer.communicate()[0].splitlines(keepends=True):
            if line.endswith("\n"):
                user, watermark = map(int, line.split())
                answered[user] = watermark
        assert writer.returncode == -signal.SIGKILL
        store = SequenceStore(tmp_path, patience_s=5)
        for user, watermark in answered.items():
            stored = store.watermark(user).length
            assert stored in (watermark, watermark + 37)  # the last may not have been answered
            assert_same_history(store.read(user), life_of(user, stored))
            answered[user] = stored
        store.close()
    assert min(answered.values()) > CHUNK


def test_a_second_owner_is_refused_until_the_first_is_gone(store):
    with pytest.raises(StoreError, match="must be owned by one"):
        SequenceStore(store.path.parent, patience_s=0)
    reopened(store).close()


def test_what_is_erased_is_in_no_file_any_more(store):
    store.append([append_of(7, 0, 1000), append_of(8, 0, 600)])
    secret = life_of(7, 1000).ids_T[520:530].tobytes()

    def is_on_disk():
        return any(secret in path.read_bytes() for path in store.path.parent.iterdir())

    assert is_on_disk()
    assert store.erase(7) == 1000
    assert not is_on_disk()
    assert store.watermark(7).length == 0
    assert_same_history(store.read(8), life_of(8, 600))
    store.append([append_of(7, 0, 4)])  # begins anew
    assert_same_history(store.read(7), life_of(7, 4))


def test_an_erasure_that_a_reader_keeps_in_the_log_says_so(store):
    store.append([append_of(7, 0, 1000)])
    store._writer.execute("PRAGMA busy_timeout = 50")
    with contextlib.closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM users").fetchall()
        with pytest.raises(StoreError, match="user 7 is erased, but somebody who reads"):
            store.erase(7)
    assert store.erase(7) == 0
    assert store.watermark(7).length == 0


def test_a_log_that_a_kill_left_behind_is_emptied_when_the_store_is_opened(store):
    store.append([append_of(7, 0, 1000)])
    log = store.path.with_name(store.path.name + "-wal")
    copy = log.read_bytes(), store.path.read_bytes()
    store.close()
    log.write_bytes(copy[0])
    store.path.write_bytes(copy[1])
    again = SequenceStore(store.path.parent, patience_s=0)
    assert log.stat().st_size == 0
    assert_same_history(again.read(7), life_of(7, 1000))
    again.close()


def test_a_full_store_says_so_and_still_reads_and_erases(store):
    small = reopened(store, max_bytes=2**18)
    stored = 0
    while stored < 1000 and small.path.stat().st_size < 2**18 - 2**14:
        small.append([append_of(stored, 0, 1000)])
        small.erase(10**6)  # brings the log into the file
        stored += 1
    with pytest.raises(StoreFullError, match=r"SQLITE_FULL.*nothing of the call was written"):
        small.append([append_of(stored, 0, 4000)])
    assert 5 < stored < 25
    assert small.watermark(stored).length == 0
    assert_same_history(small.read(stored - 1), life_of(stored - 1, 1000))
    assert small.path.stat().st_size <= 2**18
    for user in range(5):
        small.erase(user)
    small.append([append_of(stored, 0, 4000)])
    small.close()


def test_a_file_that_is_no_store_is_named(store):
    store.close()
    for suffix in ("-wal", "-shm"):
        store.path.with_name(store.path.name + suffix).unlink(missing_ok=True)
    store.path.write_bytes(b"something else" * 1000)
    with pytest.raises(StoreCorruptError, match=r"histories.sqlite3: SQLITE_NOTADB"):
        SequenceStore(store.path.parent, patience_s=0)


def test_a_store_of_another_version_is_refused(store):
    store.close()
    with sqlite3.connect(store.path) as connection:
        connection.execute("PRAGMA user_version = 3")
    connection.close()
    with pytest.raises(StoreCorruptError, match="user_version == 3, must be <= 2"):
        SequenceStore(store.path.parent, patience_s=0)


def test_a_store_of_the_first_version_is_read_and_written_on(store):
    store.append([append_of(7, 0, 300)])
    store.close()
    with sqlite3.connect(store.path) as connection:
        connection.execute("ALTER TABLE users DROP COLUMN generation")
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    for stop in (310, 320):
        again = SequenceStore(store.path.parent, patience_s=0)
        again.append([append_of(7, 300, stop), append_of(8, 0, 4)])
        assert_same_history(again.read(7), life_of(7, stop))
        assert again.watermark(7).generation == 1 != again.watermark(8).generation
        again.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE chunks SET behaviours = zeroblob(length(behaviours)) WHERE number = 1",
        "UPDATE chunks SET behaviours = substr(behaviours, 2) WHERE number = 1",
        "DELETE FROM chunks WHERE number = 1",
    ],
)
def test_a_damaged_history_is_never_read_as_a_sound_one(store, damage):
    store.append([append_of(7, 0, 3 * CHUNK), append_of(8, 0, 5)])
    store.close()
    with sqlite3.connect(store.path) as connection:
        connection.execute(damage)
    connection.close()
    again = SequenceStore(store.path.parent, patience_s=0)
    with pytest.raises(StoreCorruptError, match="of user 7 are damaged"):
        again.read(7)
    assert_same_history(again.read(7, 0, CHUNK), life_of(7, CHUNK))  # what is sound is
    assert_same_history(again.read(8), life_of(8, 5))
    again.close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        SequenceStore(tmp_path / "file" / "store")
    with pytest.raises(ConfigError, match="max_bytes == 1, must be >= 65536"):
        SequenceStore(tmp_path, max_bytes=1)


USERS = st.integers(0, 2)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), USERS, st.integers(-30, 10), st.integers(1, 300)),
        st.tuples(st.just("erase"), USERS),
        st.tuples(st.just("reopen")),
        st.tuples(st.just("read"), USERS, st.integers(0, 700), st.integers(0, 700)),
    ),
    max_size=15,
)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_any_course_of_events_leaves_what_a_dict_would_hold(steps):
    with tempfile.TemporaryDirectory() as folder:
        store = SequenceStore(Path(folder))
        lengths = dict.fromkeys(range(3), 0)
        for step, *args in steps:
            if step == "append":
                user, offset, count = args
                begin = max(0, lengths[user] + offset)
                if begin > lengths[user]:
                    with pytest.raises(SequenceConflictError):
                        store.append([append_of(user, begin, begin + count)])
                    continue
                (done,) = store.append([append_of(user, begin, begin + count)])
                after = max(lengths[user], begin + count)
                assert (done.watermark, done.appended) == (after, after - lengths[user])
                lengths[user] = after
            elif step == "erase":
                assert store.erase(args[0]) == lengths[args[0]]
                lengths[args[0]] = 0
            elif step == "reopen":
                store = reopened(store)
            else:
                user, begin, stop = args
                expected = part(life_of(user, lengths[user]), begin, stop)
                assert_same_history(store.read(user, begin, stop), expected)
        for user, length in lengths.items():
            assert store.watermark(user).length == length
            assert_same_history(store.read(user), life_of(user, length))
        store.close()
