"""How often the archive has each of a collector's numbers, for who compares it with what was accepted.

Everything is done in one worker thread from the first connection to the last: who stops waiting tells it, and the
thread ends by itself. It reads in small pieces and rests between them, so that nobody beside it has to wait for long.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

import attrs
import trio
from kafka import errors
from kafka.admin import OffsetSpec

from polygon_live.blocks import Block
from polygon_live.config import KafkaAccess
from polygon_live.engines.kafka.access import administration, where
from polygon_live.engines.kafka.errors import translated
from polygon_live.engines.kafka.reading import Stretch, collector_of, committed, decided_ends
from polygon_live.engines.kafka.topic import TOPIC, offsets
from polygon_live.errors import StoreMisconfigured

PATIENCE_SECONDS: Final = 45.0
"""With nothing to be read: longer than the transaction of a collector that died may stay open."""
BUSY_SHARE: Final = 0.1
"""Of the time, while it reads."""
PIECE: Final = 100
"""Records between two rests: some 2 ms, in which every other thread has to ask for its turn."""
NAP_SECONDS: Final = 0.1
MOST_READ: Final = 1_000_000
"""Records in one go: after a restart nobody knows where the ticks of long ago stand that a block may have."""

T = TypeVar("T")
Place = Mapping[int, int]
"""Of each partition the offset behind its last record at some moment."""


@attrs.frozen
class Numbers:
    """What was read of one block."""

    times: bytes
    """For each of its numbers how often it is there, up to 255."""
    certain: bool
    """If not, what was not found may be there, or have been there: records where it lies were deleted since, or there
    are too many to be read.
    """

    @property
    def there(self) -> int:
        """How many of its numbers are there."""
        return len(self.times) - self.times.count(0)

    @property
    def doubled(self) -> int:
        """How many records there are too many."""
        return sum(self.times) - self.there


class _Stopped(Exception):
    pass


class ArchiveNumbers:
    """``spent`` is told the seconds of the processor that each question took."""

    def __init__(
        self, access: KafkaAccess, collector: str, spent: Callable[[float], None], *, topic: str = TOPIC
    ) -> None:
        self._access = access
        self._collector = collector
        self._spent = spent
        self._topic = topic
        self._name = f"polygon-live-{collector}-verification"

    async def place(self) -> Place:
        """Where the archive ends now, what is being written included. Raises StoreUnavailable, StoreMisconfigured."""
        return await self._run(self._place)

    async def numbers(self, blocks: Sequence[Block], place: Place | None) -> list[Numbers]:
        """Of each block, as committed readers see it, from this place to the end; None: from the first record of its
        time, which may be long ago. Raises StoreUnavailable, StoreMisconfigured.
        """
        return await self._run(lambda going_on: self._numbers(blocks, place, going_on))

    async def _run(self, work: Callable[[Callable[[], None]], T]) -> T:
        stopped = False

        def going_on() -> None:
            if stopped:
                raise _Stopped

        def measured() -> T:
            began = time.thread_time()
            try:
                return work(going_on)
            finally:
                self._spent(time.thread_time() - began)

        try:
            return await trio.to_thread.run_sync(measured, abandon_on_cancel=True)
        except errors.UnknownTopicOrPartitionError:
            raise StoreMisconfigured(f"Kafka {where(self._access)} has no topic {self._topic}") from None
        except Exception as why:  # noqa: BLE001  # everything is translated
            raise translated(why, where(self._access)) from None
        finally:
            stopped = True

    # In the thread --------------------------------------------------------------------------------------------------

    def _place(self, going_on: Callable[[], None]) -> Place:
        going_on()
        with administration(self._access, name=self._name) as admin, self._its_thread():
            return offsets(admin, self._topic, OffsetSpec.LATEST)

    def _numbers(self, blocks: Sequence[Block], place: Place | None, going_on: Callable[[], None]) -> list[Numbers]:
        with administration(self._access, name=self._name) as admin, self._its_thread():
            ends = decided_ends(admin, self._topic, patience=PATIENCE_SECONDS)
            begins = offsets(admin, self._topic, OffsetSpec.EARLIEST)
            since_ms = min(block.least_ms for block in blocks)
            known = place is not None and all(offset <= ends.get(p, -1) for p, offset in place.items())
            # A place beyond the end was in another topic of this name.
            at = place if place is not None and known else offsets(admin, self._topic, since_ms)
        starts = {
            p: end if at.get(p, begins[p]) < 0 else max(at.get(p, begins[p]), begins[p]) for p, end in ends.items()
        }
        times = [bytearray(block.count) for block in blocks]
        if sum(ends.values()) - sum(starts.values()) > MOST_READ:
            return [Numbers(bytes(counted), certain=False) for counted in times]
        trimmed = any(begins[p] > 0 and starts[p] <= begins[p] for p in ends)
        with committed(self._access, name=self._name) as consumer, self._its_thread():
            stretch = Stretch(consumer, self._topic, starts, ends, patience=PATIENCE_SECONDS, most=PIECE)
            began = time.thread_time()
            while records := stretch.block():
                for record in records:
                    self._count(record, blocks, times)
                _rest((time.thread_time() - began) * (1 / BUSY_SHARE - 1), going_on)
                began = time.thread_time()
        return [Numbers(bytes(counted), certain=not trimmed) for counted in times]

    @contextmanager
    def _its_thread(self) -> Iterator[None]:
        """What the library's thread of an open client takes of the processor is spent, too."""
        try:
            yield
        finally:
            self._spent(sum(_busy_seconds(t) for t in threading.enumerate() if t.name == f"kafka-io-{self._name}"))

    def _count(self, record: object, blocks: Sequence[Block], times: Sequence[bytearray]) -> None:
        told = collector_of(record)
        if told is None or told[0] != self._collector or not blocks[0].first <= told[1] <= blocks[-1].last:
            return
        index = _which(blocks, told[1])
        if index is not None:
            counted, number = times[index], told[1] - blocks[index].first
            counted[number] = min(counted[number] + 1, 255)


def _busy_seconds(thread: threading.Thread) -> float:
    """As Linux has it."""
    with suppress(OSError):
        return int(Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[0]) / 1e9
    return 0.0


def _which(blocks: Sequence[Block], seq: int) -> int | None:
    """In which block this number is."""
    low, high = 0, len(blocks) - 1
    while low < high:
        middle = (low + high) // 2
        if blocks[middle].last < seq:
            low = middle + 1
        else:
            high = middle
    return low if blocks[low].first <= seq <= blocks[low].last else None


def _rest(seconds: float, going_on: Callable[[], None]) -> None:
    until = time.monotonic() + seconds
    going_on()
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, NAP_SECONDS))
        going_on()
