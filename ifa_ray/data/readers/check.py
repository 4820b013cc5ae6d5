"""Checks the folder of a run: every file of every world, read loosely, and its commits.

Knows the layout of `ifa_ray.data.run_folder`; the rules of the tables are in `check_contract`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ifa_ray.data.log import ITEM_COLUMNS
from ifa_ray.data.log_tables import LogTables
from ifa_ray.data.readers.check_contract import (
    SHOW,
    check_histories,
    check_requests,
    check_rows,
    check_tables,
)
from ifa_ray.data.readers.ebnerd import is_ebnerd, scan_ebnerd
from ifa_ray.data.readers.kuairand import find_kuairand, is_kuairand, scan_kuairand
from ifa_ray.data.readers.movielens import is_movielens, scan_movielens
from ifa_ray.data.readers.scan import Findings
from ifa_ray.data.run_folder import WARMUP, RunFolder, ShardDay, is_run
from ifa_ray.errors import LogError
from ifa_ray.schema import IMPRESSION_COLUMNS, REQUEST_COLUMNS

_SCHEMAS: Mapping[str, Mapping[str, str]] = {
    "impressions": IMPRESSION_COLUMNS,
    "requests": REQUEST_COLUMNS,
    "items": ITEM_COLUMNS,
}
_Days = list[tuple[pl.DataFrame, pl.DataFrame]]


def check_run(findings: Findings, path: Path) -> None:
    """Checks every world of a run's folder: each arm and replicate, its warm-up once."""
    folder = RunFolder(path)
    worlds = sorted(
        {
            (file.parts[-4].removeprefix("arm="), file.parts[-3].removeprefix("replicate="))
            for table in ("impressions", "requests")
            for file in folder.log.glob(f"{table}/arm=*/replicate=*/day=*/*.parquet")
        }
    )
    if not worlds:
        findings.problem("log", "has no impressions and no requests")
    for replicate in dict.fromkeys(replicate for _, replicate in worlds):
        arms = [arm for arm, other in worlds if other == replicate and arm != WARMUP]
        items_path = folder.items(int(replicate))
        items = _read(findings, items_path, "items")
        check_rows(findings, findings.name(items_path), "items", items)
        shared = _check_days(findings, folder, WARMUP, replicate, items)
        for arm in arms:
            mine = _check_days(findings, folder, arm, replicate, items)
            _check_world(findings, f"arm={arm}/replicate={replicate}: ", shared + mine)
        if not arms:
            _check_world(findings, f"arm={WARMUP}/replicate={replicate}: ", shared)
    for key in _committed(folder):
        try:
            folder.verify(key)
        except LogError as error:
            findings.problem(findings.name(folder.commit_file(key)), str(error))


def _check_days(
    findings: Findings, folder: RunFolder, arm: str, replicate: str, items: pl.DataFrame
) -> _Days:
    """The (impressions, requests) of each shard's day of one arm, in order, checked."""
    place = f"arm={arm}/replicate={replicate}"
    files = {
        file.relative_to(folder.log / table)
        for table in ("impressions", "requests")
        for file in (folder.log / table / place).glob("day=*/*.parquet")
    }
    days = []
    for file in sorted(files):
        impressions, requests = (
            _read(findings, folder.log / table / file, table).with_columns(
                pl.lit(f"{file.parts[-2]}/{file.name}").alias("file")
            )
            for table in ("impressions", "requests")
        )
        # Where impressions could not be read, nothing was shown and all would be wrong.
        if len(impressions):
            check_requests(findings, f"{place}: ", items, impressions, requests)
        days.append((impressions, requests))
    for i, table in enumerate(("impressions", "requests")):
        if days:
            check_rows(findings, f"{table}/{place}", table, pl.concat([day[i] for day in days]))
    return days


def _check_world(findings: Findings, prefix: str, days: _Days) -> None:
    """Histories over all days of an arm, its warm-up first."""
    if not all(len(impressions) for impressions, _ in days):
        findings.note(f"{prefix}requests", "histories were not checked: a day has no impressions")
        return
    impressions = pl.concat([each for each, _ in days])
    check_histories(findings, prefix, impressions, pl.concat([each for _, each in days]))


def _read(findings: Findings, path: Path, table: str) -> pl.DataFrame:
    """A file's columns in the contract's types, null where they had no such value, which is found.

    What cannot be read has no rows.
    """
    name, schema = findings.name(path), _SCHEMAS[table]
    types = {column: _polars_type(kind) for column, kind in schema.items()}
    nothing = pl.DataFrame(schema={"row": pl.get_index_type(), **types})
    frame = findings.scan_parquet(path)
    if frame is None:
        return nothing
    findings.rows[name] = len(frame)
    casts = []
    for column, kind in schema.items():
        found, wanted = frame.schema.get(column), types[column]
        if found is None:
            findings.problem(name, f"column {column} is missing, must be {kind}")
        elif found != wanted:
            findings.problem(name, f"column {column} is {found}, must be {kind}")
        fits = found is not None and isinstance(found, pl.List) == isinstance(wanted, pl.List)
        value = pl.col(column).cast(wanted, strict=False) if fits else pl.lit(None, dtype=wanted)
        casts.append(value.alias(column))
    for column in frame.columns:
        if column not in schema:
            findings.problem(name, f"column {column} is foreign")
    frame = frame.with_row_index("row")
    findings.nulls(name, frame, schema, SHOW[table])
    return frame.select("row", *casts)


def _committed(folder: RunFolder) -> Iterator[ShardDay]:
    for path in sorted((folder.root / "commits").glob("arm=*/replicate=*/day=*/shard=*.json")):
        arm, replicate, day, shard = (
            part.split("=")[1] for part in path.with_suffix("").parts[-4:]
        )
        yield ShardDay(arm, int(replicate), int(day), int(shard))


def _polars_type(kind: str) -> pl.DataType:
    if kind.startswith("list<"):
        return pl.List(_polars_type(kind[5:-1]))
    return pl.Series(np.empty(0, kind)).dtype


_CHECKS: tuple[tuple[str, Callable[[Path], bool], Callable[[Findings, Path], Any]], ...] = (
    ("MovieLens", is_movielens, scan_movielens),
    ("KuaiRand", is_kuairand, lambda found, path: scan_kuairand(found, find_kuairand(path))),
    ("EB-NeRD", is_ebnerd, scan_ebnerd),
    ("a run", is_run, check_run),
)


def check_log(path: Path | str) -> Findings:
    """Checks a folder of any format that is known by its files.

    Raises:
        LogError: if it is of none.
    """
    path = Path(path)
    for name, recognises, check in _CHECKS:
        if recognises(path):
            findings = Findings(path, kind=name)
            check(findings, path)
            return _with_share(findings)
    known = ", ".join(name for name, _, _ in _CHECKS)
    raise LogError(f"{path}: is no folder of a known format ({known}).")


def check_log_tables(path: Path, name: str, tables: LogTables) -> Findings:
    """Checks what an adapter gave."""
    findings = Findings(path, kind=name)
    check_tables(findings, tables)
    return _with_share(findings)


def _with_share(findings: Findings) -> Findings:
    facts = findings.facts
    if facts.get("candidates"):
        facts["share of candidates shown"] = facts["candidates shown"] / facts["candidates"]
    return findings
