"""The loop that all sinks share: take what has come, write it, try again until the store answers, keep the order.

Rules of this file's state:

- ``_parts`` is what was taken from the channel and is not settled: a stack, the next part on top. It outlives a crash
  of ``run``, so that a restarted pump goes on where the last one fell.
- ``_unclear`` means that the part on top may be in the store already: the store is asked before anything is sent again.
- Whatever waited while the last batch was written is the next batch: small and immediate at low load, large at high.
- A tick that the store refuses for its content is found by halving, set aside with the engine's own message, and the
  rest of its batch goes on, in order. A store that refuses one tick after the other and takes none is rather wrong
  itself: it is given time between so and so many, and called down.
"""

import random
from collections.abc import Callable, Iterator
from typing import Final

import structlog
import trio

from polygon_live.backoff import backoff
from polygon_live.channels import WeightedReceiver, WeightedSender
from polygon_live.errors import AlreadyHeld, RowsRefused, StoreError, StoreMisconfigured
from polygon_live.model import Batch, Reject, evidence
from polygon_live.rejects import RejectBook
from polygon_live.sink import Sink
from polygon_live.status import SinkSnapshot

MOST_TICKS: Final = 5000
"""A batch: large enough that the fixed cost of a write vanishes, small enough that halving finds a tick quickly."""
FIRST_WAIT_SECONDS: Final = 0.25
MOST_WAIT_SECONDS: Final = 5.0
MISCONFIGURED_WAIT_SECONDS: Final = 15.0
REFUSED_IN_A_ROW: Final = 20
"""So many ticks set aside, and none taken between, are the store's fault, not theirs. What it may cost before it is
mended is this often every ``MISCONFIGURED_WAIT_SECONDS``; and a true run of bad ticks blocks nothing for ever."""
SAY_AGAIN_SECONDS: Final = 60.0
IDLE_SECONDS: Final = 10.0
"""Without a tick for so long, the store is asked for a sign of life."""

log = structlog.get_logger()


class Pump:
    """Carries batches from a channel into one sink. ``queue`` is the channel's other end, asked only for its level."""

    def __init__(
        self,
        sink: Sink,
        batches: WeightedReceiver[Batch],
        queue: WeightedSender[Batch],
        *,
        rejects: RejectBook,
        wall_ms: Callable[[], int],
        rng: random.Random,
    ) -> None:
        self.sink = sink
        self._batches = batches
        self.queue = queue
        self._rejects = rejects
        self._wall_ms = wall_ms
        self._rng = rng
        self._log = log.bind(store=sink.name)
        self._parts: list[Batch] = []
        self._unclear = False
        self._connected = False
        self._away_since: float | None = None
        """When it was asked for a sign of life that has not come yet: ticks may wait in the queue, and nobody looks."""
        self._say_again = 0.0
        self._said_away = True
        """The log's last word about this store is that it is away (as it is at the start)."""
        self._error: StoreError | None = None
        self._error_ms: int | None = None
        self._delivered = self._expired = self._set_aside = self._retries = self._dropped = 0
        self._in_a_row = 0
        """Ticks set aside since the last one that the store took."""
        self._set_aside_ms: int | None = None
        self._last_seq: int | None = None
        self._delivered_ms: int | None = None
        self._dropped_ms: int | None = None

    def offer(self, batch: Batch) -> None:
        """Queue a batch for this sink, or, if its queue is full, drop it and count. Never waits."""
        if self.queue.offer(batch):
            return
        if self._dropped_ms is None or self._wall_ms() - self._dropped_ms > SAY_AGAIN_SECONDS * 1000:
            self._log.error("queue full: ticks are being dropped for this store", dropped_before=self._dropped)
        self._dropped += len(batch)
        self._dropped_ms = self._wall_ms()

    async def run(self) -> None:
        """Until the channel is closed and everything in it is settled; then close the sink. Cancelling it abandons
        what is left, which ``snapshot().waiting_ticks`` then tells.
        """
        self._unclear = bool(self._parts)
        self._away_since = self._away_since or trio.current_time()
        try:
            await self._open()
            while True:
                await self._settle()
                with trio.move_on_after(IDLE_SECONDS) as idle:
                    try:
                        taken = await self._batches.receive_some(MOST_TICKS)
                    except trio.EndOfChannel:
                        break
                    self._parts = [Batch.joined(taken)]
                if idle.cancelled_caught:
                    await self._check()
        finally:
            self._connected = False
            with trio.CancelScope(shield=True):  # a sink's aclose never waits for its server
                await self.sink.aclose()

    async def _open(self) -> None:
        """Connect, trying for ever."""
        waits = self._waits()
        while not self._connected:
            try:
                await self.sink.open()
            except StoreError as why:
                await self._away(why, next(waits))
            else:
                self._connected = True
                self._away_since = None
                if self._said_away:
                    self._log.info("connected to the store", **self.sink.facts().about)
                    self._said_away = False

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

    async def _settle(self) -> None:
        """Get an answer from the store for every tick in ``_parts``."""
        waits = self._waits()
        while self._parts:
            try:
                await self._step(self._parts[-1])
            except RowsRefused as why:
                await self._refused(self._parts.pop(), why)
            except AlreadyHeld as why:
                self._unclear = True
                self._note(why)
                await trio.sleep(next(waits))
            except StoreError as why:
                self._unclear = True
                self._connected = False
                self._retries += 1
                await self._away(why, next(waits))
                await self._open()
            else:
                self._parts.pop()
                waits = self._waits()

    async def _step(self, part: Batch) -> None:
        if self._unclear:
            held = await self.sink.held(part)
            self._answered(part, delivered=len(held), expired=0)
            part = self._parts[-1] = part.without(held)
            self._unclear = False
        if part:
            written = await self.sink.write(part)
            self._answered(part, delivered=written.delivered, expired=written.expired)
        self._away_since = None

    def _answered(self, part: Batch, *, delivered: int, expired: int) -> None:
        self._delivered += delivered
        self._expired += expired
        if delivered:
            self._in_a_row = 0
            self._last_seq = part.last
            self._delivered_ms = self._wall_ms()

    async def _refused(self, part: Batch, why: RowsRefused) -> None:
        if len(part) > 1:
            left, right = part.halves()
            self._parts += [right, left]
            return
        tick = part.ticks[0]
        self._set_aside += 1
        self._set_aside_ms = self._wall_ms()
        self._in_a_row += 1
        raw = evidence(part.payloads[0].decode())
        self._log.error("tick set aside: the store refuses it", symbol=tick.symbol, seq=tick.seq, why=str(why))
        self._rejects.enter(
            [Reject(self.sink.name, "refused_by_store", str(why), raw, self._wall_ms(), tick.symbol, tick.seq)]
        )
        if self._in_a_row % REFUSED_IN_A_ROW == 0:
            message = f"it refused the last {self._in_a_row} ticks and took none: {why}"
            await self._away(StoreMisconfigured(message), MISCONFIGURED_WAIT_SECONDS)

    async def _away(self, why: StoreError, wait: float) -> None:
        if self._away_since is None:
            self._away_since = trio.current_time()
        if str(why) != str(self._error) or trio.current_time() >= self._say_again:
            self._say_again = trio.current_time() + SAY_AGAIN_SECONDS
            self._said_away = True
            self._log.warning("store not available, trying again", why=str(why), waiting_ticks=self.queue.held)
        self._note(why)
        await trio.sleep(MISCONFIGURED_WAIT_SECONDS if isinstance(why, StoreMisconfigured) else wait)

    def _note(self, why: StoreError) -> None:
        self._error, self._error_ms = why, self._wall_ms()

    def _waits(self) -> Iterator[float]:
        return backoff(FIRST_WAIT_SECONDS, MOST_WAIT_SECONDS, self._rng)

    def snapshot(self) -> SinkSnapshot:
        """As of now."""
        facts = self.sink.facts()
        in_hand = sum(map(len, self._parts))
        oldest = self._parts[-1].ticks[0].received_ms if in_hand else None
        behind = [0.0]
        if oldest is not None:
            behind.append((self._wall_ms() - oldest) / 1000)
        if self._away_since is not None:
            behind.append(trio.current_time() - self._away_since)
        return SinkSnapshot(
            name=self.sink.name,
            connected=self._connected,
            behind_seconds=max(behind),
            waiting_ticks=in_hand + self.queue.held,
            delivered=self._delivered,
            expired=self._expired,
            set_aside=self._set_aside,
            last_set_aside_ms=self._set_aside_ms,
            dropped=self._dropped,
            last_dropped_ms=self._dropped_ms,
            retries=self._retries,
            last_seq=self._last_seq,
            last_delivered_ms=self._delivered_ms,
            last_error=str(self._error) if self._error else None,
            last_error_ms=self._error_ms,
            needs_operator=not self._connected and isinstance(self._error, StoreMisconfigured),
            about=facts.about,
            complaints=facts.complaints,
        )
