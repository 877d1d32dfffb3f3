"""One SQLite file: opened, migrated forward, written in WAL mode, made durable on demand, translated errors.

What is durable when. A commit goes into the write-ahead log (``-wal``) without fsync: ``kill -9`` takes none, a power
cut may take the latest. ``sync`` makes all of them durable. ``synchronous=NORMAL`` keeps checkpoints safe: SQLite syncs
the log before it copies from it, the database before the log starts over, and the log's new header; so a power cut
always leaves a database and the longest whole beginning of what was committed since.

Nothing but SQLite may open a database file or its ``-shm``: closing any descriptor of it would drop SQLite's locks.
"""

import errno
import os
import sqlite3
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import attrs

from polygon_live.errors import JournalError

Sync = Callable[[Path], None]
"""Makes what was committed to the database at this path durable. Raises OSError."""

BUSY_SECONDS: Final = 1.0
"""Another process's write takes a few ms; and a stalled disk is given 2 s before ticks go on without the journal."""

LOG_PAGES: Final = 4000
"""16 MiB of log before it is brought into the database, which costs three fsyncs: few enough, and soon done."""

_ADVICE: Final = {
    sqlite3.SQLITE_FULL: "make room on that disk",
    sqlite3.SQLITE_CANTOPEN: "look at its owner, its permissions and whether the disk is full",
    sqlite3.SQLITE_PERM: "look at its owner and its permissions",
    sqlite3.SQLITE_READONLY: "look at its owner, its permissions and whether the file system is mounted read-only",
    sqlite3.SQLITE_IOERR: "the disk failed, or a limit on file sizes was met; look at the kernel's log",
    sqlite3.SQLITE_BUSY: "another process is writing, be it the collector or a command: try again",
}
_SET_ASIDE: Final = "the collector sets it aside when it starts"
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Damaged(JournalError):
    """The file's content is not what SQLite wrote."""


@attrs.frozen
class Format:
    """A kind of file. ``steps[n]`` leads from version n to n + 1; a new file, version 0, takes all of them."""

    name: str
    application_id: int
    steps: tuple[tuple[str, ...], ...]

    @property
    def version(self) -> int:
        """The present one."""
        return len(self.steps)


def log_of(database: Path) -> Path:
    """A database's write-ahead log. Missing: all that was committed is in the database, synced."""
    return database.with_name(database.name + "-wal")


def make_durable(database: Path) -> None:
    """The real ``Sync``: the log's content, then the names of new files in the folder."""
    for path, sync in ((log_of(database), os.fdatasync), (database.parent, os.fsync)):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)


def remove(database: Path) -> None:
    """The file and what belongs to it. Raises JournalError."""
    with translated(database, "removed"):
        for suffix in ("-wal", "-shm", "-journal", ""):
            database.with_name(database.name + suffix).unlink(missing_ok=True)


def set_aside(database: Path) -> Path:
    """Give a damaged file a name under which it disturbs nobody, and return it. Raises JournalError."""
    number = 0
    while (aside := database.with_name(f"{database.name}.damaged{number or ''}")).exists():
        number += 1
    with translated(database, "renamed"):
        for suffix in ("-wal", "-journal", ""):
            part = database.with_name(database.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        database.with_name(database.name + "-shm").unlink(missing_ok=True)
    return aside


@contextmanager
def translated(path: Path, done: str) -> Iterator[None]:
    """Foreign errors become JournalError with the file, the reason and what to do."""
    try:
        yield
    except sqlite3.Error as error:
        # Some errors are Python's own and have no code.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in _DAMAGED:
            raise Damaged(f"{path} is damaged: {error}; {_SET_ASIDE}") from error
        advice = _ADVICE.get(code)
        raise JournalError(f"{path} can't be {done}: {error}" + (f"; {advice}" if advice else "")) from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "make room on that disk" if full else "look at its owner, its permissions and its disk"
        raise JournalError(f"{path} can't be {done}: {error.strerror or error}; {advice}") from error


class Database:
    """One file, one connection. Used by one thread at a time."""

    def __init__(self, path: Path, connection: sqlite3.Connection, sync: Sync) -> None:
        self.path = path
        self.logged = False
        """It is in WAL mode: a commit is in the log."""
        self._connection = connection
        self._sync = sync
        self._log = log_of(path)

    @classmethod
    def open(cls, path: Path, form: Format, *, sync: Sync, make: bool = True, alone: bool = False) -> Self:
        """``make``: a missing file is made and an older one migrated. ``alone``: no other connection is let in, which
        saves the locking of each commit and the ``-shm``.

        Raises JournalError; Damaged.
        """
        with translated(path, "opened"):
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={'rwc' if make else 'rw'}",
                uri=True,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
        self = cls(path, connection, sync)
        try:
            self._prepare(form, make=make, alone=alone)
        except BaseException:
            connection.close()
            raise
        return self

    def _prepare(self, form: Format, *, make: bool, alone: bool) -> None:
        if alone:
            self.execute("PRAGMA locking_mode = EXCLUSIVE")
            self.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        self.execute("PRAGMA synchronous = NORMAL")
        self._migrate(form, make=make)
        ((mode,),) = self.execute("PRAGMA journal_mode")
        self.logged = mode == "wal"

    def _migrate(self, form: Format, *, make: bool) -> None:
        if self._check(form) == form.version:
            return
        if not make:
            raise JournalError(f"{self.path} has an older format; start this version's collector once: it migrates it")
        if not self.execute("SELECT 1 FROM sqlite_master"):
            ((mode,),) = self.execute("PRAGMA journal_mode = WAL")
            if mode != "wal":
                raise JournalError(f"{self.path} can't be opened in WAL mode; use a local file system")
        with self.transaction():
            for step in form.steps[self._check(form) :]:  # again: another process may have been faster
                for statement in step:
                    self.execute(statement)
            self.execute(f"PRAGMA application_id = {form.application_id}")
            self.execute(f"PRAGMA user_version = {form.version}")

    def _check(self, form: Format) -> int:
        """Its version, if it is one that can be used."""
        ((application,),) = self.execute("PRAGMA application_id")
        ((version,),) = self.execute("PRAGMA user_version")
        if application != form.application_id and (
            application or version or self.execute("SELECT 1 FROM sqlite_master")
        ):
            raise JournalError(f"{self.path} is no {form.name} of polygon-live; move it away or use another folder")
        if version > form.version:
            raise JournalError(
                f"{self.path} is a {form.name} of format {version}, and this version of polygon-live knows formats "
                f"up to {form.version}; use the newer version, or another folder"
            )
        return int(version)

    def check(self) -> None:
        """Look at every page. Raises Damaged."""
        ((found,),) = self.execute("PRAGMA quick_check(1)")
        if found != "ok":
            raise Damaged(f"{self.path} is damaged: {found}; {_SET_ASIDE}")

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows of one statement, which is a transaction of its own outside of ``transaction``."""
        with translated(self.path, "written" if sql.startswith(("INSERT", "UPDATE", "DELETE")) else "read"):
            return self._connection.execute(sql, parameters).fetchall()

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> Generator[Any, None, None]:
        """Row by row. Close it if you don't exhaust it: an open statement keeps the log from starting over."""
        with translated(self.path, "read"):
            cursor = self._connection.execute(sql, parameters)
            try:
                yield from cursor
            finally:
                cursor.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing; nobody else writes meanwhile."""
        with translated(self.path, "written"):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def sync(self) -> None:
        """What was committed so far is durable when it returns."""
        self.size()  # nothing would tell otherwise that the files were removed
        with translated(self.path, "made durable"):
            self._sync(self.path)

    def seal(self) -> None:
        """Make it one plain file without a log, synced."""
        self.execute("PRAGMA journal_mode = DELETE")
        self.logged = False

    def size(self) -> int:
        """Bytes on the disk, the log's too. Raises JournalError if a file is gone: SQLite would write on to what nobody
        will find.
        """
        with translated(self.path, "found"):
            size = self.path.stat().st_size
            return size + self._log.stat().st_size if self.logged else size

    def close(self) -> None:
        """SQLite brings the log into the database if nobody else has it open."""
        self._connection.close()
