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

import numpy as np
import numpy.typing as npt
import polars as pl

from ifa_ray.config import require
from ifa_ray.data.history import HistoryStore
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import LogError
from ifa_ray.schema import ACTIONS, OBJECTIVES, RankRequest, TrainingSample, pack_actions

LABEL_RULES: Mapping[str, str] = {
    "impression": "the film was rated",
    "is_click": "rating >= 4",
    "long_view": "rating >= 4.5",
    "is_like": "rating == 5",
}

_RATINGS = {"userId": pl.Int32, "movieId": pl.Int32, "rating": pl.Float64, "timestamp": pl.Int64}
_MOVIES = {"movieId": pl.Int32, "title": pl.String, "genres": pl.String}
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


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Ratings:
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
    ratings = _read_ratings(folder / "ratings.csv")
    items = _read_items(folder / "movies.csv", ratings)
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
    histories.append_sorted(
        ratings.users_E, ratings.films_E, pack_actions(_actions(ratings.stars_E)),
        ratings.times_ms_E,
    )  # fmt: skip
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
    meant = {
        "is_click": stars >= 4,
        "long_view": stars >= 4.5,
        "is_like": stars >= 5,
        "is_hate": stars <= 2,
    }
    return {name: meant.get(name, np.zeros(np.shape(stars), bool)) for name in ACTIONS}


def _read_ratings(path: Path) -> _Ratings:
    table = _read_csv(path, _RATINGS).sort("timestamp", maintain_order=True)
    stars, seconds = table["rating"].to_numpy(), table["timestamp"].to_numpy()
    if not ((stars >= 0.5) & (stars <= 5)).all():
        bad = stars[~((stars >= 0.5) & (stars <= 5))][0]
        raise LogError(f"{path}: rating == {bad}, must be in [0.5, 5].")
    for name in ("userId", "movieId", "timestamp"):
        lowest = table[name].to_numpy().min()
        if lowest < 0:
            raise LogError(f"{path}: {name} == {lowest}, must be >= 0.")
    users = table["userId"].to_numpy()
    # One increasing key of (user, time): a user's ratings are a run of it.
    ranks = np.unique(users, return_inverse=True)[1].astype(np.int64)
    span = int(seconds.max()) + 1
    keys = np.sort(ranks * span + seconds)
    starts = np.searchsorted(keys, ranks * span)
    return _Ratings(
        users_E=users,
        films_E=table["movieId"].to_numpy(),
        stars_E=stars,
        times_ms_E=seconds * 1000,
        before_E=np.searchsorted(keys, ranks * span + seconds) - starts,
        until_E=np.searchsorted(keys, ranks * span + seconds, side="right") - starts,
    )


def _read_items(path: Path, ratings: _Ratings) -> ItemTable:
    ids_N, first = np.unique(ratings.films_E, return_index=True)  # The earliest: E is by time.
    movies = _read_csv(path, _MOVIES).unique("movieId").sort("movieId")
    known = movies["movieId"].to_numpy()
    if not np.isin(ids_N, known).all():
        missing = ids_N[~np.isin(ids_N, known)][0]
        raise LogError(f"{path}: movieId {missing} is rated but missing here.")
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


def _read_csv(path: Path, columns: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    """Reads the named columns, refusing files that are missing, cut off or without rows."""
    try:
        data = path.read_bytes()
    except OSError:
        raise LogError(f"{path}: no such file, must be that of a MovieLens folder.") from None
    # A number that was cut in half is still a number, so the last line must have its end.
    if not data.endswith(b"\n"):
        raise LogError(f"{path}: its last line has no end, is it truncated?")
    try:
        table = pl.read_csv(data, columns=list(columns), schema_overrides=dict(columns))
    except pl.exceptions.PolarsError as error:
        why = str(error).splitlines()[0]
        raise LogError(f"{path}: must hold the columns {', '.join(columns)} ({why}).") from None
    nulls = {name: count for name, count in table.null_count().row(0, named=True).items() if count}
    if nulls:
        raise LogError(f"{path}: column {next(iter(nulls))} has empty fields, must have none.")
    if not len(table):
        raise LogError(f"{path}: has no rows, must have at least one.")
    return table
