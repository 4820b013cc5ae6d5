"""Users' histories on disk: append-only, durable, read by user; no Ray, no HTTP, no ranker.

SQLite of the standard library holds them, for its journal has met more power cuts than anything
that could be written here: a write-ahead log with a sync at every commit, so what was answered is
there after SIGKILL or a power cut; readers that never wait for the writer; one file that `sqlite3`
opens. An LSM store would append faster and cost a dependency; a file of its own for each user
would cost an inode and a sync each.

A history is cut into chunks of `CHUNK` behaviours, a row each, with a checksum, which SQLite has
none of: an append rewrites one row of 3 KB however long the history is, a read is one range scan.

One process owns a store (a lock on a file beside it, which the kernel drops when the process dies).
Any of its threads may call anything; writes take turns.

Letters: T behaviours.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import re
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ifa_ray.config import require
from ifa_ray.errors import ConfigError, RequestError, StoreError
from ifa_ray.schema import MAX_HISTORY, MAX_TIME_MS, MIN_TIME_MS, History

MAX_BATCH = 10_000
"""Behaviours of one user in one append."""
MAX_LENGTH = 10_000_000
"""Behaviours of one user."""


class SequenceConflictError(RequestError):
    """An append does not follow what is stored; the message says from where on it must."""


class ErasedMeanwhileError(StoreError):
    """The user was erased between a watermark and the read that followed; both must be repeated."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Append:
    """Behaviours [begin, begin + T) of a user.

    Attributes:
        user_id: any int >= 0.
        begin: how many behaviours of the user came before: what makes saying it twice harmless.
        history: 1 to `MAX_BATCH` behaviours, oldest first.
    """

    user_id: int
    begin: int
    history: History


@dataclasses.dataclass(frozen=True, kw_only=True)
class Appended:
    """What became of an `Append`.

    Attributes:
        user_id: that of the append.
        watermark: how many behaviours of the user are stored now.
        appended: how many of them are new.
    """

    user_id: int
    watermark: int
    appended: int


def check_append(one: Append) -> None:
    """Checks an append by itself, sizes first.

    Raises:
        RequestError: naming the field, its value and the rule.
    """
    history, T = one.history, len(one.history)
    if not 1 <= T <= MAX_BATCH:
        raise RequestError(f"len(ids) == {T}, must be in [1, {MAX_BATCH}].")
    if not 0 <= one.user_id < 2**63:
        raise RequestError(f"user_id == {one.user_id}, must be in [0, 2**63).")
    if not 0 <= one.begin <= MAX_LENGTH:
        raise RequestError(f"begin == {one.begin}, must be in [0, {MAX_LENGTH}].")
    columns: dict[str, tuple[np.ndarray, type[np.generic]]] = {
        "ids": (history.ids_T, np.int32),
        "actions": (history.actions_T, np.uint8),
        "times_ms": (history.times_ms_T, np.int64),
    }
    for field, (column, dtype) in columns.items():
        if column.shape != (T,):
            raise RequestError(f"{field} has shape {column.shape}, must be ({T},).")
        if column.dtype != dtype:
            raise RequestError(f"{field} has dtype {column.dtype}, must be {np.dtype(dtype)}.")
    if history.ids_T.min() < 0:
        raise RequestError(f"min(ids) == {history.ids_T.min()}, must be >= 0.")
    if (history.times_ms_T[1:] < history.times_ms_T[:-1]).any():
        raise RequestError("times_ms decreases, must be oldest first.")
    first, last = history.times_ms_T[0], history.times_ms_T[-1]
    if first < MIN_TIME_MS or last > MAX_TIME_MS:
        place, found = (0, first) if first < MIN_TIME_MS else (T - 1, last)
        raise RequestError(
            f"times_ms[{place}] == {found}, must be in [{MIN_TIME_MS}, {MAX_TIME_MS}]."
        )


CHUNK = 256
"""Behaviours in a chunk; the last one of a history may hold fewer."""

_BYTES = 4 + 1 + 8


def part(history: History, start: int, stop: int | None) -> History:
    """Behaviours [start, stop) of a history, or all from start on; a view."""
    return History(
        ids_T=history.ids_T[start:stop],
        actions_T=history.actions_T[start:stop],
        times_ms_T=history.times_ms_T[start:stop],
    )


def joined(histories: Sequence[History]) -> History:
    """Histories one after the other."""
    if not histories:
        return History.empty()
    return History(
        ids_T=np.concatenate([one.ids_T for one in histories]),
        actions_T=np.concatenate([one.actions_T for one in histories]),
        times_ms_T=np.concatenate([one.times_ms_T for one in histories]),
    )


def packed(history: History) -> tuple[bytes, int]:
    """The bytes of a history, and their CRC-32."""
    data = b"".join(
        (
            history.ids_T.astype("<i4").tobytes(),
            history.actions_T.tobytes(),
            history.times_ms_T.astype("<i8").tobytes(),
        )
    )
    return data, zlib.crc32(data)


def unpacked(data: bytes, checksum: int) -> History | None:
    """The history of some bytes; None if they are not what was packed."""
    if not isinstance(data, bytes) or len(data) % _BYTES or zlib.crc32(data) != checksum:
        return None
    T = len(data) // _BYTES
    return History(
        ids_T=np.frombuffer(data, "<i4", T).astype(np.int32),
        actions_T=np.frombuffer(data, np.uint8, T, offset=4 * T),
        times_ms_T=np.frombuffer(data, "<i8", T, offset=5 * T).astype(np.int64),
    )


STORE_FILE, _LOCK = "histories.sqlite3", "owner.lock"
_SCHEMA_VERSION = 1
_PAGE_BYTES = 4096
_SCHEMA = """
CREATE TABLE users (user_id INTEGER PRIMARY KEY, length INTEGER NOT NULL, last_ms INTEGER NOT NULL);
CREATE TABLE chunks (
    user_id INTEGER NOT NULL, number INTEGER NOT NULL, first_ms INTEGER NOT NULL,
    checksum INTEGER NOT NULL, behaviours BLOB NOT NULL, PRIMARY KEY (user_id, number)
);
"""


class StoreFullError(StoreError):
    """The store, or its disk, has no room; nothing of the call was written."""


class StoreCorruptError(StoreError):
    """A file of the store is not what was written."""


class SequenceStore:
    """The histories of a folder."""

    def __init__(
        self, folder: Path, *, max_bytes: int = 64 * 2**30, patience_s: float = 10.0
    ) -> None:
        """Opens a store, made where there is none.

        Args:
            folder: on a local disk: SQLite's log needs memory shared by its processes.
            max_bytes: of the file. Its log comes on top, a few MB.
            patience_s: how long to wait for a predecessor that still owns it.

        Raises:
            ConfigError: if `max_bytes` is too small to hold anything.
            StoreError: if another process owns it, or the folder cannot be written.
            StoreCorruptError: if its file is no store of this version.
        """
        require(max_bytes >= 2**16, "max_bytes", max_bytes, f">= {2**16}")
        self.path = folder / STORE_FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock_file = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreError(f"sequence store {folder} cannot be written: {error}") from None
        self._writing = threading.Lock()
        self._connections: list[sqlite3.Connection] = []
        self._of_thread = threading.local()
        try:
            self._own(folder, patience_s)
            with self._errors_named():
                self._writer = self._connect()
                self._prepare(max_bytes)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the files and gives the store up; no thread may be using it."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1

    def append(self, appends: Sequence[Append]) -> list[Appended]:
        """Stores behaviours: all of the call or none, on disk when it returns.

        What is stored already is compared and not stored twice, so that a call may be repeated.

        Raises:
            RequestError: if an append breaks a rule of `check_append`, begins in the past of the
                user's last behaviour, or makes a history longer than `MAX_LENGTH`.
            SequenceConflictError: if behaviours are missing before it, or others are stored in
                their place.
            StoreFullError, StoreCorruptError, StoreError: as their names say.
        """
        for one in appends:
            check_append(one)
        with self._errors_named(), self._writing, _transaction(self._writer, "BEGIN IMMEDIATE"):
            return [self._append_one(one) for one in appends]

    def watermark(self, user_id: int, at_ms: int | None = None) -> int:
        """How many behaviours of a user are stored; 0 of one who is unknown.

        Args:
            user_id: of any user.
            at_ms: counts those alone that had happened by then.
        """
        with self._errors_named():
            connection = self._reader()
            with _transaction(connection, "BEGIN"):
                length, last_ms = _user(connection, user_id)
                if at_ms is None or last_ms <= at_ms or not length:
                    return length
                found = connection.execute(
                    "SELECT number FROM chunks WHERE user_id = ? AND first_ms <= ? "
                    "ORDER BY number DESC LIMIT 1",
                    (user_id, at_ms),
                ).fetchone()
                if found is None:
                    return 0
                begin = found[0] * CHUNK
                chunk = self._read(connection, user_id, begin, min(begin + CHUNK, length))
                return begin + int(np.searchsorted(chunk.times_ms_T, at_ms, side="right"))

    def read(self, user_id: int, since: int = 0, limit: int = MAX_HISTORY) -> History:
        """Behaviours [since, since + limit) of a user, as far as they are stored."""
        require(since >= 0, "since", since, ">= 0")
        require(limit >= 0, "limit", limit, ">= 0")
        with self._errors_named():
            connection = self._reader()
            with _transaction(connection, "BEGIN"):
                length, _ = _user(connection, user_id)
                return self._read(connection, user_id, since, min(length, since + limit))

    def extent(self, user_id: int) -> tuple[int, int | None]:
        """A user's watermark, and when the last behaviour happened: None of one without any."""
        with self._errors_named():
            length, last_ms = _user(self._reader(), user_id)
            return length, last_ms if length else None

    def erase(self, user_id: int) -> int:
        """Removes a user, and overwrites the bytes; returns how many behaviours there were.

        Raises:
            StoreError: if another program reads the file all the while; also as `append`.
        """
        with self._errors_named(), self._writing:
            with _transaction(self._writer, "BEGIN IMMEDIATE"):
                length, _ = _user(self._writer, user_id)
                self._writer.execute("DELETE FROM chunks WHERE user_id = ?", (user_id,))
                self._writer.execute("DELETE FROM users WHERE user_id = ?", (user_id,))
            if not self._empty_log():
                raise StoreError(
                    f"{self.path}: user {user_id} is erased, but somebody who reads the file keeps "
                    "its log from being emptied, which still holds the bytes; erase again later."
                )
            return length

    def _append_one(self, one: Append) -> Appended:
        length, last_ms = _user(self._writer, one.user_id)
        stop = one.begin + len(one.history)
        if one.begin > length:
            raise SequenceConflictError(
                f"begin == {one.begin}, must be <= {length}: so many behaviours of user "
                f"{one.user_id} are stored, and those between are missing."
            )
        known = part(one.history, 0, length - one.begin)
        stored = self._read(self._writer, one.user_id, one.begin, min(stop, length))
        if packed(known) != packed(stored):
            raise SequenceConflictError(
                f"begin == {one.begin}: other behaviours of user {one.user_id} are stored in "
                f"[{one.begin}, {min(stop, length)}), must be the same; new ones begin at {length}."
            )
        new = part(one.history, length - one.begin, None)
        if not len(new):
            return Appended(user_id=one.user_id, watermark=length, appended=0)
        if length and new.times_ms_T[0] < last_ms:
            raise RequestError(
                f"times_ms[{length - one.begin}] == {new.times_ms_T[0]}, must be >= {last_ms}, "
                f"the time of the last behaviour of user {one.user_id}."
            )
        if stop > MAX_LENGTH:
            raise RequestError(f"begin + len(ids) == {stop}, must be <= {MAX_LENGTH}.")
        self._write(one.user_id, length, new)
        self._writer.execute(
            "INSERT OR REPLACE INTO users VALUES (?, ?, ?)",
            (one.user_id, stop, int(new.times_ms_T[-1])),
        )
        return Appended(user_id=one.user_id, watermark=stop, appended=len(new))

    def _write(self, user_id: int, length: int, new: History) -> None:
        number, filled = divmod(length, CHUNK)
        if filled:
            new = joined([self._read(self._writer, user_id, length - filled, length), new])
        for start in range(0, len(new), CHUNK):
            chunk = part(new, start, start + CHUNK)
            behaviours, checksum = packed(chunk)
            self._writer.execute(
                "INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?, ?)",
                (user_id, number + start // CHUNK, int(chunk.times_ms_T[0]), checksum, behaviours),
            )

    def _read(self, connection: sqlite3.Connection, user_id: int, begin: int, stop: int) -> History:
        """Behaviours [begin, stop), which are stored."""
        if begin >= stop:
            return History.empty()
        first = begin // CHUNK
        rows = connection.execute(
            "SELECT behaviours, checksum FROM chunks WHERE user_id = ? AND number BETWEEN ? AND ? "
            "ORDER BY number",
            (user_id, first, (stop - 1) // CHUNK),
        )
        chunks = [unpacked(behaviours, checksum) for behaviours, checksum in rows]
        sound = [chunk for chunk in chunks if chunk is not None]
        history = part(joined(sound), begin - first * CHUNK, stop - first * CHUNK)
        if len(sound) != len(chunks) or len(history) != stop - begin:
            raise StoreCorruptError(
                f"{self.path}: behaviours [{begin}, {stop}) of user {user_id} are damaged; restore "
                "the file from a copy, or erase the user."
            )
        return history

    def _own(self, folder: Path, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                if time.monotonic() >= deadline:
                    raise StoreError(
                        f"sequence store {folder} is another process's, must be owned by one: "
                        "one application, one replica."
                    ) from None
                time.sleep(0.05)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        self._connections.append(connection)
        connection.execute("PRAGMA busy_timeout = 10000")
        return connection

    def _reader(self) -> sqlite3.Connection:
        """This thread's own connection: a transaction belongs to a connection."""
        reader: sqlite3.Connection | None = getattr(self._of_thread, "reader", None)
        if reader is None:
            reader = self._of_thread.reader = self._connect()
            reader.execute("PRAGMA query_only = ON")
        return reader

    def _empty_log(self) -> bool:
        """Writes the log into the file and cuts it to nothing; False if a reader is in the way."""
        (busy, _, _) = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def _prepare(self, max_bytes: int) -> None:
        for pragma in (
            f"page_size = {_PAGE_BYTES}",
            "journal_mode = WAL",
            "synchronous = FULL",
            "secure_delete = ON",  # what is erased is overwritten with zeros
            f"max_page_count = {max_bytes // _PAGE_BYTES}",
        ):
            self._writer.execute(f"PRAGMA {pragma}").fetchone()
        (found,) = self._writer.execute("PRAGMA user_version").fetchone()
        if found == 0:
            self._writer.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;"
            )
        elif found != _SCHEMA_VERSION:
            raise StoreCorruptError(
                f"{self.path}: user_version == {found}, must be {_SCHEMA_VERSION}."
            )
        self._empty_log()  # it may hold what a process erased that was killed before it did this

    @contextlib.contextmanager
    def _errors_named(self) -> Iterator[None]:
        """Turns SQLite's errors into those of the library, with the file's name."""
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", type(error).__name__)
            message = f"{self.path}: {name}: {error}"
            if name == "SQLITE_FULL":
                raise StoreFullError(f"{message}; nothing of the call was written.") from None
            if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
                raise StoreCorruptError(f"{message}; restore the file from a copy.") from None
            raise StoreError(message) from None


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # some errors of SQLite's have rolled it back already
            connection.execute("ROLLBACK")
        raise


def _user(connection: sqlite3.Connection, user_id: int) -> tuple[int, int]:
    """A user's length and the time of the last behaviour; zeros of one who is unknown."""
    row = connection.execute("SELECT length, last_ms FROM users WHERE user_id = ?", (user_id,))
    length, last_ms = row.fetchone() or (0, 0)
    return int(length), int(last_ms)


def check_layout(folder: Path, count: int | None) -> None:
    """Refuses a folder whose histories are spread otherwise: they are not moved between shards.

    Args:
        folder: of the histories; there may be none yet.
        count: of shards; None is one store without.

    Raises:
        ConfigError: naming what it was.
    """
    found: set[int | None] = {
        int(match[1])
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := re.fullmatch(r"shard=\d+-of-(\d+)", path.name))
    }
    if (folder / STORE_FILE).exists():
        found.add(None)
    for other in found - {count}:
        raise ConfigError(
            f"shards == {count}, must be {other}: {folder} holds histories that are spread so, and "
            "they are not moved. Keep the number, or name another folder."
        )
