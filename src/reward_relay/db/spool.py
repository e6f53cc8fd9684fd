"""Deliveries on this machine's own disk while PostgreSQL is away: one SQLite file, synced before anything is answered.

Every API process of the machine that has the same database uses the same file. Nothing here knows asyncio: `waiting`
is for the event loop's thread (it never waits for the disk), everything else for one other thread.
"""

import fcntl
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import URL

from reward_relay.errors import SpoolFull, SpoolUnusable

log = structlog.get_logger()
BUSY_S = 2.0
"""How long a write waits for another process's."""
BATCH_BYTES = 8 << 20
ROW_BYTES = 200
"""What a delivery takes beside its own bytes."""
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
TABLE = """
CREATE TABLE IF NOT EXISTS spool (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
  delivery TEXT NOT NULL, body BLOB NOT NULL, digest BLOB NOT NULL, trouble TEXT);
CREATE INDEX IF NOT EXISTS waiting ON spool (seq) WHERE trouble IS NULL;
CREATE TABLE IF NOT EXISTS tried (at REAL NOT NULL);
"""
INSERT = "INSERT INTO spool (id, delivery, body, digest) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO NOTHING"
OLDEST = "SELECT seq, delivery, body, digest FROM spool WHERE trouble IS NULL ORDER BY seq LIMIT ?"
WAITING = "SELECT count(*) FROM (SELECT 1 FROM spool WHERE trouble IS NULL LIMIT ?)"
STATE = """
SELECT (SELECT count(*) FROM spool WHERE trouble IS NULL), (SELECT count(*) FROM spool WHERE trouble IS NOT NULL),
  (SELECT min(seq) FROM spool WHERE trouble IS NULL)
"""
USED = """
SELECT (page_count - freelist_count) * page_size FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size()
"""
Bytes = Callable[[bytes], bytes]


def _as_is(content: bytes) -> bytes:
    return content


@dataclass(frozen=True, slots=True)
class Spooled:
    """A delivery as it waits: authenticated, answered with `id`, not yet in the database."""

    id: str
    source: str
    via: str
    received_at: datetime
    content_type: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class SpoolState:
    """How many deliveries wait, how many cannot be taken by themselves, since when the oldest waits, bytes in use."""

    waiting: int = 0
    stuck: int = 0
    oldest_at: datetime | None = None
    used: int = 0


def spool_path(folder: Path, address: URL) -> Path:
    """The file of one database: relays of different databases on one machine must never take each other's."""
    place = (address.host, address.port, address.database, sorted(address.query.items()))
    digest = hashlib.sha256(repr(place).encode()).hexdigest()[:8]
    return folder.expanduser().absolute() / f"spool-{digest}.sqlite3"


class Spool:
    """One spool file of at most about `limit` bytes. Bodies pass `seal` on their way to the disk, `unseal` back."""

    def __init__(self, path: Path, limit: int, *, seal: Bytes = _as_is, unseal: Bytes = _as_is) -> None:
        self.path = path
        self.limit = limit
        self._seal = seal
        self._unseal = unseal
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._inode = 0
        self._read_inode = 0

    def open(self) -> None:
        """Make the folder and the file, where they are missing; a damaged file is set aside, with a loud word.

        Raises:
            SpoolUnusable: the place cannot be used; the message says why.
        """
        self._mended(self._check_whole)

    def put(self, deliveries: Sequence[Spooled]) -> None:
        """Keep deliveries; they are on the disk when this returns.

        Raises:
            SpoolFull: none of them was kept.
            SpoolUnusable: the disk refused; none of them is known to be kept.
        """
        rows = [self._row(each) for each in deliveries]
        self._mended(lambda: self._insert(rows))
        if not self._is_in_place():  # another process set the file aside meanwhile
            self._insert(rows)

    def oldest(self, most: int) -> list[tuple[int, Spooled]]:
        """The first that wait, with their numbers; those that cannot be read are stuck from now on."""
        found: list[tuple[int, Spooled]] = []
        bad: dict[int, str] = {}
        size = 0
        with self._guarded() as connection, closing(connection.execute(OLDEST, (most,))) as rows:
            for seq, delivery, body, digest in rows:
                try:
                    found.append((seq, self._read(delivery, body, digest)))
                except Exception as error:
                    bad[seq] = f"{type(error).__name__}: {error}"
                size += len(body)
                if size > BATCH_BYTES:
                    break
        for seq, why in bad.items():
            self.stick(seq, why)
        return found

    def drop(self, numbers: Sequence[int]) -> None:
        """Forget deliveries that the database has; the file shrinks, and what was in it is overwritten."""
        with self._guarded() as connection:
            with connection:
                connection.executemany("DELETE FROM spool WHERE seq = ?", [(number,) for number in numbers])
            if connection.execute(WAITING, (1,)).fetchall() == [(0,)]:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def stick(self, number: int, why: str) -> None:
        """Leave one delivery where it is, and let the others pass it; the next start tries it again."""
        log.error("spool_stuck", path=str(self.path), number=number, detail=why)
        with self._guarded() as connection, connection:
            connection.execute("UPDATE spool SET trouble = ? WHERE seq = ?", (why[:500], number))

    def unstick(self) -> None:
        """Try again what was left."""
        with self._guarded() as connection, connection:
            connection.execute("UPDATE spool SET trouble = NULL WHERE trouble IS NOT NULL")

    def check(self) -> None:
        """Write and sync a trifle.

        Raises:
            SpoolUnusable: the disk refuses.
        """
        with self._guarded() as connection, connection:
            connection.execute("DELETE FROM tried")
            connection.execute("INSERT INTO tried VALUES (?)", (time.time(),))

    def waiting(self, most: int) -> int:
        """How many wait, counted up to `most`; 0 where the file cannot be read."""
        try:
            inode = self.path.stat().st_ino
            if self._reader is None or self._read_inode != inode:
                self._close_reader()
                self._reader = sqlite3.connect(self.path, timeout=0.05, check_same_thread=False)
                self._read_inode = inode
            return int(self._reader.execute(WAITING, (most,)).fetchall()[0][0])
        except (OSError, sqlite3.Error):
            self._close_reader()
            return 0

    def state(self) -> SpoolState:
        """What is in it."""
        with self._guarded() as connection:
            ((waiting, stuck, first),) = connection.execute(STATE).fetchall()
            rows = connection.execute("SELECT delivery FROM spool WHERE seq = ?", (first,)).fetchall()
            used = _used(connection)
        oldest_at = None
        with suppress(ValueError, KeyError, IndexError):
            oldest_at = datetime.fromisoformat(json.loads(rows[0][0])["received_at"])
        return SpoolState(waiting, stuck, oldest_at, used)

    def set_aside(self) -> list[str]:
        """The names of damaged files that a person has not taken away yet."""
        try:
            return sorted(path.name for path in self.path.parent.glob(f"{self.path.name}.damaged-*[0-9]"))
        except OSError:
            return []

    def others(self) -> dict[str, int]:
        """Files of other databases in the same folder, and damaged ones: how many deliveries can be read in each."""
        found = {}
        for path in sorted(self.path.parent.glob("spool-*.sqlite3*")):
            if path != self.path and not path.name.endswith(("-wal", "-shm")):
                found[path.name] = 0
                with suppress(sqlite3.Error), closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as other:
                    found[path.name] = int(other.execute("SELECT count(*) FROM spool").fetchall()[0][0])
        return found

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether this process is the one that empties the file during the block.

        Raises:
            OSError: the folder cannot be used.
        """
        with self._lock("drain", wait=False) as mine:
            yield mine

    def close(self) -> None:
        """Close the file."""
        self._close_reader()
        self._close_writer()

    def _row(self, delivery: Spooled) -> tuple[str, str, bytes, bytes]:
        said = {name: value for name, value in asdict(delivery).items() if name != "body"}
        said |= {"received_at": delivery.received_at.isoformat(), "headers": dict(delivery.headers)}
        text, body = json.dumps(said), self._seal(delivery.body)
        return delivery.id, text, body, _digest(text, body)

    def _read(self, text: str, body: bytes, digest: bytes) -> Spooled:
        if _digest(text, body) != digest:
            raise ValueError("its bytes are not what was written; the disk may be failing")
        said: dict[str, Any] = json.loads(text)
        said["received_at"] = datetime.fromisoformat(said["received_at"])
        return Spooled(**said, body=self._unseal(body))

    def _mended(self, work: Callable[[], None]) -> None:
        """Do it; once more where a damaged file has been set aside."""
        try:
            work()
        except SpoolUnusable as error:
            if not isinstance(error.__cause__, sqlite3.Error) or _code(error.__cause__) not in DAMAGED:
                raise
            work()

    def _check_whole(self) -> None:
        with self._guarded() as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchall()
            if found != [("ok",)]:
                with self._lock("open"):
                    self._set_aside(str(found[0][0]))

    def _insert(self, rows: Sequence[tuple[str, str, bytes, bytes]]) -> None:
        with self._guarded() as connection:
            used = _used(connection)
            if used + sum(len(text) + len(body) + ROW_BYTES for _, text, body, _ in rows) > self.limit:
                raise SpoolFull(f"{self.path} has {used >> 20} of {self.limit >> 20} MiB (spool_mb)")
            # SQLite's own waiting sleeps: with four processes 4 s at worst, where this takes 0.2 s.
            with self._lock("write"), connection:
                connection.executemany(INSERT, rows)

    @contextmanager
    def _guarded(self) -> Iterator[sqlite3.Connection]:
        """The connection for writing; what goes wrong with it is told as `SpoolUnusable`."""
        try:
            yield self._connected()
        except sqlite3.DatabaseError as error:
            self._close_writer()
            if _code(error) in DAMAGED:
                with suppress(OSError, sqlite3.Error), self._lock("open"):
                    self._set_aside(str(error))
            raise SpoolUnusable(f"{self.path}: {error}") from error
        except OSError as error:
            self._close_writer()
            raise SpoolUnusable(f"{self.path}: {error.strerror or error}") from error

    def _connected(self) -> sqlite3.Connection:
        """The connection for writing, made again where somebody took the file away."""
        if self._writer is not None and self._is_in_place():
            return self._writer
        self._close_writer()
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._lock("open"):
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        number = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._inode = os.fstat(number).st_ino
        os.close(number)
        self._writer = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level="IMMEDIATE", check_same_thread=False)
        for pragma in ("auto_vacuum=FULL", "journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
            self._writer.execute(f"PRAGMA {pragma}").fetchall()
        self._writer.executescript(TABLE)
        _sync_folder(self.path.parent)
        return self._writer

    def _is_in_place(self) -> bool:
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    def _set_aside(self, why: str) -> None:
        """Put a damaged file out of the way, and take from it what is whole; the caller holds the lock `open`."""
        self._close_writer()
        if not self._is_in_place():
            return  # another process has done it
        aside = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns()}")
        self.path.rename(aside)
        with suppress(FileNotFoundError):
            self.path.with_name(f"{self.path.name}-wal").rename(aside.with_name(f"{aside.name}-wal"))
        self.path.with_name(f"{self.path.name}-shm").unlink(missing_ok=True)
        advice = "its deliveries were answered 202; what could not be saved is in that file alone, so keep it"
        log.error("spool_damaged", path=str(aside), detail=why, saved=self._salvage(aside), advice=advice)

    def _salvage(self, aside: Path) -> int:
        """Copy what can be read and is whole from a damaged file; what the database has already does no harm."""
        rows: list[tuple[str, str, bytes, bytes]] = []
        with suppress(sqlite3.Error), closing(sqlite3.connect(aside)) as damaged:
            for delivery, body, digest in damaged.execute("SELECT delivery, body, digest FROM spool ORDER BY seq"):
                with suppress(TypeError, ValueError, KeyError):
                    if _digest(delivery, body) == digest:
                        rows.append((json.loads(delivery)["id"], delivery, body, digest))
        with self._connect() as connection:
            connection.executemany(INSERT, rows)
        return len(rows)

    @contextmanager
    def _lock(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """A lock between processes, which the kernel releases whatever kills its holder; False where it is taken."""
        lock = os.open(self.path.with_suffix(f".{name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
        finally:
            os.close(lock)

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _digest(text: str, body: bytes) -> bytes:
    return hashlib.blake2b(text.encode() + b"\0" + body, digest_size=16).digest()


def _code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _used(connection: sqlite3.Connection) -> int:
    return int(connection.execute(USED).fetchall()[0][0])


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
