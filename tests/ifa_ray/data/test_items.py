import numpy as np
import pytest

from ifa_ray.data.items import ItemTable
from ifa_ray.errors import RequestError


def table(ids):
    n = len(ids)
    zeros = np.zeros(n, np.int32)
    return ItemTable(
        video_id_N=np.array(ids, np.int32), author_id_N=zeros, category_N=zeros,
        duration_ms_N=zeros, upload_ms_N=np.zeros(n, np.int64),
        content_ND=np.zeros((n, 0), np.float32),
    )  # fmt: skip


LARGEST = 2**31 - 1
CATALOGUES = {
    "close": [0, 1, 2, 5, 9],
    "from_one": [3, 4, 1_002],
    "far_apart": [7, 1_000_000, 2_000_000_000],
    "the_largest_id": [1, LARGEST],
    "negative": [-5, 0, 3],
    "one": [0],
}


@pytest.mark.parametrize("ids", CATALOGUES.values(), ids=CATALOGUES)
def test_an_id_is_found_at_its_place_and_no_other_is(ids):
    items = table(ids)
    asked = {id_ + step for id_ in ids for step in (-1, 0, 1)} | {0, LARGEST, -1, -(2**31)}
    asked_A = np.array([id_ for id_ in asked if -(2**31) <= id_ <= LARGEST], np.int32)
    expected = [ids.index(id_) + 1 if id_ in ids else 0 for id_ in asked_A.tolist()]
    rows = items.rows(asked_A)
    assert rows.tolist() == expected
    assert rows.dtype == np.int64


@pytest.mark.parametrize("spread", [1, 3, 50])
def test_a_look_up_finds_what_a_search_finds(spread):
    rng = np.random.default_rng(spread)
    ids = np.unique(rng.integers(0, 2_000 * spread, 2_000))
    items = table(ids)
    asked = rng.integers(-10, 2_100 * spread, 5_000).astype(np.int32)
    assert np.array_equal(items.rows(asked), items.rows_by_search(asked))
    assert np.array_equal(items.rows(asked[::3]), items.rows_by_search(asked)[::3])
    assert items.rows(asked[:0]).shape == (0,)


def test_ids_of_another_type_are_found_too():
    items = table([0, 1, 2, 5, 9])
    assert items.rows(np.array([2**32 + 5, 5], np.int64)).tolist() == [0, 4]


def test_an_unknown_candidate_is_named():
    with pytest.raises(RequestError, match="3"):
        table([0, 1, 2, 5]).known_rows(np.array([1, 3], np.int32))
