"""What arrives in the three stores while it is looked on: what the table got, NATS' listeners and the archive got too.

::

    subscribe ── mark: the last number given ── look on ── rows of the table above the mark
                                                            ├── each was heard on NATS
                                                            └── each is in the archive, committed

Without a collector there is no mark, and nothing to compare: then what is heard and read is told for itself.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final

import attrs
import msgspec
import trio

from polygon_live.config import KafkaAccess, NatsAccess, Secret
from polygon_live.engines.kafka import TOPIC, Archive
from polygon_live.engines.nats import Subscriber
from polygon_live.engines.postgres import Row, rows_after
from polygon_live.errors import StoreError
from polygon_live.model import UNREADABLE
from polygon_live.status import State

SUBJECTS: Final = ("ticks.>",)
LATE: Final = ".late"
AT_LEAST_SECONDS: Final = 30.0
"""Nothing in the table yet: it is looked on for so long, where ticks are due."""
ARRIVE_SECONDS: Final = 10.0
"""A store that is later is down, and not this store's peer."""
ARCHIVE_SECONDS: Final = 30.0
AGAIN_SECONDS: Final = 0.5
BACK_MS: Final = 60_000
"""How far the archive is read back where there is nothing to compare with."""
SPAN: Final = timedelta(hours=1)


class _Told(msgspec.Struct, frozen=True, gc=False):
    """What is compared of a tick's JSON."""

    seq: int
    symbol: str
    timestamp_ms: int


_told: Final = msgspec.json.Decoder(_Told)


@attrs.define
class Side:
    """One store as it was seen. ``why``: it could not be, or not to the end."""

    rows: dict[int, Row] = attrs.Factory(dict)
    late: int = 0
    why: str | None = None

    def lacks(self, of: Mapping[int, Row]) -> list[int]:
        """Numbers that it has not, or has otherwise."""
        return [seq for seq, row in of.items() if self.rows.get(seq) != row]

    def take(self, payload: bytes) -> None:
        """One tick's JSON. What is none is somebody else's."""
        with suppress(*UNREADABLE):
            found = _told.decode(payload)
            self.rows[found.seq] = Row(found.seq, found.symbol, found.timestamp_ms)


@attrs.define
class Flow:
    """The three, and since when."""

    since: int | None = None
    """The mark: numbers above it were given while we looked on. None: no collector told."""
    seconds: float = 0.0
    table: Side = attrs.Factory(Side)
    nats: Side = attrs.Factory(Side)
    kafka: Side = attrs.Factory(Side)


@attrs.frozen
class Stores:
    """Where they are, and whose ticks are looked for."""

    dsn: Secret
    nats: NatsAccess
    kafka: KafkaAccess
    collector: str


def newest_of(state: State) -> int:
    """The last number that was given, be it to what was fetched, or by the run before."""
    return max(state.journal.tail, state.validator.last_seq or 0)


async def look_on(stores: Stores, mark: Callable[[], Awaitable[int | None]], *, seconds: float, due: bool) -> Flow:
    """For so long, and longer if ticks are ``due`` and none has come. A store that fails costs the others nothing."""
    flow = Flow()
    subscriber = Subscriber(stores.nats, SUBJECTS, f"{stores.collector} check")
    try:
        try:
            await subscriber.connect()
        except StoreError as why:
            flow.nats.why = str(why)
        flow.since = await mark()
        async with trio.open_nursery() as listening:
            if flow.nats.why is None:
                listening.start_soon(_listen, subscriber, flow.nats)
            await _look_at_table(stores, flow, seconds, due=due)
            async with trio.open_nursery() as both:
                both.start_soon(_until_heard, flow)
                both.start_soon(_read_archive, stores, flow)
            listening.cancel_scope.cancel()
    finally:
        subscriber.close()
    return flow


async def _listen(subscriber: Subscriber, side: Side) -> None:
    try:
        while True:
            for message in await subscriber.heard():
                side.take(message.payload)
                side.late += message.subject.endswith(LATE)
    except StoreError as why:
        side.why = str(why)


async def _look_at_table(stores: Stores, flow: Flow, seconds: float, *, due: bool) -> None:
    began = trio.current_time()
    await trio.sleep(seconds)
    while flow.since is not None:
        try:
            rows: Sequence[Row] = await rows_after(stores.dsn, stores.collector, flow.since, span=SPAN)
        except StoreError as why:
            flow.table.why = str(why)
            break
        flow.table.rows = {row.seq: row for row in rows}
        if rows or not due or trio.current_time() - began > AT_LEAST_SECONDS:
            break
        await trio.sleep(AGAIN_SECONDS)
    flow.seconds = trio.current_time() - began


async def _until_heard(flow: Flow) -> None:
    with trio.move_on_after(ARRIVE_SECONDS):
        while flow.nats.why is None and flow.nats.lacks(flow.table.rows):  # noqa: ASYNC110  # it may never come
            await trio.sleep(AGAIN_SECONDS / 10)


async def _read_archive(stores: Stores, flow: Flow) -> None:
    wanted = flow.table.rows
    since_ms = min((row.timestamp_ms for row in wanted.values()), default=time.time_ns() // 1_000_000 - BACK_MS)
    enough = trio.current_time() + ARRIVE_SECONDS
    with trio.move_on_after(ARCHIVE_SECONDS) as limit:
        try:
            while True:
                async with Archive(stores.kafka, since_ms=since_ms) as archive:
                    async for records in archive:
                        for record in records:
                            if record.collector == stores.collector:
                                flow.kafka.take(record.value)
                if not flow.kafka.lacks(wanted) or trio.current_time() > enough:
                    return
                await trio.sleep(AGAIN_SECONDS)
        except StoreError as why:
            flow.kafka.why = str(why)
    if limit.cancelled_caught:
        flow.kafka.why = f"{TOPIC} could not be read to its end within {ARCHIVE_SECONDS:g} s"
