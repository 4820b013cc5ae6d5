"""A folder of files that appears whole or not at all, and files that are read with care.

Knows bytes and names, not what is in them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ifa_ray.data.half_written import temporary_of
from ifa_ray.errors import CheckpointError

__all__ = ["read_bytes", "remove_folder", "sync_folder", "write_folder", "write_sealed"]

Data = bytes | Sequence[bytes | memoryview]
"""A file's bytes, whole or in pieces."""


def write_folder(folder: Path, files: Mapping[str, Data]) -> None:
    """Writes files into a temporary folder and renames it; only one process may write a version."""
    write_sealed(folder, files, lambda _: {})


def write_sealed(
    folder: Path,
    files: Mapping[str, Data],
    seal: Callable[[dict[str, str]], Mapping[str, Data]],
) -> None:
    """As `write_folder`, with files more that are about those given.

    One thread brings files to the disk, which is waiting for the most part, while this one hashes.

    Args:
        folder: must not exist.
        files: by name.
        seal: given the SHA-256 of each file, returns the others.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for stale in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(stale)
    temporary = temporary_of(folder)
    temporary.mkdir()
    try:
        with ThreadPoolExecutor(1, "disk") as disk:
            written = [disk.submit(_write, temporary / n, data) for n, data in files.items()]
            sums = {name: _sha256(data) for name, data in files.items()}
            for each in written:
                each.result()
        for name, data in seal(sums).items():
            _write(temporary / name, data)
        sync_folder(temporary)
        os.rename(temporary, folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(path: Path, data: Data) -> None:
    with open(path, "wb") as file:
        file.writelines(_pieces(data))
        file.flush()
        os.fsync(file.fileno())


def _sha256(data: Data) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(data):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(data: Data) -> Sequence[bytes | memoryview]:
    return [data] if isinstance(data, bytes) else data


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
