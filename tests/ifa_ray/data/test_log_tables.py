import numpy as np
import pytest

from ifa_ray.data.log_tables import (
    ReadSettings,
    choose_users,
    evenly_spaced,
    item_table,
    log_tables,
    watermarks,
)
from ifa_ray.errors import ConfigError, LogError
from ifa_ray.schema import IMPRESSION_COLUMNS, REQUEST_COLUMNS

ITEMS = {"video_id": [3, 1, 2], "category": [30, 10, 20]}
SHOWN = {
    "request_id": [2, 1, 1], "user_id": [5, 5, 5], "video_id": [3, 2, 1], "time_ms": [20, 10, 10],
    "position": [0, 1, 0],
}  # fmt: skip
ASKED = {"request_id": [2, 1], "user_id": [5, 5], "time_ms": [20, 10],
         "candidates": [[3, 1], [1, 2, 3]]}  # fmt: skip


def tables(shown=(), asked=(), dropped=()):
    return log_tables(
        items=item_table(ITEMS),
        impressions={k: v for k, v in {**SHOWN, **dict(shown)}.items() if k not in dropped},
        requests={**ASKED, **dict(asked)},
    )


def test_tables_are_completed_cast_and_put_in_order():
    made = tables()
    assert {name: str(column.dtype) for name, column in made.impressions.items()} == dict(
        IMPRESSION_COLUMNS
    )
    assert list(made.requests) == list(REQUEST_COLUMNS)
    assert made.impressions["video_id"].tolist() == [1, 2, 3]
    assert made.impressions["is_click"].tolist() == [0, 0, 0]
    assert made.requests["request_id"].tolist() == [1, 2]
    assert [each.tolist() for each in made.requests["candidates"]] == [[1, 2, 3], [3, 1]]
    assert [each.tolist() for each in made.requests["channels"]] == [[-1, -1, -1], [-1, -1]]
    assert made.requests["watermark"].tolist() == [0, 2]
    assert made.items.video_id_N.tolist() == [1, 2, 3]
    assert made.items.category_N.tolist() == [10, 20, 30]
    assert made.items.content_ND.shape == (3, 0)


def test_a_watermark_that_is_given_is_kept():
    assert tables(asked={"watermark": [1, 0]}).requests["watermark"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shown": {"video_id": [3, 2, 2**31]}}, r"impressions\.video_id holds 2147483648, must"),
        ({"shown": {"is_click": [0.5, 0, 1]}}, r"impressions\.is_click holds 0\.5, must be"),
        ({"shown": {"time_ms": [20, np.nan, 1]}}, r"impressions\.time_ms holds nan"),
        ({"shown": {"video_id": ["a", "b", "c"]}}, r"impressions\.video_id holds <U1, must be num"),
        ({"shown": {"is_like": [0]}}, r"impressions\.is_like has 1 rows, must be 3"),
        ({"dropped": ["time_ms"]}, r"impressions\.time_ms is missing"),
        ({"asked": {"candidates": [[1]]}}, r"requests\.candidates has 1 rows, must be 2"),
    ],
)
def test_a_column_that_does_not_fit_is_named(change, message):
    with pytest.raises(LogError, match=message):
        tables(**change)


def test_unknown_columns_are_refused_with_the_near_miss():
    with pytest.raises(ConfigError, match="Did you mean 'is_click'"):
        tables(shown={"is_clik": [0, 0, 0]})
    with pytest.raises(ConfigError, match="Did you mean 'category'"):
        item_table({"video_id": [1], "categories": [1]})


def test_watermarks_count_strictly_earlier_impressions_of_the_user():
    rng = np.random.default_rng(5)
    users, times = rng.integers(0, 6, 300), rng.integers(0, 40, 300) * 10**12
    asked_by, asked_at = rng.integers(0, 8, 80), rng.integers(-1, 42, 80) * 10**12
    found = watermarks({"user_id": users, "time_ms": times}, asked_by, asked_at)
    assert found.tolist() == [
        int(((users == u) & (times < t)).sum()) for u, t in zip(asked_by, asked_at, strict=True)
    ]


def test_users_are_chosen_until_the_rows_are_full_whatever_their_order():
    users, rows = np.arange(50), np.full(50, 10)
    chosen = choose_users(users, rows, max_rows=105, max_users=None, seed=1)
    assert len(chosen) == 10
    backwards = choose_users(users[::-1], rows, max_rows=105, max_users=None, seed=1)
    assert chosen.tolist() == backwards.tolist() == sorted(chosen)
    assert len(choose_users(users, rows, max_rows=105, max_users=4, seed=1)) == 4
    other = choose_users(users, rows, max_rows=105, max_users=None, seed=2)
    assert chosen.tolist() != other.tolist()
    with pytest.raises(LogError, match="max_rows == 9, must be >= 10: one user has as many rows"):
        choose_users(users, rows, max_rows=9, max_users=None, seed=1)


def test_a_cap_keeps_first_and_last():
    assert evenly_spaced(np.arange(100), 3).tolist() == [0, 50, 99]
    assert evenly_spaced(np.arange(2), 3).tolist() == [0, 1]
    assert evenly_spaced(np.arange(2), None).tolist() == [0, 1]


def test_settings_that_make_no_sense_are_refused():
    for name in ("num_sampled", "max_history", "max_requests"):
        with pytest.raises(ConfigError, match=f"{name} == 0, must be >= 1"):
            ReadSettings(**{name: 0})
