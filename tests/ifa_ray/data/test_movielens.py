from pathlib import Path

import numpy as np
import pytest

from ifa_ray.data.readers.movielens import MovieLens, read_movielens
from ifa_ray.errors import ConfigError, LogError
from ifa_ray.schema import ACTIONS, TrainingSample, validate_request

REAL = Path(__file__).parents[4] / "shared" / "data" / "movielens_small"

MOVIES = """movieId,title,genres
1,Alpha (1990),Comedy|Drama
2,"Beta, The (1991)",Drama
3,Gamma (1992),(no genres listed)
4,Delta (1993),Action
5,Epsilon (1994),Comedy
6,Never rated (1995),Western
"""

# User 1 rates everything first; user 2 follows, twice within one second.
RATINGS = """userId,movieId,rating,timestamp
1,1,5.0,10
1,2,4.0,11
1,3,3.0,12
1,4,2.0,13
1,5,4.5,14
2,3,5.0,20
2,1,0.5,30
2,2,4.5,40
2,4,4.0,40
2,5,3.0,50
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "movies.csv").write_text(MOVIES)
    (tmp_path / "ratings.csv").write_text(RATINGS)
    return tmp_path


def read(folder: Path, **settings: int) -> MovieLens:
    return read_movielens(folder, **{"num_sampled": 1, "min_history": 1, **settings})


def by_film(stream: MovieLens) -> dict[tuple[int, int], TrainingSample]:
    """Samples by (user, rated film)."""
    return {
        (s.request.user_id, int(s.request.candidates_C[s.labels_CL[:, 0] == 1][0])): s
        for s in stream.samples
    }


def test_a_rating_is_a_request_over_itself_and_unrated_films(folder: Path) -> None:
    samples = by_film(read(folder, num_sampled=3))
    # Of user 2's ratings only that of film 1 leaves three other films unrated until then.
    assert samples.keys() == {(2, 1)}
    sample = samples[2, 1]
    assert sorted(sample.request.candidates_C.tolist()) == [1, 2, 4, 5]
    assert sample.labels_CL.sum() == 1, "a rating of 0.5 is an impression and nothing else"
    assert sample.request.time_ms == 30_000


def test_labels_follow_the_stars(folder: Path) -> None:
    samples = by_film(read(folder))
    labels = {film: s.labels_CL.max(axis=0).tolist() for (_, film), s in samples.items()}
    assert labels == {1: [1, 0, 0, 0], 2: [1, 1, 1, 0], 4: [1, 1, 0, 0]}
    (folder / "ratings.csv").write_text(RATINGS.replace("2,1,0.5,30", "2,1,5.0,30"))
    assert by_film(read(folder))[2, 1].labels_CL.max(axis=0).tolist() == [1, 1, 1, 1]


def test_a_history_holds_what_was_rated_in_earlier_seconds(folder: Path) -> None:
    samples = by_film(read(folder))
    for film in (2, 4):
        history = samples[2, film].request.history
        assert history.ids_T.tolist() == [3, 1], "not the other film of the same second"
        assert history.times_ms_T.tolist() == [20_000, 30_000]
    click, view, like, hate = (
        1 << ACTIONS.index(name) for name in ("is_click", "long_view", "is_like", "is_hate")
    )
    assert history.actions_T.tolist() == [click | view | like, hate]


def test_films_of_the_same_second_are_not_drawn_as_unrated(folder: Path) -> None:
    for seed in range(20):
        for film in (2, 4):
            sample = by_film(read(folder, seed=seed))[2, film]
            assert sorted(sample.request.candidates_C.tolist()) == sorted([film, 5])


def test_nothing_that_is_ranked_comes_from_the_future(folder: Path) -> None:
    stream = read(folder, min_history=0)
    uploads = dict(zip(stream.items.video_id_N, stream.items.upload_ms_N, strict=True))
    assert uploads == {1: 10_000, 2: 11_000, 3: 12_000, 4: 13_000, 5: 14_000}
    for sample in stream.samples:
        assert all(uploads[film] < sample.request.time_ms for film in sample.request.candidates_C)
        validate_request(sample.request)
    assert not any(s.request.user_id == 1 for s in stream.samples), "first ratings are no requests"


def test_the_catalogue_has_genres_and_no_film_without_ratings(folder: Path) -> None:
    items = read(folder).items
    assert items.video_id_N.tolist() == [1, 2, 3, 4, 5]
    # Sorted: Action, Comedy, Drama, Western are 1 to 4; 0 has none.
    assert items.category_N.tolist() == [2, 3, 0, 1, 2]
    half = np.sqrt(0.5)
    assert items.content_ND.tolist() == pytest.approx(
        np.array([[0, half, half, 0], [0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]),
    )
    assert not items.author_id_N.any()
    assert not items.duration_ms_N.any()


def test_a_cap_changes_no_request_that_it_keeps(folder: Path) -> None:
    everything = by_film(read(folder))
    capped = read(folder, max_requests=2)
    assert len(capped.samples) == 2
    assert capped.num_eligible == len(everything) == 3
    for key, sample in by_film(capped).items():
        assert np.array_equal(sample.request.candidates_C, everything[key].request.candidates_C)


def test_draws_repeat_and_depend_on_the_seed(folder: Path) -> None:
    def draw(seed: int) -> list[list[int]]:
        return [s.request.candidates_C.tolist() for s in read(folder, seed=seed).samples]

    assert draw(1) == draw(1)
    draws = [draw(seed) for seed in range(10)]
    assert len({str(each) for each in draws}) > 1
    assert {each[0].index(1) for each in draws} == {0, 1}, "the rated film has no fixed place"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ratings.csv", None, r"ratings\.csv: there is no such file"),
        ("ratings.csv", RATINGS[:-3], r"ratings\.csv: its last line has no end"),
        ("ratings.csv", RATINGS.split("\n")[0] + "\n", r"ratings\.csv: has no rows"),
        ("ratings.csv", RATINGS.replace("timestamp", "when"), "column timestamp is missing"),
        (
            "ratings.csv",
            RATINGS.replace(",20\n", ",\n"),
            "timestamp is empty .line 7, timestamp None",
        ),
        (
            "ratings.csv",
            RATINGS.replace(",20\n", ",soon\n"),
            r"ratings\.csv: timestamp is not a number .line 7, timestamp soon",
        ),
        (
            "ratings.csv",
            RATINGS.replace("2,1,0.5", "2,1,7.5"),
            r"rating is not in .0\.5, 5. .line 8, .* rating 7\.5",
        ),
        (
            "ratings.csv",
            RATINGS.replace("2,1,0.5", "-2,1,0.5"),
            "userId is not in .0, 2.31. .line 8, userId -2",
        ),
        ("movies.csv", MOVIES.replace("4,D", "44,D"), "movieId is not in movies.csv .* movieId 4,"),
    ],
)
def test_broken_folders_are_refused_by_file(
    folder: Path, name: str, text: str | None, message: str
) -> None:
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(text)
    with pytest.raises(LogError, match=message):
        read(folder)


def test_sizes_that_make_no_sense_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="num_sampled == 0, must be >= 1"):
        read(folder, num_sampled=0)
    with pytest.raises(ConfigError, match="max_requests == 0, must be >= 1"):
        read(folder, max_requests=0)
    with pytest.raises(ConfigError, match="min_history == -1, must be >= 0"):
        read(folder, min_history=-1)


@pytest.mark.skipif(not REAL.exists(), reason="the MovieLens folder is not on this machine")
def test_the_real_log_becomes_valid_requests_with_one_rated_film_each() -> None:
    stream = read_movielens(REAL, max_requests=400)
    assert stream.num_ratings == 100_836
    assert len(stream.items) == 9_724
    times = [s.request.time_ms for s in stream.samples]
    assert times == sorted(times)
    labels = np.stack([s.labels_CL for s in stream.samples])
    assert labels.shape == (400, 100, 4)
    assert (labels[..., 0].sum(axis=1) == 1).all()
    # 48.2% of all ratings are 4 or more; 400 requests have a standard error of 2.5 points.
    assert labels[..., 1].sum() / 400 == pytest.approx(0.482, abs=0.08)
    places = np.argmax(labels[..., 0], axis=1)
    assert abs(places.mean() - 49.5) < 6, "the rated film's place says nothing"
    for sample in stream.samples:
        validate_request(sample.request)
        assert len(sample.request.history) >= 5
