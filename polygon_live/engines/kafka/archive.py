"""The archive for those who read it: everything from a time on, as committed readers see it."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, NamedTuple, Self, TypeVar

import trio
from kafka import errors

from polygon_live.config import KafkaAccess
from polygon_live.engines.kafka.access import administration, where
from polygon_live.engines.kafka.cursor import read_cursor
from polygon_live.engines.kafka.errors import translated
from polygon_live.engines.kafka.reading import Stretch, collector_of, committed, decided_ends
from polygon_live.engines.kafka.topic import TOPIC, offsets
from polygon_live.errors import StoreMisconfigured

NAME: Final = "polygon-live-archive"
PATIENCE_SECONDS: Final = 60.0
"""With nothing to be read: longer than the transaction of a collector that died may stay open."""
CLOSE_SECONDS: Final = 2.0

T = TypeVar("T")


class Archived(NamedTuple):
    """One record."""

    key: bytes | None
    value: bytes
    timestamp_ms: int
    collector: str | None
    """None, as ``seq``: not written by a collector."""
    seq: int | None


class Archive:
    """Every record with this time or a later one that was committed before the block was entered, in order within each
    symbol; some older ones are among them, for what was fetched afterwards lies late.

    ``async with Archive(access, since_ms=…) as archive: async for records in archive: …``
    """

    def __init__(self, access: KafkaAccess, *, since_ms: int, topic: str = TOPIC) -> None:
        self._access = access
        self._since_ms = since_ms
        self._topic = topic
        self._one = trio.CapacityLimiter(1)
        self._open = ExitStack()
        self._stretch: Stretch | None = None

    @property
    def total(self) -> int:
        """About how many records there are to read; known inside the block."""
        return self._stretch.total if self._stretch else 0

    @property
    def read(self) -> int:
        """How many of ``total`` are read; equal to it at the end."""
        return self._stretch.read if self._stretch else 0

    async def cursor_of(self, collector: str) -> int | None:
        """The last ``seq`` of this collector that the archive holds; None: not known. Who must have all up to it asks
        before he enters the block.

        Raises StoreUnavailable, StoreMisconfigured.
        """
        return await self._run(lambda: self._cursor_of(collector))

    async def __aenter__(self) -> Self:
        """Waits for the end of what is being written just now. Raises StoreUnavailable, StoreMisconfigured."""
        try:
            await self._run(self._begin)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _close(self) -> None:
        if self._stretch is not None:
            self._stretch.stopped = True
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await trio.to_thread.run_sync(self._open.close, abandon_on_cancel=True, limiter=self._one)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Archived]:
        """Raises StoreUnavailable, StoreMisconfigured."""
        if block := await self._run(self._block):
            return block
        raise StopAsyncIteration

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._one)
        except errors.UnknownTopicOrPartitionError:
            raise StoreMisconfigured(
                f"Kafka {where(self._access)} has no topic {self._topic}: no collector has written there"
            ) from None
        except Exception as why:  # noqa: BLE001  # everything is translated
            raise translated(why, where(self._access)) from None

    # In the thread --------------------------------------------------------------------------------------------------

    def _cursor_of(self, collector: str) -> int | None:
        found = read_cursor(self._access, collector, self._topic, name=NAME, stable=True)
        return found.seq or None if found else None

    def _begin(self) -> None:
        with administration(self._access, name=NAME) as admin:
            ends = decided_ends(admin, self._topic, patience=PATIENCE_SECONDS)
            starts = offsets(admin, self._topic, self._since_ms)  # afterwards: what comes meanwhile is beyond the ends
        starts = {p: starts[p] if starts[p] >= 0 else end for p, end in ends.items()}
        consumer = self._open.enter_context(committed(self._access, name=NAME))
        self._stretch = Stretch(consumer, self._topic, starts, ends, patience=PATIENCE_SECONDS)

    def _block(self) -> list[Archived]:
        records = self._stretch.block() if self._stretch else []
        return [Archived(r.key, r.value, r.timestamp, *(collector_of(r) or (None, None))) for r in records]
