"""The folder of the journal, and what of it is on the disk.

``sync`` takes the place of the real one: it remembers each database as it was then, and the names in the folder. What
SQLite makes durable on its own (a checkpoint, a new file's header) is not seen, so a cut takes more than it would in
truth: never less. After a cut a database is what it was when it was last synced, or has any beginning of what was added
to its log since; a file that was never synced is gone or empty or whole; a removed one may be back.
"""

import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

LOG: Final = "-wal"
BESIDE: Final = (LOG, "-shm", "-journal", "lock")
"""Files that are not databases."""


class Disk:
    """One life's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.databases: dict[str, tuple[bytes, bytes]] = {}
        """As last synced: the database and its log."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in self._present():
            self.databases[name] = _content(self.folder / name)

    def sync(self, database: Path) -> None:
        """What is in it now is durable, and so are the names of all."""
        self.databases = {name: self.databases.get(name, (b"", b"")) for name in self._present()}
        self.databases[database.name] = _content(database)

    def killed(self, into: Path) -> "Disk":
        """The process is gone, the machine is not: everything that was written is there, synced or not."""
        shutil.copytree(self.folder, into)
        after = Disk(into)
        after.databases = dict(self.databases)
        return after

    def cut(self, into: Path, rng: random.Random, survives: float) -> "Disk":
        """The power is gone. ``survives``: how likely a file has more than what was synced."""
        into.mkdir(parents=True)
        present = self._present()
        for name in sorted({*self.databases, *present}):
            more = rng.random() < survives
            synced = self.databases.get(name)
            if synced is None:
                if more:
                    _write(into / name, *rng.choice(((b"", b""), _content(self.folder / name))))
                continue
            if name not in present:
                if not more:
                    _write(into / name, *synced)
                continue
            if more:
                database, log = _content(self.folder / name)
                if database == synced[0] and log.startswith(synced[1]):
                    log = log[: rng.randint(len(synced[1]), len(log))]
                _write(into / name, database, log)
            else:
                _write(into / name, *synced)
        return Disk(into)

    def spoil(self, rng: random.Random) -> tuple[int, int] | None:
        """A batch of the journal becomes unreadable; its first and last ``seq``. Nobody has the folder open."""
        names = [name for name in self._present() if name.startswith("journal-")]
        if not names:
            return None
        name = rng.choice(names)
        with closing(sqlite3.connect(self.folder / name, isolation_level=None)) as database:
            if not database.execute("SELECT 1 FROM sqlite_master").fetchall():
                return None  # what a power cut has left of a file that was never synced
            rows = database.execute("SELECT first, last FROM batches ORDER BY last").fetchall()
            if not rows:
                return None
            first, last = rng.choice(rows)
            database.execute("UPDATE batches SET payloads = zeroblob(length(payloads)) WHERE last = ?", (last,))
        self.databases[name] = _content(self.folder / name)
        return first, last

    def _present(self) -> list[str]:
        return sorted(entry.name for entry in os.scandir(self.folder) if not entry.name.endswith(BESIDE))


def _content(database: Path) -> tuple[bytes, bytes]:
    log = database.with_name(database.name + LOG)
    return _bytes(database), _bytes(log)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _write(path: Path, database: bytes, log: bytes) -> None:
    path.write_bytes(database)
    if log:
        path.with_name(path.name + LOG).write_bytes(log)
