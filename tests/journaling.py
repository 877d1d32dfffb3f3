"""Journals for tests: batches, a way to read everything, and what a power cut leaves. Run as a program, it appends
until it is killed, and says what was committed.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from polygon_live.journal import Hole, Journal
from polygon_live.journal.database import log_of
from polygon_live.model import EVENT_QUOTE, SOURCE_LIVE, Batch, Tick, encode

MiB = 1 << 20
HOUR_MS = 3_600_000


@attrs.define
class Clock:
    """The collector's, in the hands of a test."""

    ms: int = 1_700_000_000_000

    def __call__(self) -> int:
        return self.ms


def batch(after: int, first: int, ticks: int, symbols: Sequence[str] = ("EURUSD",)) -> Batch:
    """``ticks`` numbers from ``first``; a tick's timestamp is its number, so that a hole's times can be told."""
    made = [
        Tick(
            symbol=symbols[seq % len(symbols)],
            bid=1.1234,
            ask=1.1236,
            mid=1.1235,
            spread=0.0002,
            timestamp_ms=seq,
            timestamp=seq,
            exchange=48,
            source=SOURCE_LIVE,
            event_type=EVENT_QUOTE,
            seq=seq,
            received_ms=seq + 50,
        )
        for seq in range(first, first + ticks)
    ]
    return Batch(after, made, [encode(tick) for tick in made])


def opened(folder: Path, clock: Callable[[], int] | None = None, **settings: Any) -> Journal:
    return Journal.open(
        folder,
        **{"most_bytes": 64 * MiB, "keep_ms": 24 * HOUR_MS, "now_ms": clock or Clock(), **settings},
    )


@contextmanager
def journal(folder: Path, clock: Callable[[], int] | None = None, **settings: Any) -> Iterator[Journal]:
    made = opened(folder, clock, **settings)
    try:
        yield made
    finally:
        made.close()


def grow(journal: Journal, batches: int, ticks: int = 1) -> None:
    """Append so many batches, each right behind the tail."""
    for _ in range(batches):
        journal.append(batch(journal.tail, journal.tail + 1, ticks))


def everything(journal: Journal, after: int = 0, most: int = 500) -> tuple[list[int], list[Hole]]:
    """The numbers of all ticks, and all holes, as a pump comes to know them. That all is in order is checked."""
    numbers: list[int] = []
    holes: list[Hole] = []
    position = after
    while portion := journal.read(position, most):
        assert portion.last > position
        for hole in portion.holes:
            assert hole.first == position + 1
            assert hole.last >= hole.first
            position = hole.last
        if portion.batch:
            assert portion.batch.after <= position
            assert portion.batch.first > position
            assert [encode(tick) for tick in portion.batch.ticks] == list(portion.batch.payloads)
            numbers += [tick.seq for tick in portion.batch.ticks]
            position = portion.batch.last
        assert portion.last == position
        holes += portion.holes
    assert numbers == sorted(set(numbers))
    return numbers, holes


def in_memory() -> tempfile.TemporaryDirectory[str]:
    """A folder where an fsync costs nothing, if there is such a place; for a process that is killed it is a disk."""
    return tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)


class Power:
    """Give ``power.sync`` to a journal; what a power cut leaves of its folder is what ``cut`` then makes."""

    def __init__(self, images: Path) -> None:
        self._images = images
        images.mkdir()

    def sync(self, database: Path) -> None:
        for path in (database, log_of(database)):
            image = self._images / path.name
            image.unlink(missing_ok=True)
            if path.exists():
                shutil.copyfile(path, image)

    def cut(self, folder: Path) -> None:
        """What was durable, in a new folder."""
        shutil.copytree(self._images, folder)


def main(folder: str, batches: str = "1000000") -> None:
    """Small segments and a small bound, so that a kill also meets the change of segments and their removal."""
    with journal(Path(folder), most_bytes=MiB // 2, segment_bytes=MiB // 16) as appended:
        for number in range(int(batches)):
            grow(appended, 1, 1 + number % 7)
            sys.stdout.write(f"{appended.tail}\n")
            sys.stdout.flush()
            if number % 20 == 0:
                appended.reserve(appended.tail + 10_000)
                appended.trim({"nats": appended.tail, "kafka": appended.tail // 2})
                appended.sync()


if __name__ == "__main__":
    main(*sys.argv[1:])
