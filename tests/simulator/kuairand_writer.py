"""A simulated log in the files that KuaiRand's authors publish."""

import datetime
from pathlib import Path

import numpy as np
import polars as pl

from ifa_ray.data.readers.kuairand import LOG_COLUMNS
from ifa_ray.schema import ACTIONS

BEIJING = datetime.timezone(datetime.timedelta(hours=8))
# What the worlds' clock counts from, so that the log begins on 2022-04-08 in Beijing.
FIRST_DAY_MS = int(datetime.datetime(2022, 4, 8, tzinfo=BEIJING).timestamp() * 1000)


def shift_of(impressions) -> int:
    """What is added to the world's times: whole days."""
    day_ms = 86_400_000
    return FIRST_DAY_MS - int(impressions["time_ms"].min() // day_ms) * day_ms


def write_kuairand(folder: Path, impressions, items, version: str = "pure") -> None:
    """Writes the five files. Rows of a request share its first time, as a delivered batch does."""
    data = folder / "data"
    data.mkdir(parents=True)
    shift = shift_of(impressions)
    frame = pl.DataFrame(dict(impressions)).with_columns(
        (pl.col("time_ms").min().over("request_id") + shift).alias("time_ms")
    ).sort("user_id", "time_ms", "position")  # fmt: skip
    local = (pl.col("time_ms") + 8 * 3_600_000).cast(pl.Datetime("ms"))
    zeros = ("profile_stay_time", "comment_stay_time", "is_profile_enter")
    frame = frame.with_columns(
        local.dt.strftime("%Y%m%d").alias("date"), local.dt.strftime("%H%M").alias("hourmin"),
        pl.lit(1).alias("tab"), *(pl.lit(0).alias(name) for name in zeros),
    ).select(LOG_COLUMNS)  # fmt: skip
    middle = frame["time_ms"].median()
    standard = frame.filter(pl.col("is_rand") == 0)
    for name, rows in (
        ("log_standard_4_08_to_4_21", standard.filter(pl.col("time_ms") <= middle)),
        ("log_standard_4_22_to_5_08", standard.filter(pl.col("time_ms") > middle)),
        ("log_random_4_22_to_5_08", frame.filter(pl.col("is_rand") == 1)),
    ):
        rows.write_csv(data / f"{name}_{version}.csv")
    pl.DataFrame({"user_id": np.unique(impressions["user_id"])}).write_csv(
        data / f"user_features_{version}.csv"
    )
    uploads = pl.Series(items.upload_ms_N + shift + 8 * 3_600_000).cast(pl.Datetime("ms"))
    pl.DataFrame(
        {
            "video_id": items.video_id_N, "author_id": items.author_id_N, "video_type": "NORMAL",
            "upload_dt": uploads.dt.strftime("%Y-%m-%d"), "upload_type": "ShortImport",
            "visible_status": 1.0, "video_duration": items.duration_ms_N.astype(float),
            "server_width": 720.0, "server_height": 1280.0, "music_id": 1, "music_type": 4.0,
            "tag": items.category_N.astype(str),
        }
    ).write_csv(data / f"video_features_basic_{version}.csv")  # fmt: skip


def columns_of(logs):
    """The impressions of a shard's days, one after another."""
    names = logs[0].impressions
    return {name: np.concatenate([log.impressions[name] for log in logs]) for name in names}


assert set(ACTIONS) < set(LOG_COLUMNS)
