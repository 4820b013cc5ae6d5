import csv
from pathlib import Path

import numpy as np
import pytest

from ifa_ray.data.log_tables import LogTables, ReadSettings
from ifa_ray.data.readers.kuairand import (
    LOG_COLUMNS,
    TAG_BUCKETS,
    find_kuairand,
    is_kuairand,
    read_kuairand,
)
from ifa_ray.errors import ConfigError, LogError
from ifa_ray.schema import ACTIONS

REAL = Path(__file__).parents[4] / "shared" / "data" / "kuairand" / "pure_features"

# 2022-04-10, 08:00 in Beijing, which is midnight of UTC.
DAY_MS = 1_649_548_800_000
HEADER = ",".join(LOG_COLUMNS)
VIDEOS = """\
video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,\
server_height,music_id,music_type,tag
1,70,NORMAL,2022-04-09,LongImport,0.0,20000.0,720.0,1280.0,1,9.0,39
2,71,NORMAL,2022-04-09,LongImport,0.0,,720.0,1280.0,1,9.0,"2,41"
3,72,NORMAL,2022-04-10,LongImport,0.0,5000.0,720.0,1280.0,1,9.0,
4,72,AD,2022-04-12,LongImport,0.0,5000.0,720.0,1280.0,1,9.0,7
5,73,NORMAL,2022-04-09,LongImport,0.0,7000.4,720.0,1280.0,1,9.0,7
99,74,NORMAL,2022-04-09,LongImport,0.0,7000.0,720.0,1280.0,1,9.0,7
""" + "".join(
    f"{video},80,NORMAL,2022-04-09,LongImport,0.0,7000.0,720.0,1280.0,1,9.0,7\n"
    for video in range(11, 16)
)


def row(user, video, second, *, play=1000, duration=9000, is_rand=0, **flags):
    """One line of a log; `second` after `DAY_MS`."""
    values = dict.fromkeys(LOG_COLUMNS, 0) | {
        "user_id": user, "video_id": video, "date": 20220410, "hourmin": 800,
        "time_ms": DAY_MS + round(second * 1000), "play_time_ms": play, "duration_ms": duration,
        "is_rand": is_rand, "tab": 1, **flags,
    }  # fmt: skip
    return ",".join(str(values[name]) for name in LOG_COLUMNS)


# User 9 is late and brings videos 4 to 6 and 11 to 15 into the catalogue; of 6 nothing is known.
FIRST = [
    row(7, 1, 0, is_click=1, long_view=1),
    row(7, 2, 0.4, is_like=1),
    row(7, 1, 0.9, is_hate=1),  # again, within the slate
    row(7, 3, 60, is_click=1),
    row(9, 4, 90_000, is_click=1),
    row(9, 5, 90_000),
    row(9, 6, 90_000, duration=12_000),
    *(row(9, video, 90_000) for video in range(11, 16)),
]
SECOND = [row(8, 2, 30), row(7, 6, 200_000)]
RANDOM = [row(7, 5, 60.2, is_rand=1)]


def text(lines):
    return "\n".join([HEADER, *lines]) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "KuaiRand-Pure" / "data"
    data.mkdir(parents=True)
    (data / "log_standard_4_08_to_4_21_pure.csv").write_text(text(FIRST))
    (data / "log_standard_4_22_to_5_08_pure.csv").write_text(text(SECOND))
    (data / "log_random_4_22_to_5_08_pure.csv").write_text(text(RANDOM))
    (data / "video_features_basic_pure.csv").write_text(VIDEOS)
    return tmp_path / "KuaiRand-Pure"


def read(folder: Path, num_sampled=1, max_requests=None, seed=0, **settings: int) -> LogTables:
    asked = ReadSettings(num_sampled=num_sampled, max_requests=max_requests, seed=seed)
    return read_kuairand(folder, asked, **{"min_history": 0, **settings})


def requests(tables: LogTables) -> dict[tuple[int, float], dict]:
    """Requests by (user, second)."""
    names = ("user_id", "time_ms", "request_id", "watermark", "candidates", "channels")
    rows = zip(*(tables.requests[name] for name in names), strict=True)
    return {
        (int(user), (int(time) - DAY_MS) / 1000): dict(zip(names, (user, time, *rest), strict=True))
        for user, time, *rest in rows
    }


def test_rows_within_a_second_are_one_slate_and_a_request_at_its_start(folder: Path) -> None:
    found = requests(read(folder))
    assert found.keys() == {(7, 0), (8, 30), (7, 60), (9, 90_000), (7, 200_000)}
    assert [found[key]["watermark"] for key in ((7, 0), (7, 60), (7, 200_000))] == [0, 3, 5]
    shorter = requests(read(folder, slate_gap_ms=300)).keys()
    assert shorter == {*found.keys(), (7, 0.4), (7, 0.9)}


def test_candidates_are_what_was_shown_and_videos_that_were_not_and_existed(folder: Path) -> None:
    drawn: dict[tuple[int, float], set[int]] = {}
    for seed in range(60):
        for key, request in requests(read(folder, seed=seed)).items():
            drawn.setdefault(key, set()).update(request["candidates"].tolist())
    old = {11, 12, 13, 14, 15}
    # Videos 4 and 6 are of a later day, whether the features say so or only the log.
    assert drawn[7, 0] == {1, 2} | {3, 5} | old
    # A random slot showed 5, which is therefore neither shown by the ranker nor never shown.
    assert drawn[7, 60] == {3} | old
    assert drawn[7, 200_000] == {6} | {4} | old
    assert drawn[9, 90_000] == {4, 5, 6} | old | {1, 2, 3}


def test_all_candidates_are_distinct_and_their_channels_unknown(folder: Path) -> None:
    for request in requests(read(folder, num_sampled=3)).values():
        assert len(np.unique(request["candidates"])) == len(request["candidates"])
        assert (request["channels"] == -1).all()
        assert request["candidates"].dtype == np.int32


def test_a_repeat_within_a_slate_is_history_of_no_request(folder: Path) -> None:
    tables = read(folder)
    rows, first = tables.impressions, requests(tables)[7, 0]["request_id"]
    mine = rows["user_id"] == 7
    assert rows["video_id"][mine].tolist() == [1, 2, 1, 3, 5, 6]
    assert rows["video_id"][rows["request_id"] == first].tolist() == [1, 2]
    again = mine & (rows["is_hate"] == 1)
    assert rows["request_id"][again].item() not in tables.requests["request_id"]


def test_feedback_comes_back_verbatim(folder: Path) -> None:
    rows = read(folder).impressions
    third = (rows["user_id"] == 7) & (rows["video_id"] == 3)
    assert {name: int(rows[name][third].item()) for name in ACTIONS} == {
        **dict.fromkeys(ACTIONS, 0), "is_click": 1,
    }  # fmt: skip
    assert rows["is_rand"].sum() == 1
    assert rows["play_time_ms"].tolist() == [1000] * len(rows["user_id"])


def test_items_are_those_of_the_log_with_unknown_features_where_there_are_none(
    folder: Path,
) -> None:
    items = read(folder).items
    assert items.video_id_N.tolist() == [1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15], "99 was not shown"
    assert items.category_N[:6].tolist() == [40, 3, 0, 8, 8, 0]
    assert items.author_id_N[:6].tolist() == [71, 72, 73, 73, 74, 0]
    # Video 2 has no duration but in the log, video 6 no features at all.
    assert items.duration_ms_N[:6].tolist() == [20_000, 9_000, 5_000, 5_000, 7_000, 12_000]
    beijing = [DAY_MS - 8 * 3_600_000 + days * 86_400_000 for days in (-1, 0, 1)]
    assert items.upload_ms_N[:6].tolist() == [
        beijing[0], beijing[0], beijing[1], beijing[2], beijing[0], beijing[2],
    ]  # fmt: skip
    assert items.content_ND.shape == (11, TAG_BUCKETS)
    assert np.flatnonzero(items.content_ND[1]).tolist() == [2, 41 % TAG_BUCKETS]
    assert np.linalg.norm(items.content_ND, axis=1)[:3] == pytest.approx([1, 1, 0])


def test_a_cap_changes_no_request_that_it_keeps(folder: Path) -> None:
    everything = requests(read(folder, num_sampled=2))
    capped = requests(read(folder, num_sampled=2, max_requests=3))
    assert len(capped) == 3
    for key, request in capped.items():
        assert request["candidates"].tolist() == everything[key]["candidates"].tolist()
        assert request["watermark"] == everything[key]["watermark"]


def test_users_beyond_the_caps_are_left_out_whole(folder: Path) -> None:
    rows = {7: 6, 8: 1, 9: 8}
    left_out = set()
    for seed in range(20):
        two = read(folder, max_users=2, users_seed=seed)
        users, counts = np.unique(two.impressions["user_id"], return_counts=True)
        assert dict(zip(users.tolist(), counts.tolist(), strict=True)) == {
            user: rows[user] for user in users.tolist()
        }
        assert f"{counts.sum()} of 15 impressions, those of 2 of 3 users" in two.notes[0]
        left_out |= rows.keys() - set(users.tolist())
        again = read(folder, max_users=2, users_seed=seed, seed=seed + 1)
        assert set(again.impressions["user_id"].tolist()) == set(users.tolist())
    assert left_out == {7, 8, 9}, "who is left out depends on a seed of its own"
    assert len(np.unique(read(folder, max_rows=14).impressions["user_id"])) == 2


def test_the_parts_of_27k_are_one_log(folder: Path) -> None:
    for path in sorted((folder / "data").iterdir()):
        name = path.name.replace("pure", "27k")
        path.rename(path.with_name(name.replace("21_27k", "21_27k_part1")))
    part = folder / "data" / "log_standard_4_08_to_4_21_27k_part2.csv"
    part.write_text(text([row(12, 1, 5)]))
    assert is_kuairand(folder)
    assert is_kuairand(folder / "data")
    files = find_kuairand(folder / "data")
    assert files.version == "27k"
    assert len(files.logs) == 4
    assert 12 in read(folder).impressions["user_id"]


LOG = "log_standard_4_08_to_4_21_pure.csv"
WHOLE = text(FIRST)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (LOG, WHOLE[:-3], r"4_21_pure\.csv: its last line has no end"),
        (LOG, WHOLE.replace("time_ms,is_click", "when,is_click"), "column time_ms is missing"),
        (LOG, WHOLE.replace("7,2,20220410", "7,,20220410"), "video_id is empty"),
        (LOG, text([row(7, 1, 0, play=-1)]), "play_time_ms is not in .* play_time_ms -1"),
        ("video_features_basic_pure.csv", None, r"basic_pure\.csv: there is no such file"),
        ("log_standard_4_22_to_5_08_1k.csv", WHOLE, "logs of 1k and pure, must be of one version"),
    ],
)
def test_broken_folders_are_refused_by_file(
    folder: Path, name: str, content: str | None, message: str
) -> None:
    path = folder / "data" / name
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(LogError, match=message):
        read(folder)


def test_settings_that_make_no_sense_are_refused(folder: Path, tmp_path: Path) -> None:
    for settings, message in (
        ({"num_sampled": 0}, "num_sampled == 0, must be >= 1"),
        ({"max_rows": 0}, "max_rows == 0, must be >= 1"),
        ({"max_users": 0}, "max_users == 0, must be >= 1"),
        ({"slate_gap_ms": 0}, "slate_gap_ms == 0, must be >= 1"),
        ({"min_history": -1}, "min_history == -1, must be >= 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            read(folder, **settings)
    with pytest.raises(LogError, match="none of 5 slates makes a request"):
        read(folder, min_history=50)
    assert not is_kuairand(tmp_path / "nothing")
    with pytest.raises(LogError, match="has no log_standard"):
        find_kuairand(tmp_path)


@pytest.mark.skipif(not REAL.exists(), reason="KuaiRand's feature tables are not on this machine")
def test_the_real_features_of_pure_become_a_catalogue(folder: Path) -> None:
    source = (REAL / "video_features_basic_pure.csv").read_text()
    target = folder / "data" / "video_features_basic_pure.csv"
    target.write_text(source if source.endswith("\n") else source + "\n")
    log = [row(user, video, 60 * i) for user in range(10) for i, video in
           enumerate(range(user, 7_583, 10))]  # fmt: skip
    (folder / "data" / LOG).write_text(text(log))
    items = read(folder, max_requests=50).items
    assert len(items) == 7_583
    assert len(np.unique(items.author_id_N)) == 6_510
    # 47 tags; 96 videos have none.
    assert len(np.unique(items.category_N[items.category_N > 0])) <= 47
    assert (items.category_N == 0).sum() == 96
    with (REAL / "video_features_basic_pure.csv").open() as file:
        published = [line["video_duration"] for line in csv.DictReader(file)]
    # Where it has none, the log's 9 s.
    expected = [round(float(text)) if text else 9_000 for text in published]
    assert items.duration_ms_N.tolist() == expected
