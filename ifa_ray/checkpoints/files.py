"""A folder of files that appears whole or not at all, and files that are read with care."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from ifa_ray.data.tables import temporary_of
from ifa_ray.errors import CheckpointError


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files into a temporary folder and renames it; only one process may write a version."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for stale in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(stale)
    temporary = temporary_of(folder)
    temporary.mkdir()
    try:
        for name, data in files.items():
            with open(temporary / name, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        sync_folder(temporary)
        os.rename(temporary, folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Brings a folder's own entries, such as a rename, to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_folder(folder: Path) -> None:
    """Deletes a folder and what is in it, if it is there."""
    if folder.exists():
        shutil.rmtree(folder)


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """The bytes of a file.

    Raises:
        CheckpointError: if it is missing, or larger than `limit`.
    """
    try:
        size = path.stat().st_size
        if limit is not None and size > limit:
            raise CheckpointError(f"{path}: {size} bytes, must be <= {limit}.")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path}: no such file.") from None
