"""Every way to break the contract is found where the answer enters the library."""

import bad_rankers
import numpy as np
import pytest

from ifa_ray.data.items import ItemTable
from ifa_ray.errors import RankerError
from ifa_ray.schema import History, RankRequest
from ifa_ray.serving.versions import Loaded, score

NUM_ITEMS = 30


@pytest.fixture
def items():
    ids = np.arange(NUM_ITEMS, dtype=np.int32)
    return ItemTable(
        video_id_N=ids,
        author_id_N=ids,
        category_N=ids,
        duration_ms_N=ids + 1,
        upload_ms_N=ids.astype(np.int64),
        content_ND=np.zeros((NUM_ITEMS, 0), np.float32),
    )


def request():
    return RankRequest(
        request_id=5,
        user_id=1,
        time_ms=10,
        candidates_C=np.arange(20, dtype=np.int32),
        history=History.empty(),
        k=8,
    )


@pytest.mark.parametrize(
    ("ranker", "says"),
    [
        ("NaNScores", r"request 5: scores\[7\] == nan, must be finite"),
        ("ForeignId", "request 5: id 20 is returned but was not a candidate"),
        ("Duplicate", "request 5: id 1 is returned more than once|id 0 is returned more than once"),
        ("TooFew", r"request 5: len\(ids\) == 7, must be k == 8"),
    ],
)
def test_an_answer_that_breaks_the_contract_is_refused(items, ranker, says):
    bad = getattr(bad_rankers, ranker)(items=items, seed=0)
    with pytest.raises(RankerError, match=says):
        score(Loaded(0, bad), [request()])


def test_an_answer_that_keeps_the_contract_is_measured(items):
    (answer,) = score(Loaded(3, bad_rankers._Bad(items=items, seed=0)), [request()])
    assert answer.model_version == 3
    assert answer.rank_ms > 0
