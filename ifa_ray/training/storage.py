"""Published versions in a folder or bucket elsewhere, named by a URL; and back again.

    s3://bucket/prefix?region=eu-west-1
    s3://bucket/prefix?endpoint_override=127.0.0.1:9000&scheme=http&region=us-east-1
    file:///mnt/shared/versions

An object store has no renaming, so a version's checkpoint.json goes last: where it is, all of the
version is. Keys come from where the S3 client looks for them (AWS_ACCESS_KEY_ID, ...), never from a
URL. The S3 client tries each call three times. These are the URLs of Ray's `storage_path`. Knows
files and pyarrow's filesystems; what is in a version is `checkpoint`'s.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from ifa_ray.errors import CheckpointError, ConfigError
from ifa_ray.training.checkpoint import latest_version, published_versions, version_folder
from ifa_ray.training.checkpoint_files import read_bytes, write_folder

__all__ = ["VersionStore", "is_url", "newest_version", "version_here"]

_LAST = "checkpoint.json"
_SCHEMES = ("s3", "file")


@dataclasses.dataclass(frozen=True)
class VersionStore:
    """Versions below one URL.

    Attributes:
        url: as it was given.
    """

    url: str
    _filesystem: Any
    _root: str

    @classmethod
    def at(cls, url: str) -> VersionStore:
        """Opens a store; nothing is read or written yet.

        Raises:
            ConfigError: if the URL cannot be understood, or holds a key.
        """
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES:
            raise ConfigError(f"url == {url!r}, must begin with s3:// or file://.")
        if parts.username or "access_key" in parts.query or "secret_key" in parts.query:
            raise ConfigError(
                f"url of {parts.scheme}://.../{Path(parts.path).name} holds a key, must not: keys "
                "come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)."
            )
        try:
            filesystem, root = fs.FileSystem.from_uri(url)
        except (pa.ArrowException, OSError) as error:
            raise ConfigError(f"url == {url!r} cannot be opened: {_first_line(error)}") from None
        return cls(url, filesystem, root.rstrip("/"))

    def open(self) -> None:
        """Makes sure that one can write here, and makes the folder; a bucket must be there.

        Raises:
            CheckpointError: if not.
        """
        try:
            self._filesystem.create_dir(self._root, recursive=True)
        except OSError as error:
            raise self._unreachable(error) from None

    def versions(self) -> list[int]:
        """Those that are whole, oldest first.

        Raises:
            CheckpointError: if the store cannot be reached.
        """
        selector = fs.FileSelector(self._root, recursive=True, allow_not_found=True)
        try:
            found = self._filesystem.get_file_info(selector)
        except OSError as error:
            raise self._unreachable(error) from None
        whole = re.compile(rf"version=(\d{{5,}})/{re.escape(_LAST)}$")
        return sorted(int(match[1]) for info in found if (match := whole.search(info.path)))

    def push(self, models: Path) -> list[int]:
        """Copies every version that is not there yet, oldest first; returns which.

        A copy that was cut short is made again, because it lacks its last file.

        Raises:
            CheckpointError: if the store cannot be reached.
        """
        there = set(self.versions())
        missing = [v for v in published_versions(models) if v not in there]
        for version in missing:
            folder = version_folder(models, version)
            # What is needed to go on learning stays where the learning is.
            names = sorted(p.name for p in folder.iterdir() if p.name != "optimizer.safetensors")
            for name in (*(n for n in names if n != _LAST), _LAST):
                self._write(f"{self._root}/{folder.name}/{name}", read_bytes(folder / name))
        return missing

    def fetch(self, version: int, models: Path) -> Path:
        """Brings a version here, whole or not at all; its checksums are checked when it is loaded.

        Raises:
            CheckpointError: if it is not there or the store cannot be reached.
        """
        target = version_folder(models, version)
        if target.exists():
            return target
        if version not in self.versions():
            raise CheckpointError(f"{self.url}: has no whole version {version}.")
        selector = fs.FileSelector(f"{self._root}/{target.name}")
        try:
            found = self._filesystem.get_file_info(selector)
            files = {info.base_name: self._read(info.path) for info in found}
        except OSError as error:
            raise self._unreachable(error) from None
        write_folder(target, files)
        return target

    def _write(self, path: str, data: bytes) -> None:
        try:
            self._filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            with self._filesystem.open_output_stream(path) as file:
                file.write(data)
        except OSError as error:
            raise self._unreachable(error) from None

    def _read(self, path: str) -> bytes:
        with self._filesystem.open_input_stream(path) as file:
            return file.read()

    def _unreachable(self, error: Exception) -> CheckpointError:
        return CheckpointError(f"{self.url}: {_first_line(error)}")


def is_url(place: Path | str) -> bool:
    """Whether versions lie in a store, and not in a folder of this machine."""
    return isinstance(place, str) and "://" in place


def newest_version(place: Path | str) -> int | None:
    """The newest version of a folder or of a store's URL; None if there is none.

    Raises:
        ConfigError, CheckpointError: as `VersionStore.at` and `VersionStore.versions`.
    """
    if is_url(place):
        return max(VersionStore.at(str(place)).versions(), default=None)
    return latest_version(place)


@contextlib.contextmanager
def version_here(place: Path | str, version: int) -> Iterator[Path]:
    """The folder of a version; one in a store is brought here for as long as it is read.

    Nothing is kept: a version that is loaded is in memory, and no disk fills up.

    Raises:
        ConfigError, CheckpointError: as `VersionStore.at` and `VersionStore.fetch`.
    """
    if is_url(place):
        with tempfile.TemporaryDirectory(prefix="ifa-version-") as here:
            yield VersionStore.at(str(place)).fetch(version, Path(here))
    else:
        yield version_folder(place, version)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
