"""Replay: what the archive holds of a span of time, once more into the table or onto NATS.

Taken are the ticks of every collector with ``from`` ≤ ``timestamp_ms`` < ``to``. The archive is read from the first
record of that time to its end, for what was fetched afterwards (backfill) lies late.

- The table gets them as they are read: it has no order, and what it holds already it is not given again.
- NATS gets them in the order of time, which takes a copy on disk, for the last record read may be the first one due.
  Within a symbol the order is that of ``seq``, as everywhere, and a late tick comes where it came then; a backfilled
  one, though its ``seq`` is higher, comes where its time is. So does one that is older than its symbol's newest by more
  than ``LATE_MS``: else one wrong time far ahead would hold back all that follow.

A store that goes away is tried again for some seconds. Then the replay ends, and says how far it came: what was written
stays, and the next one does the rest.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, closing
from typing import Final, NamedTuple, Protocol, TypeVar

import attrs
import structlog
import trio

from polygon_live.config import NatsAccess, Secret
from polygon_live.engines.kafka import Archived
from polygon_live.engines.nats import Message, NatsClient
from polygon_live.engines.postgres import Put, ReplayTable, Session, instant
from polygon_live.errors import RowsRefused, StoreMisconfigured, StoreUnavailable
from polygon_live.model import EVENT_BACKFILL, UNREADABLE, Batch, Tick
from polygon_live.spool import Spool, Spooled

AT_ONCE: Final = 20_000
"""Ticks in one transaction of the table."""
MESSAGES_AT_ONCE: Final = 5000
LATE_MS: Final = 60_000
WAITS_SECONDS: Final = (1.0, 2.0, 4.0, 8.0)
"""Before a store is tried again."""
MOST_REFUSED: Final = 100
"""So many ticks refused, and it is the table's fault."""

log = structlog.get_logger()
T = TypeVar("T")


@attrs.frozen
class Choice:
    """What is to be taken."""

    from_ms: int
    to_ms: int
    """Not included."""
    symbols: frozenset[str] = frozenset()
    """Empty: all."""

    def takes(self, tick: Tick) -> bool:
        """Whether it is among them."""
        return self.from_ms <= tick.timestamp_ms < self.to_ms and (not self.symbols or tick.symbol in self.symbols)


class Chosen(NamedTuple):
    """A tick that is taken."""

    collector: str
    tick: Tick
    payload: bytes


@attrs.define
class Tally:
    """What became of the records so far."""

    read: int = 0
    foreign: int = 0
    """Were no ticks of a collector."""
    in_range: int = 0
    written: int = 0
    there: int = 0
    """The table held them already."""
    expired: int = 0
    """Older than what the table keeps."""
    above_cursor: int = 0
    """The running collector is bringing them itself."""
    in_hand: int = 0
    """The table was asked to take these, and has not answered: they may be written."""
    refused: int = 0
    """By the table, for their content."""
    refusal: str | None = None
    """The first one's, in the engine's words."""
    reached_ms: int | None = None
    """Onto NATS: everything due before this time was handed over."""


class Archive(Protocol):
    """``engines.kafka.Archive``, inside its block."""

    @property
    def total(self) -> int:
        """How much there is to read."""

    @property
    def read(self) -> int:
        """How much of that is read."""

    def __aiter__(self) -> AsyncIterator[list[Archived]]:
        """Blocks of records."""


Show = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is to do."""
Watch = Callable[[Sequence[Chosen]], None]
"""Called with the ticks that are taken, before anything is done with them."""


class Table:
    """The table as a replay's destination. ``rehearsal``: it is only looked at."""

    SET_UP_SECONDS: Final = 60.0
    PUT_SECONDS: Final = 30.0

    def __init__(self, dsn: Secret, tenant: str, *, now_ms: Callable[[], int], rehearsal: bool = False) -> None:
        """``now_ms`` gives Unix milliseconds."""
        self._tenant = tenant
        self._now_ms = now_ms
        self._rehearsal = rehearsal
        self._session = Session(dsn, "polygon-live/replay")
        self._table: ReplayTable | None = None

    async def put(self, ticks: Sequence[Chosen]) -> Put:
        """Connects if need be. Raises StoreUnavailable, StoreMisconfigured, RowsRefused."""
        by_collector: defaultdict[str, list[Tick]] = defaultdict(list)
        for collector, tick, _ in ticks:
            by_collector[collector].append(tick)
        table, self._table = self._table or await self._open(), None
        try:
            put = await self._session.run(
                self.PUT_SECONDS, "write a block", lambda c: table.put(c, by_collector, self._now_ms)
            )
        except RowsRefused:
            self._table = table  # the connection is good
            raise
        self._table = table
        return put

    async def _open(self) -> ReplayTable:
        await self._session.connect()
        now, tenant, rehearsal = instant(self._now_ms()), self._tenant, self._rehearsal
        return await self._session.run(
            self.SET_UP_SECONDS, "get ready", lambda c: ReplayTable(c, tenant, now, rehearsal=rehearsal)
        )

    def close(self) -> None:
        """Never waits."""
        self._session.drop()


class Subjects:
    """NATS as a replay's destination: ``ticks.SYMBOL.late``, under the same keys as ever."""

    CONNECT_SECONDS: Final = 5.0
    PUBLISH_SECONDS: Final = 10.0

    def __init__(self, access: NatsAccess) -> None:
        self._client = NatsClient(
            access,
            "polygon-live/replay",
            connect_seconds=self.CONNECT_SECONDS,
            publish_seconds=self.PUBLISH_SECONDS,
        )
        self._connected = False

    async def put(self, ticks: Sequence[Spooled]) -> None:
        """Connects if need be. Raises StoreUnavailable, StoreMisconfigured."""
        if not self._connected:
            await self._client.connect()
        self._connected = False
        await self._client.publish([_message(tick) for tick in ticks])
        self._connected = True

    def close(self) -> None:
        """Never waits."""
        self._client.close()

    def notes(self) -> list[str]:
        """What who replays should know of the stream that keeps the ticks, if there is one."""
        about = self._client.facts.about
        if about.get("mode") != "jetstream":
            return []
        begin = f"stream {about['stream']} keeps what was published, but for ticks that it was given in the"
        return [f"{begin} {about['duplicate_window_seconds']} s before: what it had for longer, it has twice now"]


def _message(tick: Spooled) -> Message:
    subject = f"ticks.{tick.symbol}.late".encode()
    return Message(subject, tick.payload, tick.symbol, tick.collector.encode(), tick.seq)


class Onto(Protocol):
    """``Subjects``."""

    async def put(self, ticks: Sequence[Spooled]) -> None:
        """All of them, in order. Raises StoreUnavailable, StoreMisconfigured."""


async def into_table(archive: Archive, choice: Choice, table: Table, tally: Tally, show: Show, watch: Watch) -> None:
    """Raises StoreUnavailable, StoreMisconfigured; ``tally`` then says how far it came."""
    waiting: list[Chosen] = []
    async for records in archive:
        chosen = _chosen(records, choice, tally)
        watch(chosen)
        waiting += chosen
        while len(waiting) >= AT_ONCE:
            await _put(waiting[:AT_ONCE], table, tally)
            del waiting[:AT_ONCE]
        show("reading", archive.read, archive.total)
    if waiting:
        await _put(waiting, table, tally)


async def _put(ticks: list[Chosen], table: Table, tally: Tally) -> None:
    parts = [ticks]
    while parts:
        part = parts.pop()
        tally.in_hand = len(part)
        try:
            put = await _stubbornly(lambda part=part: table.put(part))  # type: ignore[misc]
        except RowsRefused as why:
            tally.in_hand = 0
            if len(part) > 1:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
                continue
            tally.refused += 1
            tally.refusal = tally.refusal or f"{part[0].tick.symbol}, seq {part[0].tick.seq}: {why}"
            if tally.refused >= MOST_REFUSED:
                raise StoreMisconfigured(
                    f"the table refused {tally.refused} ticks, the first {tally.refusal}"
                ) from None
        else:
            tally.in_hand = 0
            tally.written += put.written
            tally.there += put.there
            tally.expired += put.expired
            tally.above_cursor += put.above


async def into_nats(
    archive: Archive,
    choice: Choice,
    subjects: Onto,
    tally: Tally,
    show: Show,
    watch: Watch,
    *,
    speed: float,
) -> None:
    """``speed``: how many times faster than time itself; it may be infinite.

    Raises StoreUnavailable, StoreMisconfigured, NoRoom; ``tally`` then says how far it came.
    """
    with closing(Spool()) as spool:
        order = _Order()
        async for records in archive:
            chosen = _chosen(records, choice, tally)
            watch(chosen)
            spool.add(Spooled(order.place(c, t), t.seq, c, t.symbol, payload) for c, t, payload in chosen)
            show("reading", archive.read, archive.total)
        show("publishing", 0, len(spool))  # they are put in order first
        async with aclosing(_paced(spool.in_order(MESSAGES_AT_ONCE), speed)) as parts:
            async for due in parts:
                await _stubbornly(lambda due=due: subjects.put(due))  # type: ignore[misc]
                tally.written += len(due)
                tally.reached_ms = due[-1].at
                show("publishing", tally.written, len(spool))


async def count(archive: Archive, choice: Choice, tally: Tally, show: Show) -> None:
    """Read, and do nothing else. Raises StoreUnavailable, StoreMisconfigured."""
    async for records in archive:
        tally.written += len(_chosen(records, choice, tally))
        show("reading", archive.read, archive.total)


def _chosen(records: Sequence[Archived], choice: Choice, tally: Tally) -> list[Chosen]:
    found = []
    for record, tick in zip(records, _ticks([r.value for r in records]), strict=True):
        if tick is None or record.collector is None or record.seq != tick.seq:
            tally.foreign += 1
        elif choice.takes(tick):
            found.append(Chosen(record.collector, tick, record.value))
    tally.read += len(records)
    tally.in_range += len(found)
    return found


def _ticks(payloads: Sequence[bytes]) -> Sequence[Tick | None]:
    try:
        return Batch.of_payloads(0, payloads).ticks
    except UNREADABLE:
        return [None] if len(payloads) == 1 else [tick for payload in payloads for tick in _ticks([payload])]


class _Order:
    """Where each tick comes."""

    def __init__(self) -> None:
        self._newest: defaultdict[tuple[str, str], int] = defaultdict(int)

    def place(self, collector: str, tick: Tick) -> int:
        """In Unix milliseconds. Asked in ``seq`` order for each symbol."""
        at = tick.timestamp_ms
        if tick.event_type == EVENT_BACKFILL:
            return at
        newest = self._newest[collector, tick.symbol]
        if newest - LATE_MS <= at <= newest:
            return newest
        self._newest[collector, tick.symbol] = max(at, newest)
        return at


async def _paced(blocks: Iterator[list[Spooled]], speed: float) -> AsyncGenerator[list[Spooled], None]:
    """What is due, as soon as it is due, in order."""
    began, first_at = None, 0
    while block := await trio.to_thread.run_sync(next, blocks, None):
        if began is None:
            began, first_at = trio.current_time(), block[0].at
        while block:
            await trio.sleep_until(began + (block[0].at - first_at) / 1000 / speed)
            now = first_at + (trio.current_time() - began) * 1000 * speed
            due = max(1, bisect_right(block, now, key=lambda tick: tick.at))
            yield block[:due]
            block = block[due:]


async def _stubbornly(work: Callable[[], Awaitable[T]]) -> T:
    """Raises what ``work`` does, StoreUnavailable only after it was tried again."""
    for wait in WAITS_SECONDS:
        try:
            return await work()
        except StoreUnavailable as why:
            log.warning("store not available, trying again", why=str(why), in_seconds=wait)
            await trio.sleep(wait)
    return await work()
