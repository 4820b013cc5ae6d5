"""Users' histories on disk: append-only, durable, read by user; no Ray, no HTTP, no ranker.

SQLite of the standard library holds them, for its journal has met more power cuts than anything
that could be written here: a write-ahead log with a sync at every commit, so what was answered is
there after SIGKILL or a power cut; readers that never wait for the writer; one file that `sqlite3`
opens. An LSM store would append faster and cost a dependency; a file of its own for each user
would cost an inode and a sync each.

A history is cut into chunks of `CHUNK` behaviours, a row each, with a checksum, which SQLite has
none of: an append rewrites one row of 3 KB however long the history is, a read is one range scan.

One process owns a store (a lock on a file beside it, which the kernel drops when the process dies).
Any of its threads may call anything; writes take turns. Letters: T behaviours.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import re
import secrets
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from ifa_ray.config import require
from ifa_ray.errors import ConfigError, RequestError, StoreError
from ifa_ray.plugins import load_store_class
from ifa_ray.schema import MAX_HISTORY, MAX_TIME_MS, MIN_TIME_MS, History
from ifa_ray.serving.settings import AppSettings

MAX_BATCH = 10_000
"""Behaviours of one user in one append."""
MAX_LENGTH = 10_000_000
"""Behaviours of one user."""


class SequenceConflictError(RequestError):
    """An append does not follow what is stored; the message says from where on it must."""


class ErasedMeanwhileError(StoreError):
    """The user was erased between a watermark and the read that followed; both must be repeated."""


class StoreFullError(StoreError):
    """The store, or its disk, has no room; nothing of the call was written."""


class StoreCorruptError(StoreError):
    """A file of the store is not what was written."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Append:
    """Behaviours [begin, begin + T) of a user; `begin` makes a repeated append harmless."""

    user_id: int
    begin: int
    history: History


@dataclasses.dataclass(frozen=True, kw_only=True)
class Appended:
    """The outcome of an `Append`: behaviours of the user that are stored now, and new ones."""

    user_id: int
    watermark: int
    appended: int


class Watermark(NamedTuple):
    """The end of a user's history.

    Attributes:
        length: behaviours.
        last_ms: when the last of them happened; None of a user without any.
        generation: another number after an erasure, 0 of a user who is unknown. Behaviour i of a
            generation is the same whenever it is read: cached attention states rest on that.
    """

    length: int
    last_ms: int | None
    generation: int


class HistoryStore(Protocol):
    """Users' histories, each a list that only grows until it is erased.

    Several threads of a replica call at once. Errors: `RequestError` where the caller is wrong,
    `StoreError` where the store is.
    """

    def append(self, appends: Sequence[Append]) -> list[Appended]:
        """Stores all of a call or none; what is stored already is compared, not stored twice.

        Raises:
            RequestError: if an append breaks a rule (`check_append`), or none can be appended here.
            SequenceConflictError: if it does not follow what is stored.
        """

    def watermark(self, user_id: int, at_ms: int | None = None) -> Watermark:
        """The end of a user's history, or of what had happened by `at_ms`."""

    def read(
        self, user_id: int, begin: int = 0, stop: int = MAX_HISTORY, generation: int | None = None
    ) -> History:
        """Behaviours [begin, stop), as far as they are stored, oldest first.

        Raises:
            ErasedMeanwhileError: if the user's generation is another than the one given.
        """

    def erase(self, user_id: int) -> int:
        """Removes a user; returns how many behaviours there were."""

    def close(self) -> None:
        """Gives up what it holds; nothing is called after it."""


def open_store(settings: AppSettings) -> HistoryStore | None:
    """The store that the settings name, ours or a custom class; None where they name none."""
    if settings.sequence_store is None:
        return None
    if settings.store_class is None:
        folder = Path(settings.sequence_store)
        check_layout(folder, None)
        return SequenceStore(folder, max_bytes=settings.store_bytes)
    store: HistoryStore = load_store_class(settings.store_class)(
        location=settings.sequence_store,
        max_bytes=settings.store_bytes,
        **(settings.store_options or {}),
    )
    return store


def check_append(one: Append) -> None:
    """Checks an append by itself, sizes first; raises `RequestError`."""
    history, T = one.history, len(one.history)
    for field, value, low, high in (
        ("len(ids)", T, 1, MAX_BATCH),
        ("user_id", one.user_id, 0, 2**63 - 1),
        ("begin", one.begin, 0, MAX_LENGTH),
    ):
        if not low <= value <= high:
            raise RequestError(f"{field} == {value}, must be in [{low}, {high}].")
    columns: tuple[tuple[str, np.ndarray, str], ...] = (
        ("ids", history.ids_T, "int32"),
        ("actions", history.actions_T, "uint8"),
        ("times_ms", history.times_ms_T, "int64"),
    )
    for field, column, dtype in columns:
        if column.shape != (T,) or column.dtype != dtype:
            found = f"{column.dtype} {column.shape}"
            raise RequestError(f"{field} has type and shape {found}, must be {dtype} ({T},).")
    times_ms_T = history.times_ms_T
    if history.ids_T.min() < 0:
        raise RequestError(f"min(ids) == {history.ids_T.min()}, must be >= 0.")
    if (times_ms_T[1:] < times_ms_T[:-1]).any():
        raise RequestError("times_ms decreases, must be oldest first.")
    for place in (0, T - 1):
        if not MIN_TIME_MS <= times_ms_T[place] <= MAX_TIME_MS:
            rule = f"in [{MIN_TIME_MS}, {MAX_TIME_MS}]"
            raise RequestError(f"times_ms[{place}] == {times_ms_T[place]}, must be {rule}.")


CHUNK = 256
"""Behaviours in a chunk; the last one of a history may hold fewer."""

_BYTES = 4 + 1 + 8


def part(history: History, start: int, stop: int | None) -> History:
    """Behaviours [start, stop) of a history; a view."""
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


def _packed(history: History) -> tuple[bytes, int]:
    """The bytes of a history, and their CRC-32."""
    ids, times_ms = history.ids_T.astype("<i4"), history.times_ms_T.astype("<i8")
    data = ids.tobytes() + history.actions_T.tobytes() + times_ms.tobytes()
    return data, zlib.crc32(data)


def _unpacked(data: bytes, checksum: int) -> History | None:
    """The history of some bytes; None if they are not those that were packed."""
    if not isinstance(data, bytes) or len(data) % _BYTES or zlib.crc32(data) != checksum:
        return None
    T = len(data) // _BYTES
    return History(
        ids_T=np.frombuffer(data, "<i4", T).astype(np.int32),
        actions_T=np.frombuffer(data, np.uint8, T, offset=4 * T),
        times_ms_T=np.frombuffer(data, "<i8", T, offset=5 * T).astype(np.int64),
    )


STORE_FILE, _LOCK = "histories.sqlite3", "owner.lock"
_SCHEMA_VERSION = 2
_PAGE_BYTES = 4096
_SCHEMA = """
CREATE TABLE users (
    user_id INTEGER PRIMARY KEY, length INTEGER NOT NULL, last_ms INTEGER NOT NULL,
    generation INTEGER NOT NULL DEFAULT 1
);
CREATE TABLE chunks (
    user_id INTEGER NOT NULL, number INTEGER NOT NULL, first_ms INTEGER NOT NULL,
    checksum INTEGER NOT NULL, behaviours BLOB NOT NULL, PRIMARY KEY (user_id, number)
);
"""
_FROM_VERSION = {
    0: _SCHEMA,  # an empty file
    1: "ALTER TABLE users ADD COLUMN generation INTEGER NOT NULL DEFAULT 1;",
    _SCHEMA_VERSION: "",
}


class SequenceStore:
    """The histories of a folder: the `HistoryStore` that one process owns."""

    def __init__(
        self, folder: Path, *, max_bytes: int = 64 * 2**30, patience_s: float = 10.0
    ) -> None:
        """Opens a store, made where there is none.

        Args:
            folder: on a local disk: SQLite's log needs memory shared by its processes.
            max_bytes: of the file. Its log comes on top, a few MB.
            patience_s: how long to wait for a predecessor that still owns it.
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
        """As `HistoryStore.append`; on disk when it returns."""
        for one in appends:
            check_append(one)
        with self._errors_named(), self._writing, _transaction(self._writer, "BEGIN IMMEDIATE"):
            return [self._append_one(one) for one in appends]

    def watermark(self, user_id: int, at_ms: int | None = None) -> Watermark:
        """As `HistoryStore.watermark`."""
        with self._errors_named(), _transaction(connection := self._reader(), "BEGIN"):
            end = _end(connection, user_id)
            if at_ms is None or end.last_ms is None or end.last_ms <= at_ms:
                return end
            found = connection.execute(
                "SELECT number FROM chunks WHERE user_id = ? AND first_ms <= ? "
                "ORDER BY number DESC LIMIT 1",
                (user_id, at_ms),
            ).fetchone()
            if found is None:
                return Watermark(0, None, end.generation)
            begin = found[0] * CHUNK
            chunk = self._read(connection, user_id, begin, min(begin + CHUNK, end.length))
            count = int(np.searchsorted(chunk.times_ms_T, at_ms, side="right"))
            return Watermark(begin + count, int(chunk.times_ms_T[count - 1]), end.generation)

    def read(
        self, user_id: int, begin: int = 0, stop: int = MAX_HISTORY, generation: int | None = None
    ) -> History:
        """As `HistoryStore.read`."""
        require(begin >= 0, "begin", begin, ">= 0")
        with self._errors_named(), _transaction(connection := self._reader(), "BEGIN"):
            end = _end(connection, user_id)
            if generation not in (None, end.generation):
                raise ErasedMeanwhileError(f"user {user_id} was erased during the request.")
            return self._read(connection, user_id, begin, min(end.length, stop))

    def erase(self, user_id: int) -> int:
        """As `HistoryStore.erase`; overwrites the bytes, unless another program reads the file."""
        with self._errors_named(), self._writing:
            with _transaction(self._writer, "BEGIN IMMEDIATE"):
                length = _end(self._writer, user_id).length
                for table in ("chunks", "users"):
                    self._writer.execute(f"DELETE FROM {table} WHERE user_id = ?", (user_id,))
            if not self._empty_log():
                raise StoreError(
                    f"{self.path}: user {user_id} is erased, but somebody who reads the file keeps "
                    "its log from being emptied, which still holds the bytes; erase again later."
                )
            return length

    def _append_one(self, one: Append) -> Appended:
        end, begin = _end(self._writer, one.user_id), one.begin
        length, stop = end.length, begin + len(one.history)
        if begin > length:
            raise SequenceConflictError(
                f"begin == {begin}, must be <= {length}: so many behaviours of user "
                f"{one.user_id} are stored, and those between are missing."
            )
        stored = self._read(self._writer, one.user_id, begin, min(stop, length))
        if _packed(part(one.history, 0, length - begin)) != _packed(stored):
            raise SequenceConflictError(
                f"begin == {begin}: other behaviours of user {one.user_id} are stored in "
                f"[{begin}, {min(stop, length)}), must be the same; new ones begin at {length}."
            )
        new = part(one.history, length - begin, None)
        if not len(new):
            return Appended(user_id=one.user_id, watermark=length, appended=0)
        if end.last_ms is not None and new.times_ms_T[0] < end.last_ms:
            raise RequestError(
                f"times_ms[{length - begin}] == {new.times_ms_T[0]}, must be >= {end.last_ms}, "
                f"the time of the last behaviour of user {one.user_id}."
            )
        if stop > MAX_LENGTH:
            raise RequestError(f"begin + len(ids) == {stop}, must be <= {MAX_LENGTH}.")
        self._write(one.user_id, length, new)
        generation = end.generation or secrets.randbits(62) + 2  # neither 0 nor 1, the older ones
        self._writer.execute(
            "INSERT OR REPLACE INTO users VALUES (?, ?, ?, ?)",
            (one.user_id, stop, int(new.times_ms_T[-1]), generation),
        )
        return Appended(user_id=one.user_id, watermark=stop, appended=len(new))

    def _write(self, user_id: int, length: int, new: History) -> None:
        number, filled = divmod(length, CHUNK)
        if filled:
            new = joined([self._read(self._writer, user_id, length - filled, length), new])
        for start in range(0, len(new), CHUNK):
            chunk = part(new, start, start + CHUNK)
            behaviours, checksum = _packed(chunk)
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
        chunks = [_unpacked(behaviours, checksum) for behaviours, checksum in rows]
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
        if found not in _FROM_VERSION:
            raise StoreCorruptError(
                f"{self.path}: user_version == {found}, must be <= {_SCHEMA_VERSION}."
            )
        if found != _SCHEMA_VERSION:
            self._writer.executescript(
                f"BEGIN IMMEDIATE; {_FROM_VERSION[found]} "
                f"PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;"
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


def _end(connection: sqlite3.Connection, user_id: int) -> Watermark:
    row = connection.execute(
        "SELECT length, last_ms, generation FROM users WHERE user_id = ?", (user_id,)
    ).fetchone()
    return Watermark(0, None, 0) if row is None else Watermark(*row)


def check_layout(folder: Path, count: int | None) -> None:
    """Refuses a folder of histories in another number of shards (None: one store without)."""
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
