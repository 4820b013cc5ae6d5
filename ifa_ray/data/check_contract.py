"""Checks tables of the contract: those of a run's folder, file by file, or an adapter's in memory.

Knows the columns of `ifa_ray.schema` and how the tables belong together. The rules are those of
`ifa_ray.data.log` and `ifa_ray.training.samples`, which refuse the first that is broken; here each
is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import polars as pl

from ifa_ray.data.check_rules import Findings, Rule, is_flag, quantiles_of, summary_of
from ifa_ray.data.log import ITEM_COLUMNS
from ifa_ray.data.log_tables import LogTables, watermarks
from ifa_ray.data.run_folder import WARMUP, RunFolder, ShardDay
from ifa_ray.errors import LogError
from ifa_ray.schema import ACTIONS, IMPRESSION_COLUMNS, MAX_CANDIDATES, REQUEST_COLUMNS

__all__ = ["LONG_VIEW_RULE", "PLAY_RULES", "check_run", "check_tables"]

_WHERE = ("file", "row")

# KuaiRand's README: the whole video, or 18 s of one that is longer.
_LONG_MS = 18_000
LONG_VIEW_RULE = Rule(
    f"long_view is not what play_time_ms >= min(duration_ms, {_LONG_MS}) says",
    (pl.col("duration_ms") > 0)
    & (
        (pl.col("play_time_ms") >= pl.min_horizontal("duration_ms", pl.lit(_LONG_MS)))
        != (pl.col("long_view") == 1)
    ),
    is_note=True,
)
PLAY_RULES = (
    Rule("play_time_ms is more than ten times duration_ms",
         (pl.col("duration_ms") > 0) & (pl.col("play_time_ms") > 10 * pl.col("duration_ms")),
         is_note=True),
    Rule("duration_ms is 0, though it was played",
         (pl.col("duration_ms") == 0) & (pl.col("play_time_ms") > 0), is_note=True),
    LONG_VIEW_RULE,
    Rule("long_view without is_click", (pl.col("long_view") == 1) & (pl.col("is_click") == 0),
         show=("play_time_ms",), is_note=True),
)  # fmt: skip

_IMPRESSION_RULES = (
    *(is_flag(name) for name in (*ACTIONS, "is_rand")),
    *(Rule(f"{name} is negative", pl.col(name) < 0)
      for name in ("request_id", "user_id", "video_id", "position", "play_time_ms",
                   "duration_ms")),
    Rule("the video is logged more than once for its request",
         pl.struct("request_id", "video_id").is_duplicated()),
    *PLAY_RULES,
)  # fmt: skip
_REQUEST_RULES = (
    *(Rule(f"{name} is negative", pl.col(name) < 0)
      for name in ("request_id", "user_id", "watermark")),
    Rule("request_id is there more than once", pl.col("request_id").is_duplicated()),
    Rule("it has no candidates", pl.col("candidates").list.len() == 0),
    Rule(f"it has more than {MAX_CANDIDATES} candidates",
         pl.col("candidates").list.len() > MAX_CANDIDATES),
    Rule("a candidate is there more than once",
         pl.col("candidates").list.n_unique() < pl.col("candidates").list.len()),
    Rule("channels and candidates differ in number",
         pl.col("channels").list.len() != pl.col("candidates").list.len()),
)  # fmt: skip
_ITEM_RULES = (
    *(Rule(f"{name} is negative", pl.col(name) < 0)
      for name in ("video_id", "author_id", "category", "duration_ms")),
    Rule("video_id is there more than once", pl.col("video_id").is_duplicated()),
    Rule("content differs in width",
         pl.col("content").list.len() != pl.col("content").list.len().first()),
    Rule("content holds NaN or infinity", ~pl.col("content").list.eval(
        pl.element().is_finite()).list.all()),
)  # fmt: skip
_SHOW = {
    "impressions": ("request_id", "user_id", "video_id", "time_ms"),
    "requests": ("request_id", "user_id", "time_ms"),
    "items": ("video_id",),
}


def check_tables(findings: Findings, tables: LogTables) -> None:
    """Checks the tables that an adapter gave."""
    items = pl.DataFrame(
        {
            "video_id": tables.items.video_id_N, "author_id": tables.items.author_id_N,
            "category": tables.items.category_N, "duration_ms": tables.items.duration_ms_N,
        }
    )  # fmt: skip
    impressions = pl.DataFrame(dict(tables.impressions))
    lists = {
        name: pl.Series(name, [np.asarray(row) for row in tables.requests[name]])
        for name in ("candidates", "channels")
    }
    requests = pl.DataFrame(dict(tables.requests) | lists)
    for name, frame in (("items", items), ("impressions", impressions), ("requests", requests)):
        _check_rows(findings, name, name, frame.with_row_index("row"))
    _check_together(findings, "", items, [(impressions, requests)])


def check_run(findings: Findings, path: Path) -> None:
    """Checks every world of a run's folder: each arm and replicate, its warm-up included."""
    folder = RunFolder(path)
    worlds = sorted(
        {_world(file) for file in folder.log.glob("impressions/*/*/day=*/*.parquet")}
        | {_world(file) for file in folder.log.glob("requests/*/*/day=*/*.parquet")}
    )
    if not worlds:
        findings.problem("log", "has no impressions and no requests")
    arms = {replicate: [a for a, r in worlds if r == replicate] for _, replicate in worlds}
    for replicate, names in arms.items():
        items = _check_items(findings, folder.items(int(replicate)))
        shared = _days(findings, folder, WARMUP, replicate)
        alone = [name for name in names if name != WARMUP]
        for arm in alone or [WARMUP]:
            mine = [] if arm == WARMUP else _days(findings, folder, arm, replicate)
            _check_together(findings, f"arm={arm}/replicate={replicate}", items, shared + mine)
    _check_commits(findings, folder)


def _days(
    findings: Findings, folder: RunFolder, arm: str, replicate: str
) -> list[tuple[pl.DataFrame, pl.DataFrame]]:
    """The (impressions, requests) of each shard's day of one arm, in order, rows checked."""
    place = Path(f"arm={arm}") / f"replicate={replicate}"
    files = {
        file.relative_to(folder.log / table)
        for table in ("impressions", "requests")
        for file in (folder.log / table / place).glob("day=*/*.parquet")
    }
    pairs = []
    for file in sorted(files):
        frames = []
        for table, schema in (("impressions", IMPRESSION_COLUMNS), ("requests", REQUEST_COLUMNS)):
            frame = _read(findings, folder.log / table / file, schema)
            frames.append(frame.with_columns(pl.lit(str(file)).alias("file")))
        pairs.append((frames[0], frames[1]))
    for i, table in enumerate(("impressions", "requests")):
        if pairs:
            whole = pl.concat([pair[i] for pair in pairs], how="diagonal_relaxed")
            _check_rows(findings, f"{table}/{place}", table, whole)
    return pairs


def _check_items(findings: Findings, path: Path) -> pl.DataFrame:
    items = _read(findings, path, ITEM_COLUMNS)
    _check_rows(findings, findings.name(path), "items", items)
    return items


def _check_rows(findings: Findings, where: str, table: str, frame: pl.DataFrame) -> None:
    rules = {"impressions": _IMPRESSION_RULES, "requests": _REQUEST_RULES, "items": _ITEM_RULES}
    show = (*_WHERE, *_SHOW[table])
    flags = (*ACTIONS, "is_rand") if table == "impressions" else ()
    findings.files.append(
        summary_of(where, frame, flags=tuple(f for f in flags if _is_number(frame, f)))
    )
    findings.nulls(where, frame, [n for n in frame.columns if n not in _WHERE], show)
    numbers = frame.select(
        name for name in frame.columns
        if _is_number(frame, name) or isinstance(frame[name].dtype, pl.List) or name == "file"
    )  # fmt: skip
    findings.apply(where, numbers, rules[table], show)


def _check_together(
    findings: Findings,
    world: str,
    items: pl.DataFrame,
    days: list[tuple[pl.DataFrame, pl.DataFrame]],
) -> None:
    """What no table says alone. `days` in order of time; requests meet those of their own day."""
    prefix = f"{world}: " if world else ""
    ids = (
        items["video_id"].unique() if "video_id" in items.columns else pl.Series([], dtype=pl.Int32)
    )
    shown, total = 0, 0
    for impressions, requests in days:
        if not (
            {"request_id", "user_id", "video_id", "time_ms", "is_rand"} <= set(impressions.columns)
            and {"request_id", "user_id", "time_ms", "candidates"} <= set(requests.columns)
        ):
            findings.note(f"{prefix}log", "columns are missing: the tables could not be joined")
            return
        candidates = (
            requests.select("request_id", pl.col("candidates").alias("video_id"))
            .explode("video_id")
            .drop_nulls()
            .with_columns(pl.lit(True).alias("is_candidate"))
        )
        asked = requests.select(
            "request_id", pl.col("user_id").alias("asked_by"), pl.col("time_ms").alias("asked_ms")
        ).unique("request_id", keep="first")
        joined = impressions.join(asked, on="request_id", how="inner").join(
            candidates.unique(["request_id", "video_id"]), on=["request_id", "video_id"], how="left"
        )
        total += len(candidates)
        shown += int(joined["is_candidate"].sum() or 0)
        show = (*_WHERE, *_SHOW["impressions"])
        findings.apply(f"{prefix}impressions", joined, (
            Rule("was not a candidate of its request, and is_rand is 0",
                 pl.col("is_candidate").is_null() & (pl.col("is_rand") == 0)),
            Rule("is of another user than its request", pl.col("user_id") != pl.col("asked_by")),
            Rule("is earlier than its request", pl.col("time_ms") < pl.col("asked_ms")),
        ), show)  # fmt: skip
        unknown = [
            Rule("video_id is not in the catalogue", ~pl.col("video_id").is_in(ids.implode()))
        ]
        if len(ids):
            findings.apply(f"{prefix}candidates", candidates, unknown, ("request_id",))
            # A history may hold what has left the catalogue; what is shown now should not.
            findings.apply(f"{prefix}impressions", impressions, [
                Rule(unknown[0].says, unknown[0].breaks, is_note=True)], show)  # fmt: skip
    _check_histories(findings, prefix, days)
    _add(findings, "candidates", total)
    _add(findings, "candidates shown", shown)


def _check_histories(
    findings: Findings, prefix: str, days: list[tuple[pl.DataFrame, pl.DataFrame]]
) -> None:
    """Clocks and watermarks over all days of a world."""
    impressions = pl.concat([each for each, _ in days], how="diagonal_relaxed")
    requests = pl.concat([each for _, each in days], how="diagonal_relaxed")
    if not len(impressions):
        return
    clock = impressions.with_columns(
        (pl.col("time_ms") < pl.col("time_ms").shift().over("user_id")).alias("goes_back")
    )
    findings.apply(f"{prefix}impressions", clock, [
        Rule("time_ms of the user goes back", pl.col("goes_back"))],
        (*_WHERE, *_SHOW["impressions"]))  # fmt: skip
    lengths = impressions.group_by("user_id").len()["len"]
    findings.facts[f"{prefix}impressions per user"] = quantiles_of(lengths)
    if "watermark" not in requests.columns:
        return
    known = requests.drop_nulls(["user_id", "time_ms", "watermark"])
    rows = impressions.drop_nulls(["user_id", "time_ms"])
    columns = {name: rows[name].to_numpy() for name in ("user_id", "time_ms")}
    users, times = known["user_id"].to_numpy(), known["time_ms"].to_numpy()
    marked = known.with_columns(
        pl.Series("seen_before", watermarks(columns, users, times)),
        pl.Series("seen_until", watermarks(columns, users, times + 1)),
    )
    findings.facts[f"{prefix}history of a request"] = quantiles_of(known["watermark"])
    findings.apply(f"{prefix}requests", marked, (
        Rule("watermark counts impressions that are later than the request",
             pl.col("watermark") > pl.col("seen_until")),
        Rule("watermark leaves out impressions that are earlier than the request",
             pl.col("watermark") < pl.col("seen_before"), is_note=True),
    ), (*_WHERE, *_SHOW["requests"]))  # fmt: skip


def _read(findings: Findings, path: Path, schema: Mapping[str, str]) -> pl.DataFrame:
    """The columns of a file that have a type of the contract's kind; what has not is found."""
    name = findings.name(path)
    try:
        frame = pl.read_parquet(path, hive_partitioning=False)
    except FileNotFoundError:
        findings.problem(name, "there is no such file")
        return pl.DataFrame()
    except (pl.exceptions.PolarsError, OSError) as error:
        findings.problem(name, f"is not a whole Parquet file ({str(error).splitlines()[0]})")
        return pl.DataFrame()
    for column, kind in schema.items():
        if column not in frame.columns:
            findings.problem(name, f"column {column} is missing, must be {kind}")
        elif frame[column].dtype != _polars_type(kind):
            found = frame[column].dtype
            findings.problem(name, f"column {column} is {found}, must be {kind}")
    for column in frame.columns:
        if column not in schema:
            findings.problem(name, f"column {column} is foreign")
    return frame.select(c for c in schema if c in frame.columns).with_row_index("row")


def _check_commits(findings: Findings, folder: RunFolder) -> None:
    for key in _committed(folder):
        try:
            folder.verify(key)
        except LogError as error:
            findings.problem(findings.name(folder.commit_file(key)), str(error))


def _committed(folder: RunFolder) -> Iterator[ShardDay]:
    for path in sorted((folder.root / "commits").glob("arm=*/replicate=*/day=*/shard=*.json")):
        arm, replicate, day, shard = (
            part.split("=")[1] for part in path.with_suffix("").parts[-4:]
        )
        yield ShardDay(arm, int(replicate), int(day), int(shard))


def _world(path: Path) -> tuple[str, str]:
    return path.parts[-4].removeprefix("arm="), path.parts[-3].removeprefix("replicate=")


def _is_number(frame: pl.DataFrame, column: str) -> bool:
    return column in frame.columns and frame[column].dtype.is_numeric()


def _polars_type(kind: str) -> pl.DataType:
    if kind.startswith("list<"):
        return pl.List(_polars_type(kind[5:-1]))
    return pl.Series(np.empty(0, kind)).dtype


def _add(findings: Findings, fact: str, count: int) -> None:
    findings.facts[fact] = findings.facts.get(fact, 0) + count
