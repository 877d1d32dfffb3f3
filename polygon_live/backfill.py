"""The filler: what was not received is fetched from Polygon's REST service, and what a store lacks of it is delivered.

It takes the entries of the gap ledger one by one, the oldest first, and what somebody asked for by hand behind all
others, however long it is. It reads the service's answer along time. For each stretch it asks the store what it has
(``matching``), once the store has everything that was accepted before: so what came live in the same second, and what
another fill had delivered, perhaps before a crash, is not delivered again. An entry whose turn is in vain (the service
fails, the store is away or behind) comes again later, the others meanwhile.

The rules of its memory:

- An entry's answer is not asked for before its last second is over for ``SETTLE_MS``: live quotes of that second are
  still on their way, and the service has its own delay. Nor is an answer the last one, before ``LAG_MS`` are over,
  that lacks the quote by which the gap ended.
- ``needed`` is what the store must have before it is asked: everything that was accepted when the entry's turn first
  came, and everything that the filler had delivered since, for whichever entry.
- Nothing is called filled before the journal has it durably: the ledger would outlive what it speaks of.
- An entry that says ``filling`` at the start is one that a crash interrupted: open.
"""

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import Final, Protocol

import attrs
import structlog
import trio

from polygon_live import wire
from polygon_live.backoff import backoff
from polygon_live.calling import Call
from polygon_live.errors import JournalError, RestError, StoreError
from polygon_live.fillwords import by_hand, progress
from polygon_live.gap import EVERY_SYMBOL, Gap, State
from polygon_live.matching import Held, Holder, Missing
from polygon_live.rest import Rest
from polygon_live.status import FillerSnapshot

POLL_SECONDS: Final = 1.0
"""How soon a new entry is seen, and one that waits for a store looked at again."""
SETTLE_MS: Final = 5000
LAG_MS: Final = 120_000
"""For so long an answer without the quote that ended the gap shows that the service is not that far yet."""
EDGE_MS: Final = 60_000
"""A store's edge moves while it is asked, and while what it lacks is on its way."""
FIRST_WAIT_SECONDS: Final = 5.0
MOST_WAIT_SECONDS: Final = 300.0
LONGEST_AFTER_SECONDS: Final = 3600.0
"""A service that says so may be asked again later than we would, but within the hour."""
TELL_SECONDS: Final = 1.0
"""How often the ledger hears how far a fill is."""

log = structlog.get_logger()


class Entries(Protocol):
    """The ledger, as far as the filler goes. Both raise JournalError."""

    def gaps(self, *, states: Sequence[State], store: str | None) -> Sequence[Gap]:
        """Those in one of these states; ``store`` None: those that were not received."""

    def update(self, gap: Gap) -> Gap:
        """Change the entry of this id, durably."""


class Accepted(Protocol):
    """What became of quotes."""

    @property
    def ticks(self) -> int:
        """How many are ticks now."""

    @property
    def rejected(self) -> int:
        """How many were no good."""

    @property
    def last_seq(self) -> int:
        """Everything accepted so far, by whomever."""


Accept = Callable[[str, Sequence[wire.Quote | wire.Undecodable], int], Awaitable[Accepted]]
"""Symbol, quotes and when they were received, Unix ms. Raises trio.ClosedResourceError once nothing is accepted, and
JournalError if they are not in the journal."""


class _Waiting(Exception):
    """For a store that is not so far yet, or for an entry that comes first."""


@attrs.define
class _Work:
    """What is remembered of an entry from turn to turn."""

    gap: Gap
    needed: int
    waits: Iterator[float]
    not_before: float = 0.0
    reached: dict[str, int] = attrs.field(factory=dict)
    """By symbol the second from which on the answer is still to be read; None of it after the last."""
    refused: dict[str, str] = attrs.field(factory=dict)
    """By symbol why it can't be had."""
    compared: int = 0
    rejected: int = 0


class Filler:
    """``holders``: who can say what is missing, the preferred first, the last one without an end. ``last_accepted``:
    the last ``seq`` that was accepted, in this run or before. ``sync`` (``Journal.sync``) makes it durable.
    ``only``: the one entry to see to.
    """

    def __init__(
        self,
        *,
        rest: Rest,
        ledger: Entries,
        call: Call,
        sync: Callable[[], None],
        holders: Sequence[Holder],
        accept: Accept,
        last_accepted: Callable[[], int],
        symbols: Callable[[], Collection[str]],
        now_ms: Callable[[], int],
        rng: random.Random,
        only: int | None = None,
    ) -> None:
        self._rest = rest
        self._ledger = ledger
        self._call = call
        self._sync = sync
        self._holders = holders
        self._accept = accept
        self._last_accepted = last_accepted
        self._symbols = symbols
        self._now_ms = now_ms
        self._rng = rng
        self._only = only
        self._works: dict[int, _Work] = {}
        self._delivered_seq = 0
        self._at_work: _Work | None = None
        self._reached_s: int | None = None
        self._told_at = 0.0
        self._waiting: str | None = None
        self._error: tuple[str, int] | None = None
        self._ended: Counter[str] = Counter()
        self._compared = self._delivered = self._rejected = 0

    async def run(self) -> None:
        """Until nothing is accepted any more. Raises JournalError if the ledger can't be read or written; it may be
        called again then.
        """
        self._delivered_seq = self._last_accepted()  # if this is again: what became of the last quotes is not known
        try:
            while True:
                work = await self._next()
                if work is None:
                    await trio.sleep(POLL_SECONDS)
                else:
                    self._at_work, self._reached_s = work, None
                    await self._take(work)
                    self._at_work = None
        except trio.ClosedResourceError:
            log.debug("the filler ends: nothing is accepted any more")

    async def _next(self) -> _Work | None:
        """The entry whose turn it is."""
        return next(iter(await self._turns()), None)

    async def _turns(self) -> list[_Work]:
        """The entries that may have their turn now, in order."""
        gaps = await self._call(lambda: self._ledger.gaps(states=("open", "filling"), store=None))
        self._works = {gap.id: self._works[gap.id] for gap in gaps if gap.id in self._works}
        if self._only is not None:
            gaps = [gap for gap in gaps if gap.id == self._only]
        ready = [g for g in gaps if g.to_ms is not None and (g.to_ms // 1000 + 1) * 1000 + SETTLE_MS <= self._now_ms()]
        for gap in ready:
            if gap.id not in self._works:
                waits = backoff(FIRST_WAIT_SECONDS, MOST_WAIT_SECONDS, self._rng)
                self._works[gap.id] = _Work(gap, max(self._last_accepted(), gap.last_seq or 0), waits)
        works = [self._works[gap.id] for gap in sorted(ready, key=lambda g: (g.cause == "manual", g.from_ms, g.id))]
        return [work for work in works if work.not_before <= trio.current_time()]

    async def _take(self, work: _Work) -> None:
        """One turn."""
        symbols = self._symbols() if work.gap.symbol == EVERY_SYMBOL else (work.gap.symbol,)
        try:
            for symbol in symbols:
                if symbol not in work.refused:
                    await self._fill(work, symbol)
        except _Waiting as why:
            await self._postpone(work, f"waiting: {why}", POLL_SECONDS)
        except StoreError as why:
            await self._fail(work, f"waiting for what a store has: {why}")
        except RestError as why:
            await self._fail(work, str(why), why.after)
        except JournalError as why:
            await self._fail(work, f"waiting for the journal: {why}")
        except Exception:
            work.not_before = trio.current_time() + MOST_WAIT_SECONDS  # whatever it is, the others have their turn
            raise
        else:
            await self._end(work, symbols)

    async def _fill(self, work: _Work, symbol: str) -> None:
        gap = work.gap
        first_s = work.reached.get(symbol, gap.from_ms // 1000)
        last_s = (gap.to_ms or gap.from_ms) // 1000
        if first_s > last_s:
            return
        self._ready(work, first_s)
        if gap.state != "filling":
            await self._change(work, state="filling", detail="asking Polygon")
        compared = work.compared
        try:
            newest_s = await self._read(work, symbol, first_s, last_s)
        except RestError as why:
            if why.again:
                raise
            work.refused[symbol] = str(why)
            return
        if gap.last_seq is not None and newest_s < last_s and self._now_ms() < (last_s + 1) * 1000 + LAG_MS:
            work.reached.pop(symbol, None)
            work.compared = compared
            raise RestError("Polygon's record does not have the quote that ended the gap yet", again=True)
        work.reached[symbol] = last_s + 1

    async def _read(self, work: _Work, symbol: str, first_s: int, last_s: int) -> int:
        """The second of the last quote; 0 if there was none."""
        newest_s = 0
        missing, until_s = Missing(Held(Counter())), first_s
        async with self._rest.quotes(symbol, first_s, last_s) as answer:
            while (block := await answer.block()) is not None:
                lacking: list[wire.Quote | wire.Undecodable] = []
                for quote in block:
                    if isinstance(quote, wire.Undecodable):
                        lacking.append(quote)
                        continue
                    second = quote.t // 1000
                    if second >= until_s:
                        await self._deliver(work, symbol, lacking)
                        lacking = []
                        work.reached[symbol] = second
                        missing, until_s = await self._window(work, symbol, second, last_s + 1)
                    if missing.lacks(quote):
                        lacking.append(quote)
                    self._reached_s = newest_s = second
                await self._deliver(work, symbol, lacking)
                work.compared += len(block)
                self._compared += len(block)
                await self._tell(work, symbol)
        return newest_s

    async def _window(self, work: _Work, symbol: str, first_s: int, end_s: int) -> tuple[Missing, int]:
        """What the store has of the stretch that begins here, and before which second that ends."""
        holder = self._ready(work, first_s)
        first = await self._next()
        if work.gap.cause == "manual" and first is not None and first.gap.cause != "manual":
            raise _Waiting("what was missed otherwise is fetched first")
        until_s = min(first_s + holder.window_ms // 1000, end_s)
        return Missing(await holder.held(symbol, first_s * 1000, until_s * 1000)), until_s

    def _ready(self, work: _Work, first_s: int) -> Holder:
        """The store that has this second and everything that was accepted before."""
        age_ms = self._now_ms() - first_s * 1000 + EDGE_MS
        holder = next((h for h in self._holders if h.keeps_ms is None or age_ms <= h.keeps_ms), self._holders[-1])
        cursor, needed = holder.cursor(), max(work.needed, self._delivered_seq)
        if cursor is None:
            raise _Waiting(f"how far {holder.name} is is not known")
        if cursor < needed:
            raise _Waiting(f"{holder.name} is not as far as the last tick that was accepted")
        return holder

    async def _deliver(self, work: _Work, symbol: str, quotes: Sequence[wire.Quote | wire.Undecodable]) -> None:
        if not quotes:
            return
        try:
            accepted = await self._accept(symbol, quotes, self._now_ms())
        except JournalError:
            self._delivered_seq = self._last_accepted()  # the stores may get them all the same
            raise
        self._delivered_seq = accepted.last_seq
        self._delivered += accepted.ticks
        self._rejected += accepted.rejected
        work.rejected += accepted.rejected
        work.gap = attrs.evolve(work.gap, filled=work.gap.filled + accepted.ticks)

    # What the ledger hears ------------------------------------------------------------------------------------------

    async def _change(self, work: _Work, *, state: State, detail: str) -> None:
        changed = attrs.evolve(work.gap, state=state, detail=detail)
        work.gap = await self._call(lambda: self._ledger.update(changed))

    async def _tell(self, work: _Work, symbol: str) -> None:
        if self._reached_s is not None and trio.current_time() - self._told_at >= TELL_SECONDS:
            self._told_at = trio.current_time()
            await self._change(work, state="filling", detail=progress(symbol, self._reached_s, work.compared))

    async def _postpone(self, work: _Work, why: str, seconds: float) -> None:
        self._waiting = why
        work.not_before = trio.current_time() + seconds
        if (work.gap.state, work.gap.detail) != ("open", why):
            await self._change(work, state="open", detail=why)

    async def _fail(self, work: _Work, why: str, after: float | None = None) -> None:
        """Not this time."""
        self._error = (why, self._now_ms())
        log.warning("a gap can't be filled now, trying again", gap=work.gap.id, symbol=work.gap.symbol, why=why)
        await self._postpone(work, why, max(next(work.waits), min(after or 0.0, LONGEST_AFTER_SECONDS)))

    async def _end(self, work: _Work, symbols: Collection[str]) -> None:
        await self._call(self._sync)
        state: State
        if work.refused:
            state = "unfillable"
            several = len(symbols) > 1
            detail = "; ".join(f"{symbol}: {why}" if several else why for symbol, why in work.refused.items())
            detail += f"; when that is mended: {by_hand(work.gap, next(iter(work.refused)))}"
        elif work.compared == 0:
            state, detail = "empty", "Polygon has no quotes of this time"
        else:
            state, detail = "filled", f"{work.compared} quotes compared"
            detail += f", {work.rejected} of them rejected: see /rejects" if work.rejected else ""
        await self._change(work, state=state, detail=detail)
        gap = work.gap
        say = log.warning if state == "unfillable" else log.info
        say("gap settled", gap=gap.id, symbol=gap.symbol, state=state, delivered=gap.filled, detail=detail)
        self._waiting = None
        self._ended[state] += 1

    def snapshot(self) -> FillerSnapshot:
        """As of now."""
        why, when = self._error or (None, None)
        now = trio.current_time()
        return FillerSnapshot(
            gap=self._at_work.gap if self._at_work else None,
            reached_ms=self._reached_s * 1000 if self._at_work and self._reached_s is not None else None,
            waiting=self._waiting,
            retrying=sum(work.not_before > now for work in self._works.values()),
            last_error=why,
            last_error_ms=when,
            ended=dict(self._ended),
            compared=self._compared,
            delivered=self._delivered,
            rejected=self._rejected,
        )
