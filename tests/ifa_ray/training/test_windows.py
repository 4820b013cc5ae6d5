"""Cutting a stream by hour, day and count, and the metrics of each piece."""

import numpy as np
import pytest

from ifa_ray.errors import ConfigError
from ifa_ray.metrics import auc, calibration, gauc, log_loss
from ifa_ray.schema import OBJECTIVES
from ifa_ray.training.learner import BatchResult
from ifa_ray.training.progressive import Every, day_of, window_rows

HOUR = 3_600_000


def batch(rng, sizes, labels=None):
    X = sum(sizes)
    logits = rng.normal(size=(X, len(OBJECTIVES)))
    if labels is None:
        labels = rng.random((X, len(OBJECTIVES))) < 0.4
    return BatchResult(
        loss=1.0,
        sizes_B=np.array(sizes),
        log_probs_XL=-np.log1p(np.exp(-logits)).astype(np.float32),
        labels_XL=labels.astype(np.uint8),
        seconds=0.0,
    )


@pytest.mark.parametrize(
    ("text", "times", "expected"),
    [
        ("hour", [0, HOUR - 1, HOUR, 5 * HOUR], [(0, 2), (2, 3), (3, 4)]),
        ("day", [0, 23 * HOUR, 24 * HOUR, 90 * HOUR], [(0, 2), (2, 3), (3, 4)]),
        ("3", [0, 0, 0, 0], [(0, 3), (3, 4)]),
    ],
)
def test_pieces_end_where_the_unit_does(text, times, expected):
    assert list(Every.parse("x", text).pieces(np.array(times), 0)) == expected


def test_pieces_do_not_depend_on_where_one_resumes():
    times, every = np.zeros(10, np.int64), Every.parse("x", "4")
    assert list(every.pieces(times, 0)) == [(0, 4), (4, 8), (8, 10)]
    assert list(every.pieces(times, 4)) == [(4, 8), (8, 10)]
    assert list(every.pieces(times, 6)) == [(6, 8), (8, 10)]
    assert list(every.pieces(times, 10)) == []


def test_pieces_are_named_by_utc_time_or_place():
    assert day_of(1_767_225_600_000) == "2026-01-01"
    assert Every.parse("x", "hour").name(1_767_225_600_000 // HOUR + 7) == "2026-01-01T07"
    assert Every.parse("x", "500").name(2) == "1000-1499"
    assert day_of(-1) == "1969-12-31"


@pytest.mark.parametrize(("text", "rule"), [("week", "hour, day, or a number"), ("0", ">= 1")])
def test_other_units_are_refused(text, rule):
    with pytest.raises(ConfigError, match=f"publish_every == .*{rule}"):
        Every.parse("publish_every", text)


def test_rows_are_the_exact_metrics_of_their_requests_whatever_the_batches():
    rng = np.random.default_rng(1)
    results = [batch(rng, [5, 6]), batch(rng, [7, 4]), batch(rng, [6])]
    times = np.array([0, 1, HOUR, HOUR + 1, HOUR + 2])
    rows = window_rows(results, times, 100, Every.parse("x", "hour"), version=7)
    assert [(r["window"], r["requests"], r["requests_so_far"]) for r in rows] == [
        ("1970-01-01T00", 2, 102),
        ("1970-01-01T01", 3, 105),
    ]
    p = np.concatenate([r.log_probs_XL for r in results])[11:, 1]
    y = np.concatenate([r.labels_XL for r in results])[11:, 1]
    second = rows[1]
    assert second["candidates"] == 17
    assert second["positives"]["is_click"] == int(y.sum())
    assert second["auc"]["is_click"] == auc(p, y)
    assert second["gauc"]["is_click"] == gauc(p, y, np.repeat([0, 1, 2], [7, 4, 6]))
    assert second["log_loss"]["is_click"] == log_loss(p, y)
    assert second["calibration"]["is_click"] == calibration(p, y)
    assert second["undefined"] == {}


def test_what_is_not_defined_is_none_and_says_why():
    rng = np.random.default_rng(1)
    labels = np.zeros((8, len(OBJECTIVES)), bool)
    labels[:, 0] = True
    labels[:4, 1] = True
    rows = window_rows(
        [batch(rng, [4, 4], labels)], np.array([0, 1]), 0, Every.parse("x", "day"), 0
    )
    said = rows[0]["undefined"]
    assert said["auc.impression"] == "no negatives among 8 candidates"
    assert said["auc.is_like"] == "no positives among 8 candidates"
    assert said["calibration.is_like"] == "no positives among 8 candidates"
    assert said["gauc.is_click"] == "no request has both classes"
    assert "auc.is_click" not in said
    for name in ("auc", "gauc", "calibration"):
        missing = {o for o in OBJECTIVES if rows[0][name][o] is None}
        assert missing == {key.split(".")[1] for key in said if key.startswith(f"{name}.")}
