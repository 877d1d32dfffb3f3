"""Ticks on disk, to be had back in an order: many more than fit into memory, of which the first may have come last.

A file of SQLite that loses its name as soon as it is open: whatever ends the process, nothing of it stays. Synchronous;
used by one thread at a time.
"""

import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from polygon_live.errors import PolygonLiveError

RESERVE_BYTES: Final = 2**30
"""Left free on the disk, where others live too."""
_CACHE: Final = -16 * 1024
"""Of SQLite, in KiB (negative, by its own rule)."""


class NoRoom(PolygonLiveError):
    """The disk has no room for what is to be put in order."""


class Spooled(NamedTuple):
    """One tick. ``at`` (Unix milliseconds) says where it comes, and ``seq`` where two come at once."""

    at: int
    seq: int
    collector: str
    symbol: str
    payload: bytes


class Spool:
    """First everything goes in, then everything comes out."""

    def __init__(self, *, reserve_bytes: int = RESERVE_BYTES) -> None:
        """Raises NoRoom."""
        self._reserve = reserve_bytes
        self._folder = tempfile.gettempdir()
        self._count = 0
        with tempfile.TemporaryDirectory(prefix="polygon-live-", dir=self._folder) as scratch:
            self._database = sqlite3.connect(Path(scratch, "spool"), isolation_level=None, check_same_thread=False)
            for pragma in (
                "journal_mode = off",
                "synchronous = off",
                "locking_mode = exclusive",
                f"cache_size = {_CACHE}",
            ):
                self._database.execute(f"pragma {pragma}")
            self._do("create table ticks (at integer, seq integer, collector text, symbol text, payload blob)")

    def __len__(self) -> int:
        """How many are in it."""
        return self._count

    def add(self, ticks: Iterable[Spooled]) -> None:
        """Raises NoRoom."""
        if shutil.disk_usage(self._folder).free < self._reserve:
            raise self._no_room()
        try:
            self._database.execute("begin")
            self._count += self._database.executemany("insert into ticks values (?, ?, ?, ?, ?)", ticks).rowcount
            self._database.execute("commit")
        except sqlite3.OperationalError as why:
            raise self._no_room() from why

    def in_order(self, most: int) -> Iterator[list[Spooled]]:
        """All of them, so many at once. Raises NoRoom."""
        self._do("create index ordered on ticks (at, seq)")
        rows = self._database.execute("select * from ticks order by at, seq")
        while some := rows.fetchmany(most):
            yield [Spooled(*row) for row in some]

    def close(self) -> None:
        """Everything in it is gone."""
        self._database.close()

    def _do(self, statement: str) -> None:
        try:
            self._database.execute(statement)
        except sqlite3.OperationalError as why:
            raise self._no_room() from why

    def _no_room(self) -> NoRoom:
        free = shutil.disk_usage(self._folder).free
        return NoRoom(
            f"{self._folder} has no room for the ticks that are to be put in order ({self._count} were read, "
            f"{free // 2**20} MiB are free, {self._reserve // 2**20} MiB are left to others): make room, name another "
            "folder in TMPDIR, or ask for less"
        )
