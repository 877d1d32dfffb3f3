"""What the journal costs, beside the least that is possible (the same bytes appended to a file) and beside what was not
chosen (a row for each tick, in one file). Ratios hold, absolute figures do not.
"""

import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Protocol

import msgspec

from polygon_live.commands.progress import Progress
from polygon_live.journal import Journal, make_durable
from polygon_live.model import Batch
from tests.journaling import batch, grow

SIZES = (1, 20, 500)
ROUNDS = 3
"""The best of them counts: other work on the machine only ever adds."""
TICKS_READ = 50_000
MOST_BYTES = 200 << 20
"""Of one measurement: what is measured is appending, not the disk's cache running full."""


class Log(Protocol):
    """Something that batches can be appended to."""

    def append(self, batch: Batch) -> None: ...
    def sync(self) -> None: ...
    def close(self) -> None: ...


class RawFile:
    """No checksum, no index, nothing to find a batch by."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / "raw", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def append(self, batch: Batch) -> None:
        os.write(self._file, b"\n".join(batch.payloads))

    def sync(self) -> None:
        os.fdatasync(self._file)

    def close(self) -> None:
        os.close(self._file)


class RowPerTick:
    """One SQLite file for everything, a transaction for each batch."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "rows.db"
        self._connection = sqlite3.connect(self._path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute("CREATE TABLE ticks (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL)")

    def append(self, batch: Batch) -> None:
        rows = [(batch.first + n, payload) for n, payload in enumerate(batch.payloads)]
        self._connection.execute("BEGIN")
        self._connection.executemany("INSERT INTO ticks VALUES (?, ?)", rows)
        self._connection.execute("COMMIT")

    def sync(self) -> None:
        make_durable(self._path)

    def close(self) -> None:
        self._connection.close()


def the_journal(folder: Path) -> Journal:
    return Journal.open(folder, most_bytes=4 << 30, keep_ms=86_400_000, now_ms=lambda: time.time_ns() // 1_000_000)


LOGS: dict[str, Callable[[Path], Log]] = {"journal": the_journal, "raw file": RawFile, "row per tick": RowPerTick}


def batches(size: int) -> Iterator[Batch]:
    """Endless; for speed only the first and the last tick of each have numbers of their own, and no payload has."""
    made = batch(0, 1, size)
    ticks, last = list(made.ticks), 0
    while True:
        ticks[0] = msgspec.structs.replace(ticks[0], seq=last + 1)
        ticks[-1] = msgspec.structs.replace(ticks[-1], seq=last + size)
        yield Batch(last, list(ticks), made.payloads)
        last += size


def appended(log: Log, size: int, seconds: float, *, synced: bool) -> float:
    """Ticks a second, for so many seconds of appending; synced each second and at the end."""
    spent, since, ticks, written = 0.0, 0.0, 0, 0
    for each in batches(size):
        began = time.perf_counter()
        log.append(each)
        took = time.perf_counter() - began
        if synced and (since := since + took) >= 1:
            log.sync()
            took, since = time.perf_counter() - began, 0.0
        spent += took
        ticks += size
        written += size * len(each.payloads[0])
        if spent >= seconds or written >= MOST_BYTES:
            break
    if synced:
        began = time.perf_counter()
        log.sync()
        spent += time.perf_counter() - began
    return ticks / spent


def read(size: int, seconds: float, place: str | None) -> tuple[float, float]:
    """Ticks a second read from the journal in portions of 500, and decoded from lines in memory."""
    with tempfile.TemporaryDirectory(dir=place) as folder, closing(the_journal(Path(folder))) as journal:
        grow(journal, max(1, round(TICKS_READ * seconds / size)), size)
        began, ticks, position = time.perf_counter(), 0, 0
        while portion := journal.read(position, 500):
            position = portion.last
            ticks += len(portion.batch or ())
        rate = ticks / (time.perf_counter() - began)
        lines = b"\n".join(batch(0, 1, 500).payloads)
        began = time.perf_counter()
        for _ in range(max(1, ticks // 500)):
            Batch.of_payloads(0, lines.split(b"\n"))
        return rate, max(1, ticks // 500) * 500 / (time.perf_counter() - began)


def main(seconds: float = 2.0, place: str | None = None) -> None:
    """Print the table. ``place``: a folder on the disk to measure."""
    with Progress() as progress:
        _measure(seconds, place, progress)


def _measure(seconds: float, place: str | None, progress: Progress) -> None:
    def say(text: str) -> None:
        with progress.hidden():
            sys.stdout.write(text)
            sys.stdout.flush()

    done, total = count(1), 2 * len(SIZES) * len(LOGS) * ROUNDS + len(SIZES) * ROUNDS
    progress.show("measurements", 0, total)
    say("ticks/s appended (beside the raw file of the same row)\n")
    say(f"{'batch':>5} {'fsync':>10} " + " ".join(f"{name:>20}" for name in LOGS) + "\n")
    for size in SIZES:
        for synced in (False, True):
            rates = dict.fromkeys(LOGS, 0.0)
            for name, make in list(LOGS.items()) * ROUNDS:
                with tempfile.TemporaryDirectory(dir=place) as folder, closing(make(Path(folder))) as log:
                    rates[name] = max(rates[name], appended(log, size, seconds, synced=synced))
                progress.show("measurements", next(done), total)
            cells = (f"{rate:>13,.0f} ({rate / rates['raw file']:.2f})" for rate in rates.values())
            say(
                f"{size:>5} {'each second' if synced else 'none':>11}"
                + " ".join(f"{cell:>20}" for cell in cells)
                + "\n"
            )
    say("\nticks/s read, in portions of 500 (beside decoding alone)\n")
    for size in SIZES:
        found = []
        for _ in range(ROUNDS):
            found.append(read(size, seconds, place))
            progress.show("measurements", next(done), total)
        rate, decoding = max(found)
        say(f"{size:>5} {rate:>20,.0f} ({rate / decoding:.2f})\n")


if __name__ == "__main__":
    main(float(sys.argv[1]) if sys.argv[1:] else 2.0, sys.argv[2] if sys.argv[2:] else None)
