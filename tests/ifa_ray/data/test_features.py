import dataclasses
import itertools

import numpy as np
import pytest
import torch

from ifa_ray.config import CROSS_FEATURES, ModelConfig
from ifa_ray.data.features import (
    LOG_SCALE,
    NUM_GAPS,
    NUM_HOURS,
    NUM_LENGTHS,
    Batch,
    build_batch,
)
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import RequestError
from ifa_ray.schema import History, RankRequest

HOUR_MS = 3_600_000
NOW_MS = 1000 * 24 * HOUR_MS + 5 * HOUR_MS + 17
CONFIG = ModelConfig(name="ifa", max_history=50, user_buckets=10)
# Videos 10, 20, ... 80; rows 1 to 8.
ITEMS = ItemTable(
    video_id_N=np.arange(10, 90, 10, dtype=np.int32),
    author_id_N=np.array([7, 7, 2**31 - 1, 5, 5, 7, 0, 3], np.int32),
    category_N=np.zeros(8, np.int32),
    duration_ms_N=np.ones(8, np.int32),
    upload_ms_N=np.zeros(8, np.int64),
    content_ND=np.zeros((8, 0), np.float32),
)


def history(*ids, actions=None, ago_ms=None):
    n = len(ids)
    ago = np.arange(n, 0, -1) if ago_ms is None else np.array(ago_ms, np.int64)
    return History(
        ids_T=np.array(ids, np.int32),
        actions_T=np.array([0] * n if actions is None else actions, np.uint8),
        times_ms_T=(NOW_MS - ago).astype(np.int64),
    )


def request(candidates, past, channels=None, user_id=123):
    return RankRequest(
        request_id=1,
        user_id=user_id,
        time_ms=NOW_MS,
        candidates_C=np.array(candidates, np.int32),
        channels_C=None if channels is None else np.array(channels, np.int8),
        history=past,
        k=1,
    )


def batch_of(*requests, config=CONFIG):
    return build_batch(requests, ITEMS, config)


def test_one_request_by_hand():
    past = history(20, 999, 30, actions=[3, 0, 200], ago_ms=[120_000, 60_000, 59_999])
    batch = batch_of(request([80, 10], past, channels=[0, 3]))
    assert batch.candidate_rows_BC.tolist() == [[8, 1]]
    assert batch.mask_BC.tolist() == [[True, True]]
    assert batch.channel_BC.tolist() == [[1, 4]]
    assert batch.history_rows_BT.tolist() == [[2, 0, 3]]
    assert batch.history_actions_BT.tolist() == [[3, 0, 200 & 127]]
    assert batch.history_gap_BT.tolist() == [[2, 1, 0]]  # edges: 60 s, 96 s, 153.6 s
    assert batch.mask_BT.tolist() == [[True, True, True]]
    assert batch.user_B.tolist() == [3]
    assert batch.hour_B.tolist() == [5]
    assert batch.length_B.tolist() == [2]  # 1; 2 and 3; 4; 5 to 7
    assert batch.candidate_code_BC.tolist() == [[3, 0]]  # author 3 never seen, author 7 at place 0
    assert batch.history_code_BT.tolist() == [[0, 1, 2]]


def test_histories_are_padded_on_the_left_and_candidates_on_the_right():
    batch = batch_of(request([10], history(10, 20, 30)), request([20, 30, 40], history(40)))
    assert batch.candidate_rows_BC.tolist() == [[1, 0, 0], [2, 3, 4]]
    assert batch.mask_BC.tolist() == [[True, False, False], [True, True, True]]
    assert batch.history_rows_BT.tolist() == [[1, 2, 3], [0, 0, 4]]
    assert batch.mask_BT.tolist() == [[True, True, True], [False, False, True]]


def test_the_latest_behaviours_are_kept():
    config = dataclasses.replace(CONFIG, max_history=2)
    batch = batch_of(request([10], history(10, 20, 30, 40)), config=config)
    assert batch.history_rows_BT.tolist() == [[3, 4]]
    assert batch.candidate_code_BC.tolist() == [[2]]  # its author was watched, but too long ago


def test_an_empty_history_is_one_padded_behaviour():
    batch = batch_of(request([10, 20], history()))
    assert batch.mask_BT.tolist() == [[False]]
    assert batch.candidate_code_BC.tolist() == [[1, 1]]
    assert batch.length_B.tolist() == [0]


def test_authors_of_ragged_requests_match_by_a_loop():
    rng = np.random.default_rng(0)
    requests = [
        request(rng.permutation(ITEMS.video_id_N)[: 1 + i % 8], history(*rng.choice(
            [*ITEMS.video_id_N, 999, 998], size=i
        )))
        for i in range(20)
    ]  # fmt: skip
    batch = batch_of(*requests)
    author = dict(zip(ITEMS.video_id_N.tolist(), ITEMS.author_id_N.tolist(), strict=True))
    T = batch.mask_BT.shape[1]
    for b, asked in enumerate(requests):
        n = len(asked.history)
        codes = batch.history_code_BT[b].tolist()
        assert codes[: T - n] == [T] * (T - n)
        seen = [author.get(i) for i in asked.history.ids_T.tolist()]  # None for what has left
        real = codes[T - n :]
        assert all(0 <= code < T for code in real)
        for (one, code), (other, code_) in itertools.combinations(zip(seen, real, strict=True), 2):
            assert (one == other) == (code == code_)
        for c, video in enumerate(asked.candidates_C.tolist()):
            code = batch.candidate_code_BC[b, c].item()
            matching = [x for x, a in zip(real, seen, strict=True) if a == author[video]]
            assert code == (matching[0] if matching else T)


def test_gap_buckets_count_the_edges_that_were_reached():
    ago = np.sort(np.random.default_rng(1).integers(0, 10**11, 49))[::-1]
    batch = batch_of(request([10], history(*[10] * 49, ago_ms=ago)))
    edges = [int(60_000 * 1.6**i) for i in range(NUM_GAPS - 1)]
    expected = [sum(gap >= edge for edge in edges) for gap in ago.tolist()]
    assert batch.history_gap_BT[0].tolist() == expected
    assert max(expected) == NUM_GAPS - 1


def test_gap_buckets_change_exactly_at_their_edges():
    batch = batch_of(request([10], history(10, 10, 10, ago_ms=[60_000, 59_999, 0])))
    assert batch.history_gap_BT.tolist() == [[1, 0, 0]]


def test_every_feature_stays_inside_its_table():
    long = history(*[10] * 5000, ago_ms=np.linspace(10**13, 0, 5000))
    config = dataclasses.replace(CONFIG, max_history=10_000)
    channels = [-128, -1, 0, 14, 15, 127]
    batch = batch_of(
        request([10, 20, 30, 40, 50, 60], long, channels=channels, user_id=2**40), config=config
    )
    assert batch.channel_BC.tolist() == [[0, 0, 1, 15, 1, 1 + 127 % 15]]
    assert 0 <= batch.length_B.item() < NUM_LENGTHS
    assert 0 <= batch.hour_B.item() < NUM_HOURS
    assert batch.history_gap_BT.min() >= 0
    assert batch.history_gap_BT.max() < NUM_GAPS
    assert 0 <= batch.user_B.item() < CONFIG.user_buckets


def test_the_length_bucket_grows_with_the_length_read():
    config = dataclasses.replace(CONFIG, max_history=300)
    lengths = [0, 1, 2, 3, 5, 10, 100, 299, 300, 400]
    batch = batch_of(*(request([10], history(*[10] * n)) for n in lengths), config=config)
    buckets = batch.length_B.tolist()
    assert buckets == sorted(buckets)
    assert buckets[:5] == [0, 1, 2, 2, 4]
    assert buckets[-1] == buckets[-2]


def test_a_request_gives_the_same_features_alone_and_in_a_batch():
    one = request([10, 20, 70], history(10, 60, 40), channels=[1, 2, 3])
    config = dataclasses.replace(CONFIG, cross_features=CROSS_FEATURES)
    alone = batch_of(one, config=config)
    batch = batch_of(request([10, 20, 30, 40], history(*[50] * 9)), one, config=config)
    for field in dataclasses.fields(Batch):
        value, expected = getattr(batch, field.name)[1], getattr(alone, field.name)[0]
        if field.name.endswith("BT"):
            value = value[-3:]
        if "_BC" in field.name:
            value = value[:3]
        if "code" in field.name:  # places, shifted by the padding
            value = value - 6
        assert torch.equal(value, expected), field.name


def test_counts_of_category_and_author_by_hand():
    items = dataclasses.replace(ITEMS, category_N=np.array([1, 1, 2, 2, 1, 9, 9, 9], np.int32))
    config = dataclasses.replace(CONFIG, cross_features=("author", "channel", "category"))
    # Of authors 7, 7, 5, 7 and categories 1, 1, 2, 9.
    past = history(
        10, 20, 40, 60, actions=[1, 7, 2, 0], ago_ms=[10 * 60_000, 60_000, 60_000, 1_000]
    )
    batch = build_batch([request([20, 50, 70], past)], items, config)
    times = torch.expm1(batch.cross_counts_BCX / LOG_SCALE).round()[0].tolist()
    category, author = [row[:4] for row in times], [row[4:] for row in times]
    # impressions, clicks, long views, likes
    assert category == [[2, 2, 1, 1], [2, 2, 1, 1], [1, 0, 0, 0]]
    assert author == [[3, 2, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]]
    gap = batch.history_gap_BT[0].tolist()
    expected = [[gap[1], gap[3]], [gap[1], gap[2]], [gap[3], NUM_GAPS]]
    assert batch.cross_gap_BCK[0].tolist() == expected


def test_ages_are_days():
    batch = batch_of(request([10], history(10, 20, ago_ms=[36 * HOUR_MS, 0])))
    assert batch.history_age_days_BT.tolist() == [[1.5, 0.0]]


def test_indices_are_int64_and_masks_boolean():
    batch = batch_of(request([10], history(10)))
    for field in dataclasses.fields(Batch):
        floats = field.name.startswith(("cross_counts", "history_age"))
        wanted = torch.bool if field.name.startswith("mask") else torch.int64
        wanted = torch.float32 if floats else wanted
        assert getattr(batch, field.name).dtype == wanted, field.name


def test_a_candidate_outside_the_catalogue_is_refused_by_name():
    with pytest.raises(RequestError, match="candidate 11 is not in the catalogue of 8 items"):
        batch_of(request([10, 11], history()))


def test_no_request_is_refused():
    with pytest.raises(RequestError, match="must be >= 1"):
        build_batch([], ITEMS, CONFIG)
