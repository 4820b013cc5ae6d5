"""KuaiRand (Pure, 1K, 27K: the authors' CSV files) as the contract's tables.

Knows what a row means, not how it is read, which is in `kuairand_files`; knows nothing of models.
Gao et al., CIKM 2022; https://kuairand.com.

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
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from ifa_ray.config import require
from ifa_ray.data.items import ItemTable
from ifa_ray.data.kuairand_files import (
    USED_COLUMNS,
    find_kuairand,
    read_logs,
    read_videos,
)
from ifa_ray.data.log_tables import (
    UNKNOWN_CHANNEL,
    LogTables,
    ReadSettings,
    evenly_spaced,
    log_tables,
)
from ifa_ray.errors import LogError


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
    log, num_users, num_rows = read_logs(
        files, max_rows=max_rows, max_users=max_users, seed=users_seed
    )
    items, num_unknown = read_videos(files.videos, log)
    slates = _slates(log, slate_gap_ms)
    kept, num_eligible = _kept_slates(slates, items, settings, min_history)
    if not len(kept):
        raise LogError(
            f"{folder}: none of {len(slates.start_S)} slates makes a request: histories or the "
            f"catalogue are too short for {settings.num_sampled} sampled videos."
        )
    candidates = _Sampler(log, slates, items, settings)
    columns = {name: log[name].to_numpy() for name in USED_COLUMNS}
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
        """What the slate showed and never-shown videos, in random order."""
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
