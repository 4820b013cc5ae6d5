from pathlib import Path

import numpy as np
import pytest

from ifa_ray.data.items import ItemTable
from ifa_ray.data.log import write_impressions, write_items, write_requests
from ifa_ray.data.run_folder import RunFolder, ShardDay
from ifa_ray.errors import ConfigError, LogError
from ifa_ray.schema import IMPRESSION_COLUMNS
from ifa_ray.training.sources import SampleStream, read_run, read_stream


def write_day(folder: RunFolder, key: ShardDay, events: list[tuple[int, int, int, int]]) -> None:
    """Each event (request_id, user_id, time_ms, watermark) shows video request_id % 10."""
    ids, users, times, marks = np.array(events, np.int64).reshape(-1, 4).T
    columns = {name: np.zeros(len(ids), kind) for name, kind in IMPRESSION_COLUMNS.items()}
    columns |= {
        "request_id": ids.astype(np.int64),
        "user_id": users.astype(np.int32),
        "video_id": (ids % 10).astype(np.int32),
        "time_ms": times.astype(np.int64),
        "is_click": np.ones(len(ids), np.int8),
    }
    write_impressions(folder.table("impressions", key), columns)
    requests = {name: columns[name] for name in ("request_id", "user_id", "time_ms")}
    requests["watermark"] = marks.astype(np.int32)
    requests["candidates"] = np.tile(np.arange(10, dtype=np.int32), (len(ids), 1))
    requests["channels"] = np.zeros((len(ids), 10), np.int8)
    write_requests(folder.table("requests", key), requests)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = RunFolder(tmp_path)
    zeros = np.zeros(10, np.int32)
    items = ItemTable(
        video_id_N=np.arange(10, dtype=np.int32),
        author_id_N=zeros,
        category_N=zeros,
        duration_ms_N=zeros,
        upload_ms_N=np.zeros(10, np.int64),
        content_ND=np.zeros((10, 0), np.float32),
    )
    write_items(folder.items(0), items)
    write_day(folder, ShardDay("warmup", 0, 0, 0), [(1, 0, 100, 0), (2, 0, 300, 1)])
    write_day(folder, ShardDay("warmup", 0, 0, 1), [(3, 1, 200, 0)])
    write_day(folder, ShardDay("twin", 0, 0, 0), [(14, 0, 1000, 2)])
    write_day(folder, ShardDay("twin", 0, 0, 1), [(15, 1, 1000, 1)])
    write_day(folder, ShardDay("twin", 0, 1, 0), [(26, 0, 2000, 3)])
    write_day(folder, ShardDay("twin", 0, 1, 1), [])
    write_day(folder, ShardDay("ifa", 0, 0, 0), [(17, 0, 1500, 2)])
    write_day(folder, ShardDay("ifa", 0, 0, 1), [])
    return tmp_path


def read(path: Path, arm: str | None = "twin", **settings: int | None) -> SampleStream:
    return read_run(path, arm, 0, **{"max_history": 100, **settings})


def test_a_stream_is_the_warm_up_then_the_arm_by_time_over_shards(run: Path) -> None:
    stream = read(run)
    assert [s.request.request_id for s in stream.samples] == [1, 3, 2, 14, 15, 26]
    assert [len(s.request.history) for s in stream.samples] == [0, 0, 1, 2, 1, 3]
    assert stream.samples[-1].request.history.ids_T.tolist() == [1, 2, 4]
    for sample in stream.samples:
        shown = sample.labels_CL[:, 0] == 1
        assert sample.request.candidates_C[shown].tolist() == [sample.request.request_id % 10]
    assert "6 of 6 sampled requests" in stream.notes[0]


def test_an_arm_sees_no_other_arm(run: Path) -> None:
    assert [s.request.request_id for s in read(run, "ifa").samples] == [1, 3, 2, 17]
    assert [s.request.request_id for s in read(run, "warmup").samples] == [1, 3, 2]


def test_a_cap_keeps_the_first(run: Path) -> None:
    stream = read(run, max_requests=2)
    assert [s.request.request_id for s in stream.samples] == [1, 3]
    assert "2 of 6 sampled requests" in stream.notes[0]


def test_unknown_arms_and_replicates_are_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"arm == 'twn', must be one of .* Did you mean 'twin'"):
        read(run, "twn")
    with pytest.raises(LogError, match="arm twin, replicate 7 has no requests"):
        read_run(run, "twin", 7, max_history=10)
    with pytest.raises(ConfigError, match="max_requests == -3, must be >= 1"):
        read(run, max_requests=-3)


def test_a_folder_is_known_by_its_files(run: Path, tmp_path: Path) -> None:
    settings = {"arm": "twin", "replicate": 0, "num_sampled": 1, "max_history": 10, "seed": 0}
    settings["max_requests"] = None
    assert len(read_stream(run, **settings).samples) == 6
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    with pytest.raises(LogError, match=r"holds neither ratings\.csv .* nor log/"):
        read_stream(nothing, **settings)
    (nothing / "movies.csv").write_text("movieId,title,genres\n1,A,Drama\n")
    (nothing / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,1,5.0,10\n")
    with pytest.raises(LogError, match="none of 1 ratings makes a request"):
        read_stream(nothing, **settings)


def test_an_arm_need_not_be_named_where_there_is_no_choice(run: Path) -> None:
    with pytest.raises(ConfigError, match="arm == None, must be one of ifa, twin, warmup"):
        read(run, None)
    requests = RunFolder(run).log / "requests"
    for arm in ("ifa", "twin"):
        (requests / f"arm={arm}").rename(run / arm)
    stream = read(run, None)
    assert [s.request.request_id for s in stream.samples] == [1, 3, 2]
    assert "the warm-up alone; 3 of 3" in stream.notes[0]
    (run / "twin").rename(requests / "arm=twin")
    assert [s.request.request_id for s in read(run, None).samples] == [1, 3, 2, 14, 15, 26]
