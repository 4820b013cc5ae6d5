"""KuaiRand (Pure, 1K, 27K: the authors' CSV files) as the contract's tables.

Knows files, columns and rules; knows nothing of models. Gao et al., CIKM 2022; https://kuairand.com.

    KuaiRand-Pure/data/log_standard_4_08_to_4_21_pure.csv, log_standard_4_22_to_5_08_pure.csv,
                       log_random_4_22_to_5_08_pure.csv, video_features_basic_pure.csv
    ..._1k.csv; ..._27k_part1.csv, ..._27k_part2.csv

KuaiRand logs impressions and no candidate sets, so requests are made:

    a slate      a user's impressions with less than `slate_gap_ms` between neighbours: rows of one
                 delivered batch share their `time_ms`
    a request    asks at the first moment of a slate. Its candidates are what the slate showed, and
                 `num_sampled` videos drawn uniformly among those that the log knows, that existed
                 by then, and that the user had not been shown so far; in random order
    is_rand      a slot that was filled at random is history and no candidate, as in the contract
    a repeat     of a video within its slate is history alone
    history      all impressions of earlier slates, of every tab and both policies

Feedback columns are the log's own, verbatim. An item's category is its first tag + 1, its author
`author_id` + 1 (0 is unknown), its content all tags hashed to `TAG_BUCKETS` as one unit vector. Of
an upload only the day is published: an item exists from the first second of that day in Beijing. A
video that the feature file lacks gets unknown features, the log's duration, and the day on which it
was first shown. Retrieval channels are unknown; `tab` is a page of the app and none.

27K has 322 million rows. Whole users are left out, in a keyed order, until the log has `max_rows`.

Letters: I impressions, S slates, N videos, U users, C candidates.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from ifa_ray.config import require
from ifa_ray.data.items import ItemTable
from ifa_ray.data.log_tables import (
    UNKNOWN_CHANNEL,
    LogTables,
    ReadSettings,
    choose_users,
    evenly_spaced,
    item_table,
    log_tables,
)
from ifa_ray.data.readers.scan import (
    INT32,
    PLAY_RULES,
    TIME_MS,
    Findings,
    flags,
    notes,
    rules,
    unique,
    whole,
)
from ifa_ray.errors import LogError
from ifa_ray.schema import ACTIONS

LOG_COLUMNS = (
    *("user_id", "video_id", "date", "hourmin", "time_ms", "is_click", "is_like", "is_follow"),
    *("is_comment", "is_forward", "is_hate", "long_view", "play_time_ms", "duration_ms"),
    *("profile_stay_time", "comment_stay_time", "is_profile_enter", "is_rand", "tab"),
)
"""The columns of a log file, in its order."""

TAG_BUCKETS = 32
BEIJING_MS = 8 * 3_600_000
"""The lead of the dates' clock over `time_ms`."""

_DAY_MS = 86_400_000
_LOG_NAME = re.compile(r"log_(standard|random)_\d_\d\d_to_\d_\d\d_(pure|1k|27k)(_part\d+)?\.csv")
_FLAGS = (*ACTIONS, "is_rand")
_PLAY = ("play_time_ms", "duration_ms")
_READ = ("user_id", "video_id", "time_ms", *_FLAGS, *_PLAY)
_SHOW = ("line", "user_id", "video_id", "time_ms")
_BEIJING_DAY = (
    (pl.col("time_ms") + BEIJING_MS)
    .cast(pl.Int64, strict=False)
    .cast(pl.Datetime("ms"))
    .dt.strftime("%Y%m%d")
    .cast(pl.Int64, strict=False)
)
_LOG_RULES = [
    *flags(_FLAGS),
    *whole(INT32, "user_id", "video_id"),
    *rules({f"{n} is not in [0, 2^31)": ~pl.col(n).is_between(0, INT32 - 1) for n in _PLAY}),
    *whole(TIME_MS, "time_ms"),
    *notes(
        {
            "tab is not in [0, 14]": ~pl.col("tab").is_between(0, 14),
            "date is not the day of time_ms in Beijing": pl.col("date") != _BEIJING_DAY,
            "time_ms of the user goes back: the reader sorts": pl.col("time_ms")
            < pl.col("time_ms").shift().over("user_id"),
        }
    ),
    *PLAY_RULES,
]
_UPLOADED = pl.col("upload_dt").str.to_date("%Y-%m-%d", strict=False)
_LENGTH = pl.col("video_duration")
_VIDEO_RULES = [
    *whole(INT32, "video_id"),
    *unique("video_id"),
    *rules(
        {
            "author_id is not in [0, 2^31 - 1)": ~pl.col("author_id").is_between(0, INT32 - 2),
            "video_duration is not in [0, 2^31)": ~_LENGTH.is_between(0, INT32 - 1),
        }
    ),
    *notes(
        {
            "video_duration is empty": _LENGTH.is_null(),
            "upload_dt is not a date": _UPLOADED.is_null(),
            "tag is empty": pl.col("tag").is_null(),
        }
    ),
]


class KuaiRandFiles(NamedTuple):
    """The files of one version of KuaiRand: pure, 1k or 27k."""

    version: str
    logs: tuple[Path, ...]
    videos: Path


def is_kuairand(path: Path) -> bool:
    """True if a folder, or `data/` in it, has a log file of KuaiRand's name."""
    return any(_logs(folder) for folder in (path, path / "data"))


def find_kuairand(path: Path | str) -> KuaiRandFiles:
    """The files of a folder, whether or not they are readable.

    Raises:
        LogError: if there is no log, or logs of two versions.
    """
    folder = Path(path) / "data" if not _logs(Path(path)) else Path(path)
    logs = _logs(folder)
    if not logs:
        raise LogError(f"{path}: has no log_standard_..._pure.csv, _1k.csv or _27k_part1.csv.")
    versions = sorted({match[2] for match in map(_match, logs) if match})
    if len(versions) > 1:
        raise LogError(f"{folder}: holds logs of {' and '.join(versions)}, must be of one version.")
    return KuaiRandFiles(
        version=versions[0],
        logs=tuple(logs),
        videos=folder / f"video_features_basic_{versions[0]}.csv",
    )


def _logs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("log_*.csv") if _match(path))


def _match(path: Path) -> re.Match[str] | None:
    return _LOG_NAME.fullmatch(path.name)


def scan_kuairand(
    findings: Findings, files: KuaiRandFiles
) -> tuple[pl.LazyFrame | None, list[pl.LazyFrame]]:
    """The videos' features, and the logs that have a use."""
    name, videos, known = findings.name(files.videos), None, None
    with findings.reading(name):
        videos = _scan_videos(findings, files.videos)
        if videos is not None and not findings.strict:
            findings.summarise(name, videos)
            known = videos.select("video_id").collect()["video_id"].drop_nulls().unique()
    logs = []
    for path in files.logs:
        with findings.reading(findings.name(path)):
            logs += _scan_log(findings, path, known)
    with findings.reading("all logs"):
        findings.repeats("all logs", logs, ("user_id", "video_id", "time_ms"), is_note=True)
    findings.note(
        "all logs", "there are no candidate sets: shares of shown candidates are not known"
    )
    return videos, logs


def _scan_videos(findings: Findings, path: Path) -> pl.LazyFrame | None:
    empty = ("author_id", "upload_dt", "video_duration", "tag")
    numbers = ("video_id", "author_id", "video_duration")
    videos = findings.scan_csv(path, numbers, ("upload_dt", "tag"), may_be_empty=empty)
    if videos is not None:
        findings.apply(findings.name(path), videos, _VIDEO_RULES, ("line", "video_id"))
    return videos


def _scan_log(findings: Findings, path: Path, known: pl.Series | None) -> list[pl.LazyFrame]:
    name, odd = findings.name(path), ("date", "tab")
    numbers = _READ if findings.strict else (*_READ, *odd)
    log = findings.scan_csv(path, numbers, unread=odd, quote=None)
    if log is None:
        return []
    findings.summarise(name, log, rates=_FLAGS)
    broken = [*_LOG_RULES]
    if path.name.startswith("log_random"):
        broken += rules({"is_rand is 0 in the log of random slots": pl.col("is_rand") == 0})
    if known is not None:
        unknown = ~pl.col("video_id").is_in(known.implode())
        broken += notes({"video_id is not in the file of features": unknown})
    findings.apply(name, log, broken, _SHOW)
    return [log]


def _of_chosen_users(
    logs: list[pl.LazyFrame], max_rows: int, max_users: int | None, seed: int
) -> tuple[pl.DataFrame, int, int]:
    """The rows of as many whole users as fit, by (user, time); all users and rows, counted.

    Rows of equal user and time stay in the order of the files.
    """
    integers = pl.col("user_id", "video_id", "time_ms", *_FLAGS).cast(pl.Int64)
    parts = [log.select(_READ).with_columns(integers) for log in logs]
    counts = pl.concat(
        [part.group_by("user_id").agg(rows=pl.len()).collect(engine="streaming") for part in parts]
    )
    counts = counts.group_by("user_id").agg(pl.col("rows").cast(pl.Int64).sum())
    users, rows = counts["user_id"].to_numpy(), counts["rows"].to_numpy()
    chosen = choose_users(users, rows, max_rows=max_rows, max_users=max_users, seed=seed)
    mine = _is_one_of("user_id", chosen)
    log = pl.concat([part.filter(mine).collect(engine="streaming") for part in parts])
    log = log.sort("user_id", "time_ms", maintain_order=True)
    return log, len(users), int(rows.sum())


def _items(videos: pl.LazyFrame, log: pl.DataFrame) -> tuple[ItemTable, int]:
    """The videos of the log, and how many of them the feature file lacks."""
    shown = (
        log.group_by("video_id")
        .agg(pl.col("duration_ms").max(), pl.col("time_ms").min().alias("first_ms"))
        .sort("video_id")
    )
    ids = shown["video_id"].to_numpy()
    known = (
        videos.with_columns(pl.col("video_id", "author_id").cast(pl.Int64))
        .filter(_is_one_of("video_id", ids))
        .with_columns(
            pl.lit(True).alias("known"),
            # Beijing's midnight, in the milliseconds of the log.
            (_UPLOADED.cast(pl.Datetime("ms")).dt.epoch("ms") - BEIJING_MS).alias("upload_ms"),
        )
        .collect(engine="streaming")
    )
    day_ms = (pl.col("first_ms") + BEIJING_MS) // _DAY_MS * _DAY_MS - BEIJING_MS
    # A video without tags has an empty field.
    numbers = pl.col("tag").fill_null("").str.extract_all(r"\d+")
    tags = numbers.cast(pl.List(pl.Int32), strict=False).list.drop_nulls()
    table = (
        shown.join(known, on="video_id", how="left")
        .sort("video_id")
        .with_columns(
            pl.min_horizontal("upload_ms", day_ms).alias("upload_ms"),
            pl.coalesce("video_duration", "duration_ms").round().alias("duration_ms"),
            (pl.col("author_id") + 1).fill_null(0).alias("author_id"),
            tags.cast(pl.List(pl.Int64)).alias("tags"),
        )
        .with_columns((pl.col("tags").list.first() + 1).fill_null(0).alias("category"))
    )
    names = ("author_id", "category", "duration_ms", "upload_ms")
    columns = {name: table[name].to_numpy() for name in ("video_id", *names)}
    items = item_table({**columns, "content": _tag_vectors(table["tags"])})
    return items, int(table["known"].null_count())


def _tag_vectors(tags: pl.Series) -> npt.NDArray[np.float32]:
    """[N, TAG_BUCKETS], unit vectors; zeros where a video has no tags."""
    rows = np.repeat(np.arange(len(tags)), tags.list.len().to_numpy())
    content = np.zeros((len(tags), TAG_BUCKETS), np.float32)
    flat = tags.explode().drop_nulls().to_numpy()
    content[rows, flat % TAG_BUCKETS] = 1.0
    return content / np.maximum(1.0, np.sqrt(content.sum(axis=1, keepdims=True)))


def _is_one_of(column: str, ids: npt.NDArray[np.int64]) -> pl.Expr:
    return pl.col(column).is_in(pl.Series(ids).implode())


def read_kuairand(
    folder: Path | str,
    settings: ReadSettings | None = None,
    *,
    max_rows: int = 12_000_000,
    max_users: int | None = None,
    users_seed: int = 0,
    min_history: int = 5,
    slate_gap_ms: int = 1_000,
) -> LogTables:
    """Reads the logs of a folder and makes requests of the slates.

    Args:
        folder: of a version, or its `data/`.
        settings: sampled candidates, cap and seed. Draws are keyed by (seed, user, time), so the
            cap, which keeps evenly spaced requests, changes none of them.
        max_rows: impressions that may be held in memory, at about 300 bytes each; 1K has 11.7
            million.
        max_users: users beyond so many are left out.
        users_seed: of who is left out. Not that of `settings`: repetitions see the same users.
        min_history: impressions that a user must have before a request.
        slate_gap_ms: a pause of so much begins the next slate.

    Raises:
        LogError: naming the file that is missing, truncated or not of this layout, or if no request
            can be made.
        ConfigError: if a setting is outside its rule.
    """
    settings = settings or ReadSettings()
    require(min_history >= 0, "min_history", min_history, ">= 0")
    require(slate_gap_ms >= 1, "slate_gap_ms", slate_gap_ms, ">= 1")
    files = find_kuairand(folder)
    findings = Findings(Path(folder), strict=True)
    videos, logs = scan_kuairand(findings, files)
    assert videos is not None  # A strict scan has raised.
    with findings.reading(""):
        log, num_users, num_rows = _of_chosen_users(logs, max_rows, max_users, users_seed)
        items, num_unknown = _items(videos, log)
    slates = _slates(log, slate_gap_ms)
    kept, num_eligible = _kept_slates(slates, items, settings, min_history)
    if not len(kept):
        raise LogError(
            f"{folder}: none of {len(slates.start_S)} slates makes a request: histories or the "
            f"catalogue are too short for {settings.num_sampled} sampled videos."
        )
    candidates = _Sampler(log, slates, items, settings)
    columns = {name: log[name].to_numpy() for name in _READ}
    return log_tables(
        items=items,
        impressions={
            **{name: np.round(values) for name, values in columns.items()},
            "request_id": slates.request_I,
            "position": np.minimum(slates.position_I, np.iinfo(np.int16).max),
            "channel": np.full(len(log), UNKNOWN_CHANNEL),
        },
        requests={
            "request_id": slates.request_S[kept],
            "user_id": columns["user_id"][slates.start_S[kept]],
            "time_ms": columns["time_ms"][slates.start_S[kept]],
            "watermark": slates.before_S[kept],
            "candidates": [candidates.of(int(slate)) for slate in kept],
        },
        notes=(
            f"KuaiRand-{files.version}: {len(log):,} of {num_rows:,} impressions, those of "
            f"{log['user_id'].n_unique():,} of {num_users:,} users, from {len(files.logs)} "
            f"files; {len(items):,} videos, {num_unknown:,} of them without features.",
            f"Requests: slates of less than {slate_gap_ms} ms between impressions; {len(kept):,} "
            f"of {num_eligible:,} possible ones used ({len(kept) / num_eligible:.1%}), evenly "
            "spaced in time.",
            f"Candidates: what the slate showed, without its random slots, and "
            f"{settings.num_sampled} never-shown videos drawn uniformly among those that existed; "
            "drawn anew for each seed. The log has no candidate sets, so impression says how well "
            "shown videos are told from any videos, not from other retrieved ones.",
        ),
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Slates:
    """Slates of the log sorted by (user, time): rows start_S[s] to stop_S[s] - 1."""

    start_S: npt.NDArray[np.int64]
    stop_S: npt.NDArray[np.int64]
    user_start_S: npt.NDArray[np.int64]
    time_ms_S: npt.NDArray[np.int64]
    request_S: npt.NDArray[np.int64]
    request_I: npt.NDArray[np.int64]
    position_I: npt.NDArray[np.int64]
    candidate_I: npt.NDArray[np.bool_]

    @property
    def before_S(self) -> npt.NDArray[np.int64]:
        """Impressions of the user before the slate."""
        return self.start_S - self.user_start_S


def _slates(log: pl.DataFrame, gap_ms: int) -> _Slates:
    users, times = log["user_id"].to_numpy(), log["time_ms"].to_numpy()
    videos, is_rand = log["video_id"].to_numpy(), log["is_rand"].to_numpy()
    new_user = np.append(True, users[1:] != users[:-1])
    new_slate = new_user | np.append(True, np.diff(times) >= gap_ms)
    start_S = np.flatnonzero(new_slate)
    slate_I = np.cumsum(new_slate) - 1
    user_start_I = np.maximum.accumulate(np.where(new_user, np.arange(len(log)), 0))
    # Numbered by time, so that ids increase along the stream; users settle equal times.
    request_S = np.empty(len(start_S), np.int64)
    request_S[np.lexsort((users[start_S], times[start_S]))] = np.arange(len(start_S))
    request_I = request_S[slate_I]
    first = np.unique((slate_I.astype(np.int64) << 32) | videos, return_index=True)[1]
    repeat_I = np.ones(len(log), bool)
    repeat_I[first] = False
    request_I[repeat_I] = len(start_S) + np.arange(repeat_I.sum())
    return _Slates(
        start_S=start_S,
        stop_S=np.append(start_S[1:], len(log)),
        user_start_S=user_start_I[start_S],
        time_ms_S=times[start_S],
        request_S=request_S,
        request_I=request_I,
        position_I=np.arange(len(log)) - start_S[slate_I],
        candidate_I=~repeat_I & (is_rand == 0),
    )


def _kept_slates(
    slates: _Slates, items: ItemTable, settings: ReadSettings, min_history: int
) -> tuple[npt.NDArray[np.int64], int]:
    """Slates that become requests, by time, and how many could."""
    existing_S = np.searchsorted(np.sort(items.upload_ms_N), slates.time_ms_S)
    seen_S = slates.stop_S - slates.user_start_S
    eligible = np.flatnonzero(
        (slates.before_S >= min_history)
        & (np.add.reduceat(slates.candidate_I, slates.start_S) > 0)
        & (existing_S - seen_S >= settings.num_sampled)
    )
    eligible = eligible[np.argsort(slates.request_S[eligible])]
    return evenly_spaced(eligible, settings.max_requests), len(eligible)


class _Sampler:
    """Candidates of a slate; costs O(sampled + seen) per request, whatever the catalogue's size."""

    def __init__(
        self, log: pl.DataFrame, slates: _Slates, items: ItemTable, settings: ReadSettings
    ) -> None:
        self._users, self._videos = log["user_id"].to_numpy(), log["video_id"].to_numpy()
        self._slates, self._settings = slates, settings
        order_N = np.argsort(items.upload_ms_N, kind="stable")
        # Videos that exist at a moment are a prefix of this order.
        self._by_upload_N = items.video_id_N[order_N]
        self._uploads_N = items.upload_ms_N[order_N]

    def of(self, slate: int) -> npt.NDArray[np.int64]:
        """The slate's videos and never-shown videos, in random order."""
        s, wanted = self._slates, self._settings.num_sampled
        start, stop = s.start_S[slate], s.stop_S[slate]
        rng = np.random.default_rng(
            [self._settings.seed, int(self._users[start]), int(s.time_ms_S[slate])]
        )
        seen = np.unique(self._videos[s.user_start_S[slate] : stop])
        existing = int(np.searchsorted(self._uploads_N, s.time_ms_S[slate]))
        # So many distinct ones hold `wanted` unseen ones, of which the first are a fair sample.
        drawn = self._by_upload_N[rng.choice(existing, wanted + len(seen), replace=False)]
        sampled = drawn[~np.isin(drawn, seen)][:wanted]
        shown = self._videos[start:stop][s.candidate_I[start:stop]]
        return rng.permutation(np.append(sampled, shown))
