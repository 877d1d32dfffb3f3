"""Normalise and judge: from Polygon's events to numbered ticks, or to rejects with a reason each.

Synchronous and without IO. State per symbol: the last accepted mid (the reference for jumps), the newest timestamp,
and the last accepted tick (to know an exact repeat). A tick is never held back: it goes on, marked if unusual, or
it is rejected at once. A slow feed or a wrong clock is no tick's fault: it shows in the snapshot's ``skew_ms``. Where
the clock is so wrong that every tick is refused for its time, what was refused counts as not received.
"""

import math
import statistics
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from typing import Final

from polygon_live import wire
from polygon_live.calendar import Sessions, trading_day
from polygon_live.habit import SHORT_MS
from polygon_live.histogram import DELAY_SECONDS, Histogram
from polygon_live.model import (
    EVENT_BACKFILL,
    EVENT_QUOTE,
    SOURCE_LIVE,
    SOURCE_REST,
    Interruption,
    Reject,
    Tick,
    canonical_symbol,
    evidence,
)
from polygon_live.operational import ALL_PAIRS, Limits
from polygon_live.quotes import (
    BPS,
    EXCHANGES,
    LEAST_PRICE,
    MICROSECONDS_FROM,
    MOST_PRICE,
    SECONDS_BELOW,
    content_fault,
    exchange,
    exchange_fault,
    mid_of,
    repeats,
    spread_of,
)
from polygon_live.status import ValidatorSnapshot
from polygon_live.track import Track

SKEW_WINDOW: Final = 255
AHEAD_MS: Final = 5000
"""A newest timestamp so far ahead of the clock is doubted: it was wrong if the ticks after it deny it."""
MOST_PAIRS: Final = 5000
"""If all pairs are collected: Polygon has some 1,750."""
NO_LONGER: Final = "no longer collected"
UNTIMELY: Final = frozenset({"timestamp_future", "timestamp_old"})
SO_MANY_UNTIMELY: Final = 3
"""In a row, of all symbols: then it is rather the clock that is wrong."""


class Validator:
    """Judges events one by one, in the order in which they came.

    ``now_ms`` is the collector's clock (Unix ms). ``first_seq`` is the number of the first accepted tick.
    """

    def __init__(self, symbols: Collection[str], limits: Limits, *, now_ms: Callable[[], int], first_seq: int) -> None:
        self._tracks: dict[str, Track] = {}
        self._by_pair: dict[str, Track] = {}
        self._left: frozenset[str] = frozenset()
        """Collected until lately: what still comes of them was on its way."""
        self._heard = -math.inf
        self.collect(symbols, limits)
        self._now_ms = now_ms
        self._skews: deque[int] = deque(maxlen=SKEW_WINDOW)
        self._quoted_ms: int | None = None
        self._untimely: set[str] = set()
        """The symbols of what was rejected for its time since the last accepted tick; so are the next two."""
        self._untimely_in_a_row = 0
        self._told: set[str] = set()
        """Those of them that ``untimely`` has told."""
        self._ignored: Counter[str] = Counter()
        self.last_seq = first_seq - 1
        self.accepted = 0
        """How many ticks were numbered, live or not."""
        self._events = 0
        self._delay = Histogram(DELAY_SECONDS)

    def collect(self, symbols: Collection[str], limits: Limits) -> None:
        """From now on these, or ``ALL_PAIRS`` alone. Symbols that stay keep all that is known of them."""
        self._limits = limits
        self._any = ALL_PAIRS in symbols
        known = self._tracks
        if self._any:
            self._left = frozenset()
            return
        self._left = self._left.union(known).difference(symbols)
        self._tracks = {symbol: known.get(symbol) or Track(symbol) for symbol in symbols}
        self._by_pair = {pair: track for pair, track in self._by_pair.items() if track.symbol in self._tracks}

    def judge(self, frames: Sequence[wire.Frame], heard: float) -> tuple[list[Tick], list[Reject]]:
        """The ticks of these frames in order, numbered, and the rejects. ``heard`` is the time on the caller's clock,
        kept per symbol for ``heard()``. Never raises, whatever the frames hold.
        """
        ticks: list[Tick] = []
        rejects: list[Reject] = []
        now_ms = self._now_ms()
        for frame in frames:
            raws: Sequence[str] | None = None
            beyond = 0
            events = wire.decode(frame.data)
            self._events += len(events)
            for n, event in enumerate(events):
                if isinstance(event, wire.Quote):
                    judged = self._judge_quote(event, frame.received_ms, now_ms, heard)
                    if isinstance(judged, Tick):
                        ticks.append(judged)
                    elif judged is None:
                        self._ignored[NO_LONGER] += 1
                    else:
                        raws = raws or wire.elements(frame.data) or ()
                        rejects.append(_reject(*judged, raws[n], frame.received_ms))
                elif event is wire.BEYOND:
                    beyond += 1
                elif isinstance(event, wire.Undecodable):
                    rejects.append(_reject(event.reason, event.detail, None, event.raw, frame.received_ms))
                elif not isinstance(event, wire.Status):
                    self._ignored[type(event).__name__] += 1
            if beyond:
                detail = f"beside {wire.MOST_BAD} elements of this frame, {beyond} more can't be read"
                rejects.append(_reject("bad_frame", detail, None, wire.beginning(frame.data), frame.received_ms))
        self._delay.add(Counter([t.received_ms - t.timestamp_ms for t in ticks]), now_ms / 1000, scale=0.001)
        return ticks, rejects

    def go_on_after(self, seq: int) -> None:
        """Number what comes next above this one: some store has numbers up to it."""
        self.last_seq = max(self.last_seq, seq)

    def judge_backfill(
        self, symbol: str, quotes: Sequence[wire.Quote | wire.Undecodable], received_ms: int
    ) -> tuple[list[Tick], list[Reject]]:
        """The same for quotes of the past, all of one symbol, which need not be one of those that are collected now.

        Price, spread and unit are judged, not age, repeats, jumps and lateness: of the past there is nothing that a
        quote could be compared with. It is no reference for live ones either, and counts among them only by its number.
        """
        ticks: list[Tick] = []
        rejects: list[Reject] = []
        for quote in quotes:
            if isinstance(quote, wire.Undecodable):
                rejects.append(_reject(quote.reason, quote.detail, symbol, quote.raw, received_ms))
                continue
            refused = content_fault(quote, self._limits.max_spread_bps) or exchange_fault(quote)
            if refused is not None:
                rejects.append(_reject(*refused, symbol, wire.encode([quote])[1:-1], received_ms))
                continue
            market = None if quote.x is None else exchange(quote.x)
            mid, spread, t, seq = mid_of(quote), spread_of(quote), quote.t, self._number()
            past = (SOURCE_REST, EVENT_BACKFILL, seq, received_ms)
            ticks.append(Tick(symbol, quote.b, quote.a, mid, spread, t, t, market, *past))
        return ticks, rejects

    def heard(self, symbol: str) -> float:
        """When the symbol's last event was judged, or of ``ALL_PAIRS`` that of any, on the clock of ``judge``'s
        callers; -inf if never.
        """
        if symbol == ALL_PAIRS:
            return self._heard
        track = self._tracks.get(symbol)
        return -math.inf if track is None else track.heard

    def untimely(self) -> Interruption | None:
        """Quotes are missed because a clock is wrong: of which symbols, each told once until that has ended."""
        if self._untimely_in_a_row < SO_MANY_UNTIMELY or self._untimely <= self._told:
            return None
        symbols = tuple(sorted(self._untimely - self._told))
        self._told.update(symbols)
        return Interruption("clock", "rejected for their time: this machine's clock was wrong, or Polygon's", symbols)

    def missed(self) -> None:
        """Nobody listened for a while: what comes next tells nothing of how often a symbol ticks."""
        for track in self._tracks.values():
            track.habit.missed(track.newest_ms)

    def usual(self, symbol: str, opened_ms: int) -> float | None:
        """The longest pause between two ticks of the symbol lately, in seconds; None: it is not known (yet). Its market
        opened at ``opened_ms`` (Unix ms).
        """
        track = self._tracks.get(symbol)
        now_ms = self._now_ms()
        return None if track is None else track.habit.usual(now_ms, max(opened_ms, trading_day(now_ms)))

    def snapshot(self, sessions: Sessions) -> ValidatorSnapshot:
        """As of now; ``sessions`` tells whose market is open."""
        now_ms = self._now_ms()
        begun_ms = trading_day(now_ms)
        tracks = self._tracks.values()
        newest = max((t.tick for t in tracks if t.tick is not None), key=lambda tick: tick.seq, default=None)
        return ValidatorSnapshot(
            accepted=self.accepted,
            ignored=dict(self._ignored),
            last_seq=newest.seq if newest else None,
            last_accepted_ms=newest.received_ms if newest else None,
            skew_ms=statistics.median(self._skews) if self._skews else None,
            symbols=tuple(t.snapshot(sessions(t.symbol, now_ms), begun_ms, now_ms) for t in tracks),
            events=self._events,
            delay=self._delay.spread(now_ms / 1000),
            last_quote_ms=self._quoted_ms,
        )

    def _judge_quote(
        self, quote: wire.Quote, received_ms: int, now_ms: int, heard: float
    ) -> Tick | tuple[str, str, str | None] | None:
        """The tick, or the reason to reject, its sentence, and the symbol if it is one of ours; None if it was until
        lately.
        """
        track = self._by_pair.get(quote.p) or self._find(quote.p)
        if track is None:
            if _symbol(quote.p) in self._left:
                return None
            return "unknown_pair", f"not among the symbols that are collected: the pair {quote.p[:40]!r:.40}", None
        track.heard = self._heard = heard
        self._quoted_ms = received_ms
        if self._is_usual(quote, track, now_ms):
            self._skews.append(received_ms - quote.t)
            track.candidates = 0
        elif (refused := self._fault(quote, track, received_ms, now_ms)) is not None:
            track.rejected += 1
            track.refused_in_a_row += refused[0] != "repeat"
            if refused[0] in UNTIMELY:
                self._untimely.add(track.symbol)
                self._untimely_in_a_row += 1
            return *refused, track.symbol
        return self._accept(quote, track, received_ms)

    def _find(self, pair: str) -> Track | None:
        """Remembers only pairs that are collected: a feed of nonsense must not fill the memory."""
        symbol = _symbol(pair)
        track = self._tracks.get(symbol)
        if track is None and symbol and self._any and len(self._tracks) < MOST_PAIRS:
            track = self._tracks[symbol] = Track(symbol)
        if track is not None:
            self._by_pair[pair] = track
        return track

    def _is_usual(self, quote: wire.Quote, track: Track, now_ms: int) -> bool:
        """Whether it passes every test of ``_fault``, as nearly all do: in one expression they take half as long. False
        is no verdict.
        """
        bid, ask, t, x, mid, last, limits = quote.b, quote.a, quote.t, quote.x, track.mid, track.tick, self._limits
        return (
            LEAST_PRICE <= bid <= ask <= MOST_PRICE
            and (ask - bid) / (ask + bid) * 2 * BPS <= limits.max_spread_bps
            and SECONDS_BELOW <= t < MICROSECONDS_FROM
            and now_ms - limits.max_age_seconds * 1000 <= t <= now_ms + limits.max_future_seconds * 1000
            and isinstance(x, int)
            and 0 <= x < EXCHANGES
            and last is not None
            and (t != last.timestamp_ms or bid != last.bid or ask != last.ask or x != last.exchange)
            and mid is not None
            and mid / limits.max_price_factor < (bid + ask) / 2 < mid * limits.max_price_factor
        )

    def _fault(self, quote: wire.Quote, track: Track, received_ms: int, now_ms: int) -> tuple[str, str] | None:
        """The reason to reject and its sentence, or None."""
        refused = content_fault(quote, self._limits.max_spread_bps)
        if refused is not None:
            return refused
        limits, t = self._limits, quote.t
        self._skews.append(received_ms - t)  # before the limits: a clock that is hours off must show too
        if t > now_ms + limits.max_future_seconds * 1000:
            return "timestamp_future", f"the timestamp is {(t - now_ms) / 1000:.0f} s ahead of the collector's clock"
        if t < now_ms - limits.max_age_seconds * 1000:
            return "timestamp_old", f"the timestamp is {(now_ms - t) / 3_600_000:.1f} h old; the table keeps 72 h"
        refused = exchange_fault(quote)
        if refused is not None:
            return refused
        if repeats(quote, track.tick):
            return "repeat", "the same pair, exchange, time, bid and ask as the tick before"
        return self._factor_fault((quote.b + quote.a) / 2, track)

    def _factor_fault(self, mid: float, track: Track) -> tuple[str, str] | None:
        """A decimal shift. Ticks that keep agreeing with each other instead are a new price, and become the anchor."""
        factor = self._limits.max_price_factor
        if track.mid is None or track.mid / factor < mid < track.mid * factor:
            track.candidates = 0
            return None
        agrees = track.candidates and abs(mid / track.candidate - 1) * BPS <= self._limits.reanchor_agreement_bps
        track.candidates = track.candidates + 1 if agrees else 1
        track.candidate = mid
        if track.candidates >= self._limits.reanchor_ticks:
            track.candidates = 0
            return None
        return "price_factor", f"the price {mid:g} is more than {factor:g} times off the last one, {track.mid:g}"

    def _denied(self, track: Track, received_ms: int) -> bool:
        """Whether the newest timestamp was a wrong one: one wrong hour must not make every tick of it late, nor leave a
        price of then as the reference.
        """
        if track.newest_ms - received_ms <= AHEAD_MS:
            return False
        track.denials += 1
        return track.denials >= self._limits.reanchor_ticks

    def _accept(self, quote: wire.Quote, track: Track, received_ms: int) -> Tick:
        t, mid, newest_ms, reference = quote.t, mid_of(quote), track.newest_ms, track.mid
        suspect = reference is not None and abs(mid / reference - 1) * BPS > self._limits.suspect_jump_bps
        late = t < newest_ms and not self._denied(track, received_ms)
        if late:
            track.late += 1
        else:
            if t - newest_ms >= SHORT_MS:
                track.habit.paused(newest_ms, t)
            track.newest_ms = t
            track.denials = 0
            track.mid = mid
        if suspect:
            track.suspect += 1
        track.accepted += 1
        track.refused_in_a_row = 0
        if self._untimely_in_a_row:
            self._untimely_in_a_row = 0
            self._untimely.clear()
            self._told.clear()
        bid, ask, x, seq = quote.b, quote.a, quote.x, self._number()
        market = x if x is None or isinstance(x, int) else exchange(x)
        track.tick = tick = Tick(
            track.symbol, bid, ask, mid, spread_of(quote), t, t, market,
            SOURCE_LIVE, EVENT_QUOTE, seq, received_ms, late, suspect,
        )  # fmt: skip
        return tick

    def _number(self) -> int:
        self.accepted += 1
        self.last_seq += 1
        return self.last_seq


def _symbol(pair: str) -> str:
    """Nothing if it is no pair."""
    try:
        return canonical_symbol(pair)
    except ValueError:
        return ""


def _reject(reason: str, detail: str, symbol: str | None, raw: str, received_ms: int) -> Reject:
    return Reject("validate", reason, evidence(detail), evidence(raw), received_ms, symbol=symbol)
