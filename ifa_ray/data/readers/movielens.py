"""MovieLens (the layout of ml-latest-small) as a catalogue and a stream of training samples.

Knows two CSV files; knows nothing of models. MovieLens logs ratings and no impressions, so a
request is made of each rating: its candidates are the rated film and `num_sampled` films that the
user has not rated so far, drawn uniformly among those that somebody had rated before that moment.
A film enters the catalogue with its first rating, so nothing that is ranked comes from the future;
that first rating is itself no request, because nobody could have retrieved the film.

What a rating says, in the log's words:

    impression   the film was rated (the others of the request were not)
    is_click     rating >= 4
    long_view    rating >= 4.5
    is_like      rating == 5
    is_hate      rating <= 2 (in histories only)

The history is what the user rated in strictly earlier seconds: ratings of one second are often one
bulk import, whose order means nothing. Category is the first genre, content all genres as one unit
vector; authors and durations are unknown (0) and upload is the first rating.

Letters: E ratings, N films, C candidates, L objectives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from ifa_ray.config import require
from ifa_ray.data.history import HistoryStore
from ifa_ray.data.items import ItemTable
from ifa_ray.data.readers.scan import INT32, Findings, rules, unique, whole
from ifa_ray.schema import ACTIONS, OBJECTIVES, RankRequest, TrainingSample, pack_actions

LABEL_RULES: Mapping[str, str] = {
    "impression": "the film was rated",
    "is_click": "rating >= 4",
    "long_view": "rating >= 4.5",
    "is_like": "rating == 5",
}

_COLUMNS = ("userId", "movieId", "rating", "timestamp")
_MAX_SECONDS = 2**38
_STARS = {"is_click": 4.0, "long_view": 4.5, "is_like": 5.0}
"""The least rating that says so."""
_HATED = 2.0
_NO_GENRES = "(no genres listed)"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MovieLens:
    """A ratings log, ready to be learned from.

    Attributes:
        items: the films that were ever rated.
        samples: in order of time.
        num_ratings: lines of the log.
        num_eligible: requests that could have been made of them; `samples` are evenly spaced
            among these where there is a cap.
    """

    items: ItemTable
    samples: list[TrainingSample]
    num_ratings: int
    num_eligible: int


class _Ratings(NamedTuple):
    """The log by time, and for each rating how many of its user's came before and up to it."""

    users_E: npt.NDArray[np.int32]
    films_E: npt.NDArray[np.int32]
    stars_E: npt.NDArray[np.float64]
    times_ms_E: npt.NDArray[np.int64]
    before_E: npt.NDArray[np.int64]
    until_E: npt.NDArray[np.int64]


def is_movielens(path: Path) -> bool:
    """True if a folder has MovieLens' ratings."""
    return (path / "ratings.csv").exists()


def scan_movielens(findings: Findings, path: Path) -> list[pl.DataFrame]:
    """Films and ratings; none of them where one has no use."""
    tables = []
    with findings.reading("movies.csv"):
        tables += _scan_movies(findings, path / "movies.csv")
    with findings.reading("ratings.csv"):
        films = tables[0]["movieId"].drop_nulls().unique() if tables else None
        tables += _scan_ratings(findings, path / "ratings.csv", films)
    return tables


def _scan_movies(findings: Findings, path: Path) -> list[pl.DataFrame]:
    name, movies = findings.name(path), findings.scan_csv(path, ("movieId",), ("genres",))
    if movies is None:
        return []
    table = movies.collect()
    findings.summarise(name, table, item="movieId")
    findings.apply(name, table, [*unique("movieId"), *whole(INT32, "movieId")], ("line",))
    return [table]


def _scan_ratings(findings: Findings, path: Path, films: pl.Series | None) -> list[pl.DataFrame]:
    name, lazy = findings.name(path), findings.scan_csv(path, _COLUMNS)
    if lazy is None:
        return []
    ratings, stars = lazy.collect(), pl.col("rating")
    meant = ratings.with_columns(
        (pl.col("timestamp") * 1000).alias("time_ms"),
        *((stars >= least).alias(label) for label, least in _STARS.items()),
        (stars <= _HATED).alias("is_hate"),
    )
    findings.summarise(name, meant, user="userId", item="movieId", rates=(*_STARS, "is_hate"))
    broken = [
        *rules({"rating is not in [0.5, 5]": ~stars.is_between(0.5, 5)}),
        *whole(INT32, "userId", "movieId"),
        *whole(_MAX_SECONDS, "timestamp"),
    ]
    if films is not None:
        unknown = ~pl.col("movieId").is_in(films.implode())
        broken += rules({"movieId is not in movies.csv": unknown})
    findings.apply(name, ratings, broken, ("line", *_COLUMNS))
    findings.repeats(name, [ratings.lazy()], ("userId", "movieId"), is_note=False)
    findings.note(name, "there are no candidate sets: shares of shown candidates are not known")
    return [ratings]


def read_movielens(
    folder: Path | str,
    *,
    num_sampled: int = 99,
    min_history: int = 5,
    max_history: int = 10_000,
    max_requests: int | None = None,
    seed: int = 0,
) -> MovieLens:
    """Reads `ratings.csv` and `movies.csv` of a folder and makes requests of the ratings.

    Args:
        folder: that holds the two files.
        num_sampled: films beside the rated one, so C = num_sampled + 1.
        min_history: earlier ratings that a user must have.
        max_history: behaviours beyond the latest so many are left out.
        max_requests: cap; the kept ones are evenly spaced over the stream. None keeps all.
        seed: of the draws, which are keyed by (seed, user, film): the cap changes none of them.

    Raises:
        LogError: naming the file that is missing, truncated or not of this layout.
        ConfigError: if a size is not positive.
    """
    require(num_sampled >= 1, "num_sampled", num_sampled, ">= 1")
    require(min_history >= 0, "min_history", min_history, ">= 0")
    require(max_requests is None or max_requests >= 1, "max_requests", max_requests, ">= 1")
    folder = Path(folder)
    movies, table = scan_movielens(Findings(folder, strict=True), folder)
    ratings = _by_time(table)
    items = _items(movies, ratings)
    # Uploads by time: the films that exist before a moment are a prefix of this order.
    by_upload_N = np.argsort(items.upload_ms_N, kind="stable")
    existing_E = np.searchsorted(items.upload_ms_N[by_upload_N], ratings.times_ms_E)
    film_rows_E = items.rows(ratings.films_E) - 1
    eligible = np.flatnonzero(
        (ratings.before_E >= min_history)
        & (items.upload_ms_N[film_rows_E] < ratings.times_ms_E)
        & (existing_E - ratings.until_E >= num_sampled)
    )
    kept = eligible
    if max_requests is not None and max_requests < len(eligible):
        kept = eligible[np.linspace(0, len(eligible) - 1, max_requests).round().astype(np.int64)]
    histories = HistoryStore()
    actions_E = pack_actions(_actions(ratings.stars_E))
    histories.append_sorted(ratings.users_E, ratings.films_E, actions_E, ratings.times_ms_E)
    samples = []
    for e in kept:
        rated = histories.view(int(ratings.users_E[e]), watermark=int(ratings.until_E[e])).ids_T
        existing = items.video_id_N[by_upload_N[: existing_E[e]]]
        rng = np.random.default_rng([seed, int(ratings.users_E[e]), int(ratings.films_E[e])])
        candidates_C = _candidates(int(ratings.films_E[e]), existing, rated, num_sampled, rng)
        samples.append(_sample(ratings, int(e), candidates_C, histories, max_history))
    return MovieLens(
        items=items, samples=samples, num_ratings=len(ratings.users_E), num_eligible=len(eligible)
    )


def _candidates(
    film: int,
    existing: npt.NDArray[np.int32],
    rated: npt.NDArray[np.int32],
    num_sampled: int,
    rng: np.random.Generator,
) -> npt.NDArray[np.int32]:
    """The film and others, in random order: a ranker must not learn a place."""
    taken = np.zeros(int(max(existing.max(), rated.max())) + 1, bool)
    taken[rated] = True
    free = existing[~taken[existing]]
    sampled = rng.choice(free, num_sampled, replace=False)
    return rng.permutation(np.append(sampled, np.int32(film))).astype(np.int32)


def _sample(
    ratings: _Ratings,
    e: int,
    candidates_C: npt.NDArray[np.int32],
    histories: HistoryStore,
    max_history: int,
) -> TrainingSample:
    user = int(ratings.users_E[e])
    labels_CL = np.zeros((len(candidates_C), len(OBJECTIVES)), np.uint8)
    actions = _actions(ratings.stars_E[e])
    happened = [1, *(int(actions[name]) for name in OBJECTIVES[1:])]
    labels_CL[candidates_C == ratings.films_E[e]] = happened
    request = RankRequest(
        request_id=e,
        user_id=user,
        time_ms=int(ratings.times_ms_E[e]),
        candidates_C=candidates_C,
        history=histories.view(user, watermark=int(ratings.before_E[e]), limit=max_history),
        k=len(candidates_C),
    )
    return TrainingSample(request=request, labels_CL=labels_CL)


def _actions(stars: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.bool_]]:
    """The feedback columns that ratings stand for; `LABEL_RULES` says it in words."""
    meant = {label: stars >= least for label, least in _STARS.items()}
    meant["is_hate"] = stars <= _HATED
    return {name: meant.get(name, np.zeros(np.shape(stars), bool)) for name in ACTIONS}


def _by_time(table: pl.DataFrame) -> _Ratings:
    table = table.sort("timestamp", maintain_order=True)
    users = table["userId"].to_numpy().astype(np.int32)
    seconds = table["timestamp"].to_numpy().astype(np.int64)
    # One increasing key of (user, time): a user's ratings are a run of it.
    ranks = np.unique(users, return_inverse=True)[1].astype(np.int64)
    span = int(seconds.max()) + 1
    keys = np.sort(ranks * span + seconds)
    starts = np.searchsorted(keys, ranks * span)
    return _Ratings(
        users_E=users,
        films_E=table["movieId"].to_numpy().astype(np.int32),
        stars_E=table["rating"].to_numpy(),
        times_ms_E=seconds * 1000,
        before_E=np.searchsorted(keys, ranks * span + seconds) - starts,
        until_E=np.searchsorted(keys, ranks * span + seconds, side="right") - starts,
    )


def _items(movies: pl.DataFrame, ratings: _Ratings) -> ItemTable:
    ids_N, first = np.unique(ratings.films_E, return_index=True)  # The earliest: E is by time.
    movies = movies.sort("movieId")
    known = movies["movieId"].to_numpy()
    lists = [text.split("|") for text in movies["genres"].to_list()]
    genres = sorted({genre for names in lists for genre in names} - {_NO_GENRES})
    place = {genre: i for i, genre in enumerate(genres)}
    content = np.zeros((len(known), len(genres)), np.float32)
    category = np.zeros(len(known), np.int32)
    for row, names in enumerate(lists):
        columns = [place[name] for name in names if name in place]
        content[row, columns] = 1.0 / np.sqrt(max(1, len(columns)))
        category[row] = columns[0] + 1 if columns else 0
    rows_N = np.searchsorted(known, ids_N)
    return ItemTable(
        video_id_N=ids_N,
        author_id_N=np.zeros(len(ids_N), np.int32),
        category_N=category[rows_N],
        duration_ms_N=np.zeros(len(ids_N), np.int32),
        upload_ms_N=ratings.times_ms_E[first],
        content_ND=content[rows_N],
    )
