import numpy as np
import pytest

from ifa_ray.errors import LogError
from ifa_ray.schema import ACTIONS, IMPRESSION_COLUMNS, OBJECTIVES
from ifa_ray.training.samples import LogFollower, join_labels

Columns = dict[str, np.ndarray]


def impressions(*rows: dict[str, int]) -> Columns:
    """Columns of impressions; what a row does not name is 0."""
    return {
        name: np.array([row.get(name, 0) for row in rows], kind)
        for name, kind in IMPRESSION_COLUMNS.items()
    }


def shown(
    request_id: int, user_id: int, video_id: int, time_ms: int, **more: int
) -> dict[str, int]:
    return dict(request_id=request_id, user_id=user_id, video_id=video_id, time_ms=time_ms, **more)


def requests(*rows: tuple[int, int, int, int, list[int]]) -> Columns:
    """Columns of requests from (request_id, user_id, time_ms, watermark, candidates)."""
    ids, users, times, marks, candidates = zip(*rows, strict=True) if rows else ((),) * 5
    lists = [np.array(c, np.int32) for c in candidates]
    return {
        "request_id": np.array(ids, np.int64),
        "user_id": np.array(users, np.int32),
        "time_ms": np.array(times, np.int64),
        "watermark": np.array(marks, np.int32),
        "candidates": np.fromiter(lists, object, len(lists)),
        "channels": np.fromiter((np.zeros(len(c), np.int8) for c in lists), object, len(lists)),
    }


LOG = impressions(
    shown(10, 1, 50, 100, is_click=1),
    shown(10, 1, 51, 110, is_click=1, is_like=1),
    shown(20, 2, 60, 105),
    shown(11, 1, 52, 200, long_view=1, is_hate=1),
    shown(11, 1, 99, 210, is_rand=1, is_click=1),
    shown(12, 1, 53, 300),
)


def follower(**settings: int) -> LogFollower:
    made = LogFollower(**{"max_history": 100, **settings})
    made.append(LOG)
    return made


def test_every_candidate_is_labelled_and_never_shown_ones_are_zeros() -> None:
    [sample] = follower().samples(requests((10, 1, 100, 0, [7, 51, 8, 50])), LOG)
    assert OBJECTIVES == ("impression", "is_click", "long_view", "is_like")
    assert sample.labels_CL.tolist() == [[0, 0, 0, 0], [1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]]
    assert sample.labels_CL.dtype == np.uint8


def test_a_history_is_the_first_watermark_impressions_of_that_user() -> None:
    rows = requests((11, 1, 200, 2, [52, 1]), (12, 1, 300, 4, [53]), (20, 2, 105, 0, [60]))
    first, second, third = (s.request.history for s in follower().samples(rows, LOG))
    assert first.ids_T.tolist() == [50, 51]
    assert first.times_ms_T.tolist() == [100, 110]
    click, like = 1 << ACTIONS.index("is_click"), 1 << ACTIONS.index("is_like")
    assert first.actions_T.tolist() == [click, click | like]
    assert second.ids_T.tolist() == [50, 51, 52, 99], "what was shown at random was seen too"
    assert len(third) == 0


def test_a_history_is_cut_to_its_latest_behaviours() -> None:
    [sample] = follower(max_history=2).samples(requests((12, 1, 300, 4, [53])), LOG)
    assert sample.request.history.ids_T.tolist() == [52, 99]


def test_later_impressions_change_no_sample() -> None:
    rows = requests((11, 1, 200, 2, [52, 1]))
    made = follower()
    [before] = made.samples(rows, LOG)
    for i in range(200):
        made.append(impressions(shown(13 + i, 1, i, 400 + i, is_click=1)))
    [after] = made.samples(rows, LOG)
    for sample in (before, after):
        assert sample.request.history.ids_T.tolist() == [50, 51]
        assert sample.labels_CL.tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]]


def test_random_impressions_label_only_candidates() -> None:
    outside = requests((11, 1, 200, 2, [52, 1]))
    inside = requests((11, 1, 200, 2, [52, 99]))
    assert join_labels(outside, LOG)[0][0].tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]]
    assert join_labels(inside, LOG)[0][0].tolist() == [[1, 0, 1, 0], [1, 1, 0, 0]]


def test_labels_equal_a_row_by_row_join_and_requests_keep_their_order() -> None:
    rng = np.random.default_rng(5)
    ids = rng.permutation(30)
    rows = [(int(i), int(i) % 4, 0, 0, rng.choice(60, 20, replace=False).tolist()) for i in ids]
    seen = [
        shown(row[0], row[1], int(video), 0, **{a: int(rng.integers(2)) for a in ACTIONS})
        for row in rows
        for video in rng.choice(row[4], 6, replace=False)
    ]
    seen += [shown(777, 0, 3, 0)]  # A request that was not sampled.
    log = impressions(*[seen[i] for i in rng.permutation(len(seen))])
    table = {(s["request_id"], s["video_id"]): s for s in seen}
    sampled = rows[::2]
    for (labels, _), row in zip(join_labels(requests(*sampled), log), sampled, strict=True):
        for found, video in zip(labels.tolist(), row[4], strict=True):
            event = table.get((row[0], video))
            expected = [1, *(event[name] for name in OBJECTIVES[1:])] if event else [0] * 4
            assert found == expected


def test_nothing_sampled_or_nothing_shown_is_no_error() -> None:
    assert follower().samples(requests(), LOG) == []
    [sample] = follower().samples(requests((5, 9, 0, 0, [1, 2])), impressions())
    assert not sample.labels_CL.any()


def test_an_impression_that_was_no_candidate_is_an_error() -> None:
    with pytest.raises(LogError, match="video 51 of request 10 was not a candidate"):
        join_labels(requests((10, 1, 100, 0, [50, 7])), LOG)


def test_an_impression_logged_twice_is_an_error() -> None:
    log = impressions(shown(10, 1, 50, 100), shown(10, 1, 50, 101))
    with pytest.raises(LogError, match="video 50 of request 10 is logged more than once"):
        join_labels(requests((10, 1, 100, 0, [50])), log)


def test_an_impression_of_another_user_is_an_error() -> None:
    with pytest.raises(LogError, match="video 50 of request 10 is of user 1, must be of user 3"):
        join_labels(requests((10, 3, 100, 0, [50, 51])), LOG)


def test_a_watermark_beyond_the_log_is_an_error() -> None:
    with pytest.raises(LogError, match="watermark == 6 of user 1, must be <= 5 stored"):
        follower().samples(requests((12, 1, 300, 6, [53])), LOG)


def test_a_watermark_that_shows_the_future_is_an_error() -> None:
    with pytest.raises(LogError, match=r"request 11 of the log: history\.times_ms"):
        follower().samples(requests((11, 1, 200, 4, [52])), LOG)


def test_time_that_goes_back_is_an_error_within_a_file_and_between_files() -> None:
    within = impressions(shown(1, 5, 1, 10), shown(1, 6, 1, 3), shown(2, 5, 2, 9))
    with pytest.raises(LogError, match="of user 5 goes back to 9"):
        LogFollower(max_history=9).append(within)
    with pytest.raises(LogError, match="of user 2 goes back to 104"):
        follower().append(impressions(shown(30, 2, 1, 104)))


def test_positions_are_those_of_the_log_and_minus_one_where_nothing_was_shown() -> None:
    log = impressions(
        shown(10, 1, 51, 100, position=0),
        shown(10, 1, 99, 110, position=1, is_rand=1),
        shown(10, 1, 50, 120, position=2),
    )
    made = LogFollower(max_history=9)
    made.append(log)
    [sample] = made.samples(requests((10, 1, 100, 0, [7, 50, 51])), log)
    assert sample.positions_C is not None
    assert sample.positions_C.tolist() == [-1, 2, 0]
    assert sample.positions_C.dtype == np.int16
