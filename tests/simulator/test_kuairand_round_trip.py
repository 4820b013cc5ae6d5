"""A simulated log, written as KuaiRand's files, comes back as it was."""

import numpy as np
import polars as pl
import pytest
from kuairand_writer import columns_of, shift_of, write_kuairand
from tiny_worlds import live, tiny_world

from ifa_ray.data.log_tables import ReadSettings
from ifa_ray.data.readers.check import check_log
from ifa_ray.data.readers.kuairand import read_kuairand
from ifa_ray.data.readers.scan import CLEAN
from ifa_ray.schema import ACTIONS, pack_actions, validate_request
from ifa_ray.training.sources import read_stream, stream_of

# The writer gives a request's rows one time, and a user who leaves at once asks again in less than
# the second that the reader allows between rows of a batch by default.
EXACTLY = {"slate_gap_ms": 1}

KEPT = (*ACTIONS, "user_id", "video_id", "play_time_ms", "duration_ms", "is_rand")


@pytest.fixture(scope="module")
def simulated():
    _, logs = live(tiny_world(), np.arange(12), days=2)
    return columns_of(logs)


@pytest.fixture(scope="module")
def folder(simulated, tmp_path_factory):
    path = tmp_path_factory.mktemp("kuairand") / "KuaiRand-Pure"
    write_kuairand(path, simulated, tiny_world().catalog.observed.items)
    return path


def by_value(columns, names):
    return pl.DataFrame({name: columns[name] for name in names}).sort(names)


def test_every_impression_comes_back_once(simulated, folder):
    tables = read_kuairand(folder, ReadSettings(num_sampled=20))
    assert by_value(tables.impressions, KEPT).equals(by_value(simulated, KEPT))


def test_slates_are_the_requests_that_were_made(simulated, folder):
    back = read_kuairand(folder, ReadSettings(num_sampled=20), **EXACTLY).impressions

    def slates(columns):
        frame = pl.DataFrame({n: columns[n] for n in ("user_id", "request_id", "video_id")})
        grouped = frame.group_by("request_id").agg(pl.col("user_id").first(), "video_id")
        return sorted(
            (user, tuple(sorted(videos)))
            for user, videos in zip(grouped["user_id"], grouped["video_id"], strict=True)
        )

    assert slates(back) == slates(simulated)


def test_histories_and_labels_are_those_of_the_world(simulated, folder):
    settings = ReadSettings(num_sampled=20)
    stream = stream_of(read_kuairand(folder, settings, **EXACTLY), settings)
    assert len(stream.samples) > 50
    shift = shift_of(simulated)
    packed = pack_actions(simulated)
    starts = pl.DataFrame(
        {"request_id": simulated["request_id"], "time_ms": simulated["time_ms"]}
    ).group_by("request_id").agg(pl.col("time_ms").min())  # fmt: skip
    asked_at = dict(zip(starts["request_id"], starts["time_ms"], strict=True))
    asked = np.array([asked_at[request] for request in simulated["request_id"]])
    for sample in stream.samples:
        request = sample.request
        validate_request(request)
        mine = simulated["user_id"] == request.user_id
        before = mine & (asked + shift < request.time_ms)
        now = mine & (asked + shift == request.time_ms)
        lived = sorted(zip(simulated["video_id"][before], packed[before], strict=True))
        history = request.history
        assert sorted(zip(history.ids_T, history.actions_T, strict=True)) == lived
        now &= simulated["is_rand"] == 0
        shown = {
            int(v): i for v, i in zip(simulated["video_id"][now], np.flatnonzero(now), strict=True)
        }
        assert len(request.candidates_C) == 20 + len(shown)
        for video, labels in zip(request.candidates_C.tolist(), sample.labels_CL, strict=True):
            row = shown.get(video)
            names = ("is_click", "long_view", "is_like")
            expected = [0] * 4 if row is None else [1, *(int(simulated[n][row]) for n in names)]
            assert labels.tolist() == expected


def test_never_shown_candidates_were_not_seen_and_existed(folder):
    tables = read_kuairand(folder, ReadSettings(num_sampled=20))
    rows, items = tables.impressions, tables.items
    uploads = dict(zip(items.video_id_N.tolist(), items.upload_ms_N.tolist(), strict=True))
    columns = [tables.requests[n] for n in ("request_id", "user_id", "time_ms", "candidates")]
    for request_id, user, time_ms, candidates in zip(*columns, strict=True):
        shown = rows["video_id"][rows["request_id"] == request_id]
        sampled = np.setdiff1d(candidates, shown)
        assert len(sampled) == 20
        seen = rows["video_id"][(rows["user_id"] == user) & (rows["time_ms"] <= time_ms)]
        assert not np.isin(sampled, seen).any()
        assert all(uploads[video] < time_ms for video in sampled.tolist())


def test_the_check_of_a_whole_log_is_clean_and_counts_what_was_written(simulated, folder):
    found = check_log(folder)
    assert found.status == CLEAN, found.problems
    logs = [file for file in found.files if "log_" in file.name]
    assert sum(file.rows for file in logs) == len(simulated["user_id"])
    clicks = sum(file.rows * file.rates["is_click"] for file in logs)
    assert round(clicks) == simulated["is_click"].sum()
    # The world's long views follow KuaiRand's rule, which the check knows too.
    assert not [note for note in found.notes if "long_view" in note.rule]


def test_a_folder_of_these_files_is_a_stream(folder):
    stream = read_stream(
        folder, arm="twin", replicate=0, num_sampled=20, max_history=50, max_requests=30, seed=0
    )
    assert len(stream.samples) == 30
    times = [sample.request.time_ms for sample in stream.samples]
    assert times == sorted(times)
    assert max(len(sample.request.history) for sample in stream.samples) == 50
    assert "KuaiRand-pure" in stream.notes[0]
    assert "30 of " in stream.notes[1]
