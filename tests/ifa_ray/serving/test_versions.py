import threading

import numpy as np
import pytest
from serving_fakes import LargestIdFirst, make_request

from ifa_ray.errors import CheckpointError, RankerError
from ifa_ray.serving.versions import Loaded, Slot, score


def counting_slot(first=0, existing=range(100)):
    """A slot over versions that exist, and the list of versions it read, in order."""
    read = []

    def load_version(version):
        if version not in existing:
            raise CheckpointError(f"version {version} does not exist")
        read.append(version)
        return LargestIdFirst(version)

    return Slot(Loaded(first, LargestIdFirst(first)), load_version), read


def test_a_request_without_a_version_gets_the_newest():
    slot, read = counting_slot(first=4)
    assert slot.find().version == 4
    slot.load(6)
    assert slot.find().version == 6
    assert slot.find(5).version == 6
    assert read == [6]


def test_a_version_that_is_not_in_memory_is_not_found():
    slot, _ = counting_slot(first=4)
    assert slot.find(5) is None
    assert slot.find(3, exact=True) is None
    assert slot.find(3).version == 4  # newer will do unless it must be exact


def test_a_late_request_still_gets_its_exact_version_after_the_next_was_pushed():
    slot, read = counting_slot(first=0)
    slot.load(1)
    assert slot.find(0, exact=True).version == 0
    assert slot.find(1, exact=True).version == 1
    slot.load(2)
    assert slot.find(1, exact=True).version == 1
    assert slot.find(0, exact=True) is None
    assert read == [1, 2]


def test_at_most_two_versions_are_held():
    slot, _ = counting_slot()
    for version in (1, 2, 3, 7):
        slot.load(version)
        assert len(slot.versions) <= 2
    assert slot.versions == [7, 3]


def test_the_newest_version_never_goes_back():
    slot, read = counting_slot(first=5)
    assert slot.load(3).version == 5  # pushed late: nothing to do
    assert read == []
    assert slot.load(3, exact=True).version == 3  # asked for exactly: read, but not the newest
    assert slot.newest.version == 5
    assert slot.versions == [5, 3]


def test_a_fixed_slot_refuses_other_versions():
    slot = Slot(Loaded(3, LargestIdFirst()), name="slots[0] of twin")
    assert slot.load(2).version == 3
    with pytest.raises(CheckpointError, match=r"version == 4, must be 3: slots\[0\] of twin"):
        slot.load(4)
    with pytest.raises(CheckpointError, match="version == 2, must be 3"):
        slot.load(2, exact=True)


def test_a_failed_load_leaves_the_slot_as_it_was():
    slot, _ = counting_slot(first=1, existing=[2])
    with pytest.raises(CheckpointError):
        slot.load(9)
    assert slot.versions == [1]
    assert slot.load(2).version == 2


def test_many_threads_that_need_a_version_read_it_once():
    slot, read = counting_slot()
    barrier = threading.Barrier(8)

    def pull():
        barrier.wait()
        for version in range(1, 6):
            slot.load(version)

    threads = [threading.Thread(target=pull) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [1, 2, 3, 4, 5]
    assert slot.versions == [5, 4]


def test_readers_never_see_the_newest_version_go_back_during_swaps():
    slot, _ = counting_slot()
    seen, done = [], threading.Event()

    def watch():
        while not done.is_set():
            seen.append(slot.newest.version)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for version in range(1, 100):
        slot.load(version)
        slot.load(version - 1, exact=True)
    done.set()
    watcher.join()
    assert seen == sorted(seen)


def test_answers_carry_the_version_that_was_loaded():
    class Unversioned(LargestIdFirst):
        pass

    (response,) = score(Loaded(8, Unversioned(version=0)), [make_request()])
    assert response.model_version == 8
    assert response.ids_K.tolist() == [9, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores_K": np.array([np.nan, 1], np.float32)}, "must be finite"),
        ({"ids_K": np.array([9, 77], np.int32)}, "id 77 is returned but was not a candidate"),
        ({"ids_K": np.array([9, 9], np.int32)}, "more than once"),
        ({"scores_K": np.array([1, 2], np.float32)}, "best first"),
        ({"request_id": 2}, "request_id == 2"),
    ],
)
def test_an_answer_that_breaks_the_contract_is_refused(change, message):
    import dataclasses

    class Bad(LargestIdFirst):
        def answer(self, request):
            return dataclasses.replace(super().answer(request), **change)

    with pytest.raises(RankerError, match=message):
        score(Loaded(0, Bad()), [make_request()])


def test_a_missing_answer_is_refused():
    class Short(LargestIdFirst):
        def rank(self, requests):
            return super().rank(requests)[:-1]

    with pytest.raises(RankerError, match=r"len\(responses\) == 1, must be 2"):
        score(Loaded(0, Short()), [make_request(1), make_request(2)])
