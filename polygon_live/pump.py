"""The loop that all sinks share: take what follows the store's cursor, write it, try again until the store answers.

Rules of this file's state:

- ``_cursor`` is how far this pump is: everything up to it is in the store, in the quarantine, or told as lost. What
  comes next is asked for by it and by nothing else, so a crash of ``run`` or of the process forgets nothing.
- ``_stored`` is the store's own cursor as it last said. After every error the store is opened again and believed: what
  was unclear is settled by its cursor, and one that has fallen behind (a backup was restored, a standby took over) is
  caught up from the journal.
- Whatever waited while the last batch was written, and until the store's pause is over, is the next batch: small and
  immediate at low load, large at high.
- What the store was not done with in time, for it may take long over each tick, is halved before it is tried again.
- A tick that the store refuses for its content is found by halving, set aside with the engine's own message, and the
  rest of its batch goes on, in order. A store that refuses one tick after the other and takes none is rather wrong
  itself: it is given time between so and so many, and called down.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Final

import structlog
import trio

from polygon_live.backlog import MOST_TICKS, Backlog
from polygon_live.backoff import backoff
from polygon_live.errors import (
    JournalError,
    RowsRefused,
    StoreContested,
    StoreError,
    StoreMisconfigured,
    StoreUnavailable,
)
from polygon_live.histogram import BATCH_TICKS, DELAY_SECONDS, Histogram
from polygon_live.journal import Hole, Portion
from polygon_live.model import Batch, Reject, evidence
from polygon_live.runs import Answered
from polygon_live.sink import Opened, Sink
from polygon_live.status import SinkSnapshot
from polygon_live.stride import Stride
from polygon_live.telling import Books

ENOUGH_TICKS: Final = MOST_TICKS // 2
"""In a batch, for it to be written without a pause."""
FEW_TICKS: Final = 100
FIRST_WAIT_SECONDS: Final = 0.25
MOST_WAIT_SECONDS: Final = 5.0
MISCONFIGURED_WAIT_SECONDS: Final = 15.0
REFUSED_IN_A_ROW: Final = 20
"""So many ticks set aside, and none taken between, are the store's fault, not theirs. What it may cost before it is
mended is this often every ``MISCONFIGURED_WAIT_SECONDS``; and a true run of bad ticks blocks nothing for ever."""
SAY_AGAIN_SECONDS: Final = 60.0
IDLE_SECONDS: Final = 10.0
"""Without a tick for so long, the store is asked for a sign of life, and given one."""

log = structlog.get_logger()


class Pump:
    """Carries batches from a backlog into one sink, from ``cursor`` on: what is remembered of it, or None."""

    def __init__(
        self,
        sink: Sink,
        backlog: Backlog,
        *,
        cursor: int | None,
        books: Books,
        wall_ms: Callable[[], int],
        rng: random.Random,
    ) -> None:
        self.sink = sink
        self.backlog = backlog
        self._books = books
        self._wall_ms = wall_ms
        self._rng = rng
        self._log = log.bind(store=sink.name)
        self._new = cursor is None
        """Nothing is known of this store: what it never had, and is not in the journal any more, it does not lack."""
        self._cursor = self._stored = backlog.beginning if cursor is None else cursor
        self._in_hand: Batch | None = None
        self._connected = False
        self._believed = False
        """The store itself has said how far it is, in this run."""
        self._away_since: float | None = None
        """When it was asked for a sign of life that has not come yet: ticks may wait in the queue, and nobody looks."""
        self._began, self._took = -math.inf, 0.0
        """When the last batch was begun to be written, and how long that lasted."""
        self._stride = Stride(MOST_TICKS)
        self._say_again = 0.0
        self._said_away = True
        """The log's last word about this store is that it is away (as it is at the start)."""
        self._error: StoreError | JournalError | None = None
        self._error_ms: int | None = None
        self._failing = False
        self._delivered = self._expired = self._set_aside = self._retries = self._lost = 0
        self.falls: list[int] = []
        """Each time that the store was found to have fallen behind, in this run, to where."""
        self.answered = Answered()
        """What the store took in this run."""
        self._in_a_row = 0
        """Ticks set aside since the last one that the store took."""
        self._set_aside_ms: int | None = None
        self._received_ms = wall_ms()
        """When the last delivered tick was received; what waits from before this run is older than that."""
        self._delivered_ms: int | None = None
        self._lost_ms: int | None = None
        self._delay, self._batches = Histogram(DELAY_SECONDS), Histogram(BATCH_TICKS)

    @property
    def cursor(self) -> int:
        """Everything up to this ``seq`` is settled. A store that keeps its own may say otherwise when opened."""
        return self._cursor

    @property
    def remembered(self) -> int | None:
        """What the next run must know: the store's own cursor, where it keeps one, which passes no ticks set aside."""
        if not self.sink.keeps_cursor:
            return self._cursor
        return None if self._new else self._stored

    @property
    def confirmed(self) -> int | None:
        """The same, once the store itself has been asked."""
        return self._cursor if self._believed else None

    async def run(self) -> None:
        """Until the backlog has ended and everything in it is settled; then close the sink. Cancelling it leaves the
        rest to the journal.
        """
        self._away_since = self._away_since or trio.current_time()
        try:
            await self._open()
            while True:
                with trio.move_on_after(IDLE_SECONDS) as idle:
                    try:
                        portion = await self._next()
                    except trio.EndOfChannel:
                        break
                    except JournalError as why:
                        await self._away(why, MOST_WAIT_SECONDS)
                        await self._check()
                        continue
                if idle.cancelled_caught:
                    await self._check()
                    continue
                await self._pass(portion.holes)
                self._cursor = max(self._cursor, portion.batch.after if portion.batch else portion.last)
                if portion.batch:
                    await self._settle(portion.batch)
        finally:
            self._connected = False
            with trio.CancelScope(shield=True):  # a sink's aclose never waits for its server
                await self.sink.aclose()

    async def _next(self) -> Portion:
        """As ``Backlog.next``, with what comes until the store's pause is over."""
        for ticks, pause in ((ENOUGH_TICKS, self.sink.pause_seconds), (FEW_TICKS, self.sink.few_pause_seconds)):
            if (due := self._began + pause) > trio.current_time():
                with trio.move_on_at(due):
                    await self.backlog.filled(self._cursor, ticks)
        await self.backlog.rest(self._took)
        return await self.backlog.next(self._cursor)

    async def _open(self) -> None:
        """Connect, trying for ever, and learn how far the store is."""
        waits = self._waits()
        while not self._connected:
            try:
                opened = await self.sink.open()
                await self._believe(opened)
            except StoreError as why:
                await self._away(why, next(waits))
            else:
                self._connected = True
                self._away_since = None
                if self._said_away:
                    self._log.info("connected to the store", **self.sink.facts().about)
                    self._said_away = False

    async def _believe(self, opened: Opened) -> None:
        """The store's word about its cursor holds. But ticks that were set aside are passed, though it can't know."""
        if not self.sink.keeps_cursor:
            await self._books.opened(self.sink, opened, behind=False)
            return
        found = opened.after(self._stored, new=self._new)
        behind = found < self._stored
        await self._books.opened(self.sink, opened, behind=behind and not self._new)
        if self._in_hand and found > self._cursor:  # it had been written, and the answer was lost
            taken = len(self._in_hand.beyond(self._cursor)) - len(self._in_hand.beyond(found))
            self._answered(self._in_hand, delivered=taken, expired=0)
        if behind and not self._new:
            self.falls.append(found)
            self._log.warning("the store has fallen behind: it is caught up", had=self._stored, has=found)
        if behind:
            self._cursor = found
        self._stored = found
        self._cursor = max(self._cursor, found)
        self._believed, self._new = True, self._new and opened.cursor is None

    async def _check(self) -> None:
        """A store that dies while the market is closed is known before it opens."""
        self._away_since = trio.current_time()
        try:
            await self.sink.check()
        except StoreError as why:
            self._connected = False
            await self._away(why, next(self._waits()))
            await self._open()
        else:
            self._away_since = None

    async def _pass(self, holes: Sequence[Hole]) -> None:
        if not holes:
            return
        await self._books.lost(self.sink.name, holes)
        self._lost += sum(hole.least for hole in holes)
        self._lost_ms = self._wall_ms()

    async def _settle(self, batch: Batch) -> None:
        """Get the store's answer for every tick of it, or find that the store needs something older first."""
        waits = self._waits()
        self._in_hand = batch
        self._began = trio.current_time()
        while batch and batch.after <= self._cursor:
            try:
                await self._write(batch)
            except StoreError as why:
                self._connected = False
                self._retries += 1
                await self._away(why, next(waits))
                await self._open()
            batch = self._in_hand = batch.beyond(self._cursor)
        self._in_hand = None
        self._took = trio.current_time() - self._began

    async def _write(self, batch: Batch) -> None:
        parts = [batch]
        while parts:
            part = parts.pop()
            if len(part) > self._stride.most:  # one huge message, what came back after a power cut, or too slow
                parts += part.halves()[::-1]
                continue
            try:
                written = await self.sink.write(part)
            except RowsRefused as why:
                if len(part) > 1:
                    parts += reversed(part.halves())
                else:
                    await self._refused(part, why)
            except StoreUnavailable:
                self._stride.failed(len(part))
                raise
            else:
                self._stride.done(len(part))
                self._cursor = self._stored = part.last
                self._new = False
                self.answered.add(part.first, part.last)
                self._answered(part, delivered=written.delivered, expired=written.expired)

    def _answered(self, part: Batch, *, delivered: int, expired: int) -> None:
        self._away_since = None
        self._delivered += delivered
        self._expired += expired
        self._received_ms = part.ticks[-1].received_ms
        if delivered:
            self._in_a_row, self._failing = 0, False
            self._delivered_ms = now_ms = self._wall_ms()
            came = Counter(map(attrgetter("received_ms"), part.ticks[: delivered + expired]))
            self._delay.add({now_ms - at: times for at, times in came.items()}, trio.current_time(), scale=0.001)
            self._batches.add({len(part): 1}, trio.current_time())

    async def _refused(self, part: Batch, why: RowsRefused) -> None:
        tick = part.ticks[0]
        self._set_aside_ms = self._wall_ms()
        raw = evidence(part.payloads[0].decode())
        reject = Reject(self.sink.name, "refused_by_store", str(why), raw, self._set_aside_ms, tick.symbol, tick.seq)
        await self._books.set_aside(reject, part.payloads[0])
        self._log.error("tick set aside: the store refuses it", symbol=tick.symbol, seq=tick.seq, why=str(why))
        self._cursor = part.last
        self._set_aside += 1
        self._in_a_row += 1
        if self._in_a_row % REFUSED_IN_A_ROW == 0:
            message = f"it refused the last {self._in_a_row} ticks and took none: {why}"
            await self._away(StoreMisconfigured(message), MISCONFIGURED_WAIT_SECONDS)
            await self.sink.check()  # a cursor that does not move is taken over, as a dead one's

    async def _away(self, why: StoreError | JournalError, wait: float) -> None:
        if self._away_since is None:
            self._away_since = trio.current_time()
        if str(why) != str(self._error) or trio.current_time() >= self._say_again:
            self._say_again = trio.current_time() + SAY_AGAIN_SECONDS
            self._said_away = True
            say = self._log.error if isinstance(why, StoreMisconfigured | StoreContested) else self._log.warning
            say("store not available, trying again", why=str(why), waiting_ticks=self._waiting())
        self._error, self._error_ms, self._failing = why, self._wall_ms(), True
        await trio.sleep(MISCONFIGURED_WAIT_SECONDS if isinstance(why, StoreMisconfigured) else wait)

    def _waits(self) -> Iterator[float]:
        return backoff(FIRST_WAIT_SECONDS, MOST_WAIT_SECONDS, self._rng)

    def _waiting(self) -> int:
        return max(self._books.pending(self._cursor)[0], self.backlog.waiting(self._cursor))

    def snapshot(self) -> SinkSnapshot:
        """As of now."""
        facts = self.sink.facts()
        behind = [0.0]
        if self._in_hand:
            behind.append((self._wall_ms() - self._in_hand.ticks[0].received_ms) / 1000)
        elif self.backlog.from_journal and self._cursor < self.backlog.head:
            behind.append((self._wall_ms() - self._received_ms) / 1000)
        if self._away_since is not None:
            behind.append(trio.current_time() - self._away_since)
        return SinkSnapshot(
            name=self.sink.name,
            connected=self._connected,
            behind_seconds=max(behind),
            waiting_ticks=self._waiting(),
            seconds_until_loss=self._books.pending(self._cursor)[1],
            delivered=self._delivered,
            expired=self._expired,
            set_aside=self._set_aside,
            set_aside_ever=self._books.set_aside_ever(self.sink.name),
            last_set_aside_ms=self._set_aside_ms,
            lost=self._lost,
            last_lost_ms=self._lost_ms,
            fell_behind=len(self.falls),
            retries=self._retries,
            cursor=self._cursor,
            last_delivered_ms=self._delivered_ms,
            last_error=str(self._error) if self._error else None,
            last_error_ms=self._error_ms,
            failing=self._failing,
            needs_operator=not self._connected and isinstance(self._error, StoreMisconfigured | StoreContested),
            about=facts.about,
            complaints=facts.complaints,
            delay=self._delay.spread(trio.current_time()),
            batches=self._batches.spread(trio.current_time()),
        )
