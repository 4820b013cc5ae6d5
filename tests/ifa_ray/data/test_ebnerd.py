import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ifa_ray.data.log_tables import LogTables, ReadSettings
from ifa_ray.data.readers.ebnerd import is_ebnerd, read_ebnerd
from ifa_ray.errors import LogError
from ifa_ray.schema import ACTIONS, TrainingSample, validate_request
from ifa_ray.training.sources import stream_of

REAL = Path(__file__).parents[4] / "shared" / "data" / "ebnerd_fixture"
START = datetime.datetime(2023, 5, 18, 7)
START_MS = 1_684_393_200_000


def at(second: float) -> datetime.datetime:
    return START + datetime.timedelta(seconds=second)


# (impression, user, second, in view, clicked, next read time)
ROWS = [
    (50, 1, 0, [101, 102, 103], [102], 31.0),
    (51, 1, 60, [104, 101], [104, 101], 12.0),
    (52, 2, 60, [103], [], None),
    (53, 1, 60, [105, 106], [106], None),
]
HISTORIES = [
    (1, [-200, -100], [99, 102], [45.0, None]),
    (2, [-50], [103], [29.9]),
    (3, [-50], [98], [10.0]),
]


def behaviors(rows=ROWS) -> pl.DataFrame:
    names = ("impression_id", "user_id", "impression_time", "article_ids_inview",
             "article_ids_clicked", "next_read_time")  # fmt: skip
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    columns["impression_time"] = [at(second) for second in columns["impression_time"]]
    types = {"article_ids_inview": pl.List(pl.Int32), "article_ids_clicked": pl.List(pl.Int32),
             "impression_time": pl.Datetime("us")}  # fmt: skip
    return pl.DataFrame(columns, schema_overrides=types)


def histories() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": [user for user, *_ in HISTORIES],
            "impression_time_fixed": [[at(s) for s in seconds] for _, seconds, _, _ in HISTORIES],
            "article_id_fixed": [articles for _, _, articles, _ in HISTORIES],
            "read_time_fixed": [read for *_, read in HISTORIES],
        }
    )


ARTICLES = pl.DataFrame(
    {
        "article_id": [99, 102, 103, 104, 7],
        "category": [140, 118, 140, None, 2],
        "premium": [True, False, None, False, False],
        "published_time": [at(-1e6), at(-1e6), at(50), at(-1e5), at(0)],
        "body": ["x" * 999, None, "", "x", "x"],
    }
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    split = tmp_path / "ebnerd_demo" / "train"
    split.mkdir(parents=True)
    behaviors().write_parquet(split / "behaviors.parquet")
    histories().write_parquet(split / "history.parquet")
    return split


def read(folder: Path, max_requests: int | None = None, **settings: float) -> LogTables:
    return read_ebnerd(
        folder, ReadSettings(max_requests=max_requests), **{"min_history": 0, **settings}
    )


def samples(tables: LogTables) -> dict[int, TrainingSample]:
    stream = stream_of(tables, ReadSettings())
    return {sample.request.request_id: sample for sample in stream.samples}


def test_candidates_are_the_articles_in_view_and_all_were_shown(folder: Path) -> None:
    found = samples(read(folder))
    assert list(found) == [50, 51, 52, 53]
    for number, _, second, in_view, clicked, _ in ROWS:
        request = found[number].request
        validate_request(request)
        assert request.candidates_C.tolist() == in_view
        assert request.time_ms == START_MS + second * 1000
        assert found[number].labels_CL[:, 0].tolist() == [1] * len(in_view)
        assert found[number].labels_CL[:, 1].tolist() == [int(a in clicked) for a in in_view]
        assert not found[number].labels_CL[:, 3].any(), "nobody likes"


def test_a_long_view_is_a_click_that_was_read_for_half_a_minute(folder: Path) -> None:
    found = samples(read(folder))
    assert found[50].labels_CL[:, 2].tolist() == [0, 1, 0]
    assert found[53].labels_CL[:, 2].tolist() == [0, 0], "nobody knows how long it was read"
    quick = samples(read(folder, long_view_s=10))
    # Two clicks, one read time: it is the first one's.
    assert quick[51].labels_CL[:, 2].tolist() == [1, 0]


def test_a_history_is_earlier_clicks_and_then_everything_in_view_before(folder: Path) -> None:
    found = samples(read(folder))
    click, view = (1 << ACTIONS.index(name) for name in ("is_click", "long_view"))
    first, third = found[50].request.history, found[53].request.history
    assert first.ids_T.tolist() == [99, 102]
    assert first.actions_T.tolist() == [click | view, click]
    assert first.times_ms_T.tolist() == [START_MS - 200_000, START_MS - 100_000]
    assert third.ids_T.tolist() == [99, 102, 101, 102, 103], "not the other row of its second"
    assert third.actions_T.tolist() == [click | view, click, 0, click | view, 0]
    assert found[52].request.history.actions_T.tolist() == [click], "29.9 s are not 30"
    assert set(read(folder).impressions["user_id"].tolist()) == {1, 2}, "user 3 has no rows"


def test_articles_give_features_and_may_be_missing(folder: Path) -> None:
    bare = read(folder).items
    assert bare.content_ND.shape == (7, 0)
    assert not bare.category_N.any()
    for place in (folder, folder.parent):
        ARTICLES.write_parquet(place / "articles.parquet")
        tables = read(folder)
        items = tables.items
        assert items.video_id_N.tolist() == [99, 101, 102, 103, 104, 105, 106]
        assert items.category_N.tolist() == [140, 0, 118, 140, 0, 0, 0]
        # Premium, and the log of 1 + thousands of characters.
        assert items.content_ND[0].tolist() == pytest.approx([1.0, np.log(1.999)])
        assert items.content_ND[2].tolist() == [0.0, 0.0]
        assert items.upload_ms_N[0] == START_MS - 10**9
        # Published after it was seen, as the log has it: the day on which it was seen then.
        assert items.upload_ms_N[3] == START_MS - 7 * 3_600_000
        assert "3 of them without features" in tables.notes[0]
        (place / "articles.parquet").unlink()


def test_ids_may_be_strings_or_wide_and_times_of_any_unit(folder: Path) -> None:
    as_numbers = samples(read(folder))
    name = pl.format("a-{}", pl.element())
    wide = behaviors().with_columns(
        pl.col("article_ids_inview", "article_ids_clicked").list.eval(name),
        pl.col("user_id") + 2**40,
        pl.col("impression_time").cast(pl.Datetime("ns")).dt.replace_time_zone("UTC"),
    )
    wide.write_parquet(folder / "behaviors.parquet")
    histories().with_columns(
        pl.col("article_id_fixed").list.eval(name),
        pl.col("user_id") + 2**40,
        pl.col("impression_time_fixed").list.eval(
            pl.element().cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
        ),
    ).write_parquet(folder / "history.parquet")
    as_text = samples(read(folder))
    # Ranks of the names: 101 < ... < 106 < 99, as text.
    rank = {101: 0, 102: 1, 103: 2, 104: 3, 105: 4, 106: 5, 99: 6}
    assert list(as_text) == list(as_numbers)
    for number, sample in as_numbers.items():
        other = as_text[number]
        assert other.request.time_ms == sample.request.time_ms
        for mine, its in (
            (other.request.candidates_C, sample.request.candidates_C),
            (other.request.history.ids_T, sample.request.history.ids_T),
        ):
            assert mine.tolist() == [rank[int(article)] for article in its]
        assert (other.labels_CL == sample.labels_CL).all()
    assert {s.request.user_id for s in as_text.values()} == {0, 1}


def test_caps_on_requests_and_users_are_kept_and_said(folder: Path) -> None:
    assert list(samples(read(folder, max_requests=2))) == [50, 53]
    alone = read(folder, max_users=1)
    assert len(set(alone.requests["user_id"].tolist())) == 1
    assert "1 of 2 users" in alone.notes[0]
    assert list(samples(read(folder, min_history=3))) == [51, 53]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.drop("article_ids_clicked"), "A test split has no clicks"),
        (lambda b: b.head(0), "has no rows"),
        (lambda b: b.with_columns(pl.lit(1).alias("impression_id")), "more than once"),
        (lambda b: b.with_columns(pl.lit("7").alias("impression_time")), "must be dates and"),
        (lambda b: b.with_columns(pl.lit(None, pl.UInt32).alias("user_id")), "user_id is null"),
        (lambda b: b.with_columns(pl.lit(5).alias("article_ids_inview")), "must be lists of ids"),
        (lambda b: b.with_columns(pl.col("article_ids_inview").list.head(0)), "nothing is in view"),
        (lambda b: b.with_columns(pl.col("article_ids_inview").list.head(1)),
         "a click is on what was not in view .*impression_id 50"),
    ],
)  # fmt: skip
def test_broken_behaviors_are_refused(folder: Path, change, message: str) -> None:
    change(behaviors()).write_parquet(folder / "behaviors.parquet")
    with pytest.raises(LogError, match=message):
        read(folder)


def test_files_that_are_missing_or_cut_off_are_named(folder: Path) -> None:
    assert is_ebnerd(folder.parent)
    with pytest.raises(LogError, match=r"is a bundle of splits, must be one of them: .*train"):
        read(folder.parent)
    path = folder / "history.parquet"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(LogError, match=r"history\.parquet: is not a whole Parquet file"):
        read(folder)
    path.unlink()
    with pytest.raises(LogError, match=r"history\.parquet: there is no such file"):
        read(folder)
    histories().with_columns(pl.col("read_time_fixed").list.head(1)).write_parquet(path)
    with pytest.raises(LogError, match="differ in length"):
        read(folder)


def test_files_whose_ids_are_of_two_kinds_are_refused(folder: Path) -> None:
    text = (pl.col("user_id").cast(pl.String), pl.col("article_id_fixed").cast(pl.List(pl.String)))
    for column in text:
        histories().with_columns(column).write_parquet(folder / "history.parquet")
        with pytest.raises(LogError, match=r"history\.parquet: .* in behaviors\.parquet"):
            read(folder)


@pytest.mark.skipif(not REAL.exists(), reason="EB-NeRD's fixture is not on this machine")
def test_the_real_fixture_has_its_known_counts() -> None:
    tables = read_ebnerd(REAL, ReadSettings())
    found = samples(tables)
    assert len(found) == 1_046
    labels = np.concatenate([sample.labels_CL for sample in found.values()])
    assert len(labels) == 10_848
    assert labels[:, 0].all()
    assert labels[:, 1].mean() == pytest.approx(0.0965, abs=5e-5)
    assert labels[:, 1].sum() == 1_047
    assert len(set(tables.impressions["user_id"].tolist())) == 38
    for sample in found.values():
        validate_request(sample.request)
