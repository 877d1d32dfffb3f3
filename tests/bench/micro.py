"""The pieces by themselves: what one of them costs a tick, and how near a store's write path comes to its limit."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Final, Protocol

import msgspec

from polygon_live import wire
from polygon_live.journal import Journal
from polygon_live.model import FOURTEEN_SYMBOLS, Batch, Tick, encode
from polygon_live.operational import Limits
from polygon_live.validate import Validator
from tests.bench import ticks
from tests.bench.macro import Bench
from tests.bench.report import Figure
from tests.bench.writing import stores
from tests.waiting import in_thread

ROUNDS: Final = 3
"""The best of them counts: other work on the machine only ever adds."""
MOST_BYTES: Final = 200 << 20
"""Of one measurement of appending: what is measured is not the disk's cache running full."""
READ_TICKS: Final = 50_000
JUDGED: Final = 2000
"""Ticks, over and over."""
RESTS: Final = (0.0, 0.001, 0.004, 0.05)
"""Seconds: between frames of twenty at 20,000 and at 5,000 ticks/s, and between single ticks at 20."""


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def frames(events: int) -> list[str]:
    """One round of the ticks, of now."""
    encoded, now = ticks.encoded(14), str(wall_ms()).encode()
    parts = (encoded[n : n + events] for n in range(0, len(encoded), events))
    return [f"[{b','.join(part).replace(ticks.MOMENT, now).decode()}]" for part in parts]


def validator(first_seq: int = 1) -> Validator:
    return Validator(FOURTEEN_SYMBOLS, Limits(), now_ms=wall_ms, first_seq=first_seq)


def batches(size: int, first_seq: int = 1) -> Iterator[Batch]:
    """Endless, as the collector makes them."""
    judge, after = validator(first_seq), first_seq - 1
    waiting: list[Tick] = []
    while True:
        for texts in _parts(frames(20), 50):
            accepted, _ = judge.judge([wire.Frame(text, wall_ms()) for text in texts], 0.0)
            waiting += accepted
            while len(waiting) >= size:
                part, waiting = waiting[:size], waiting[size:]
                yield Batch(after, part, [encode(tick) for tick in part])
                after = part[-1].seq


def _parts(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (texts[n : n + size] for n in range(0, len(texts), size))


def best(work: Callable[[], int], seconds: float) -> float:
    """µs of CPU for one of what ``work`` returns the number of."""
    found = float("inf")
    for _ in range(ROUNDS):
        begun, done = time.thread_time(), 0
        while (passed := time.thread_time() - begun) < seconds / ROUNDS or not done:
            done += work()
        found = min(found, passed / done * 1e6)
    return found


async def micro(bench: Bench) -> None:
    """Without servers first: µs of CPU, which other work on the machine raises least."""
    seconds = bench.seconds / 20

    def tell(name: str, value: float, **more: object) -> None:
        bench.tell(Figure("micro", name, value, "µs a tick", "lower", "", more))

    for events in (1, 20):
        bench.doing(f"decoding and judging, {events} events a frame")
        texts = frames(events)[: JUDGED // events]
        tell(f"decode, {events} events a frame", await in_thread(partial(best, partial(_decode, texts), seconds)))
        tell(
            f"decode and judge, {events} events a frame",
            await in_thread(partial(best, partial(_judge, texts, validator()), seconds)),
        )
    for rest in RESTS:
        bench.doing(f"judging one tick each {1000 * rest:g} ms")
        tell(
            f"decode and judge one tick, {1000 * rest:g} ms after the last",
            await in_thread(partial(_rested, frames(1)[:JUDGED], rest, seconds)),
        )
    made = next(batches(1000)).ticks
    tell("encode a tick as JSON", await in_thread(partial(best, partial(_encode, made), seconds)))
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for size in (1, 20, 500):
            bench.doing(f"the journal, batches of {size}")
            ours, least = await in_thread(partial(_appending, Path(folder), size, seconds))
            tell(f"journal: append, batches of {size}, fsync each second", ours, raw_file=round(least, 2))
        tell(
            "journal: read in portions of 500, batches of 20", await in_thread(partial(_reading, Path(folder), seconds))
        )
    await stores(bench, batches)


def _decode(texts: Sequence[str]) -> int:
    return sum(len(wire.decode(text)) for text in texts)


def _judge(texts: Sequence[str], judge: Validator) -> int:
    now = wall_ms()
    moved = judge.accepted
    for text in texts:
        judge.judge([wire.Frame(text, now)], 0.0)
    return judge.accepted - moved


def _rested(texts: Sequence[str], rest: float, seconds: float) -> float:
    """What one costs if nothing was done before it for so long: caches and the processor's sleep, no work of ours."""
    judge = validator()
    costs: list[float] = []
    until = time.perf_counter() + seconds
    for text in cycle(texts):
        if costs and time.perf_counter() > until:
            break
        if rest:
            time.sleep(rest)
        begun = time.thread_time()
        judge.judge([wire.Frame(text, wall_ms())], 0.0)
        costs.append((time.thread_time() - begun) * 1e6)
    return statistics.median(costs)


def _encode(made: Sequence[Tick]) -> int:
    for tick in made:
        encode(tick)
    return len(made)


class Log(Protocol):
    """Something that batches can be appended to."""

    def append(self, batch: Batch) -> None: ...
    def sync(self) -> None: ...
    def close(self) -> None: ...


class RawFile:
    """The least that is possible: no checksum, no index, nothing to find a batch by."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / "raw", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def append(self, batch: Batch) -> None:
        os.write(self._file, b"\n".join(batch.payloads))

    def sync(self) -> None:
        os.fdatasync(self._file)

    def close(self) -> None:
        os.close(self._file)


def the_journal(folder: Path) -> Journal:
    return Journal.open(folder, most_bytes=4 << 30, keep_ms=86_400_000, now_ms=wall_ms)


def _appending(place: Path, size: int, seconds: float) -> tuple[float, float]:
    """µs of CPU a tick: the journal, and a raw file."""
    found = []
    for make in (the_journal, RawFile):
        rounds = []
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory(dir=place) as folder, closing(make(Path(folder))) as log:
                rounds.append(_appended(log, size, seconds / ROUNDS))
        found.append(min(rounds))
    return found[0], found[1]


def _numbered(size: int) -> Iterator[Batch]:
    """Endless; for speed only the first and the last tick of each have numbers of their own, and no payload has."""
    made = next(batches(size))
    numbered, last = list(made.ticks), 0
    while True:
        numbered[0] = msgspec.structs.replace(numbered[0], seq=last + 1)
        numbered[-1] = msgspec.structs.replace(numbered[-1], seq=last + size)
        yield Batch(last, list(numbered), made.payloads)
        last += size


def _appended(log: Log, size: int, seconds: float) -> float:
    """µs of CPU a tick; how long the disk takes is its own affair, and nobody waits for it."""
    spent, count, written = 0.0, 0, 0
    begun = synced = time.perf_counter()
    for each in _numbered(size):
        before = time.thread_time()
        log.append(each)
        if time.perf_counter() > synced + 1:
            log.sync()
            synced = time.perf_counter()
        spent += time.thread_time() - before
        count += size
        written += size * len(each.payloads[0])
        if time.perf_counter() > begun + seconds or written >= MOST_BYTES:
            return spent / count * 1e6
    raise AssertionError("there is no end of batches")


def _reading(place: Path, seconds: float) -> float:
    with tempfile.TemporaryDirectory(dir=place) as folder, closing(the_journal(Path(folder))) as journal:
        for batch in islice(batches(20, journal.tail + 1), max(1, round(min(1.0, seconds) * READ_TICKS / 20))):
            journal.append(batch)

        def once() -> int:
            position = count = 0
            while portion := journal.read(position, 500):
                position = portion.last
                count += len(portion.batch or ())
            return count

        return best(once, seconds)
