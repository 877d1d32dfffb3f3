"""The truth: what Polygon sent, what was accepted of it, and what every power cut took."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import attrs
import msgspec

from polygon_live.model import EVENT_BACKFILL, Batch, canonical_symbol
from polygon_live.wire import Quote
from tests.simulation.plan import number_of

_quote: Final = msgspec.json.Decoder(Quote)


@attrs.define
class Accepted:
    """One tick that was numbered and taken in."""

    seq: int
    payload: bytes
    quote: int
    symbol: str
    timestamp_ms: int
    late: bool
    """Or fetched later: it says nothing of when its symbol was heard."""
    at: float
    written_at: float
    """When it was taken in last: after a power cut it may be got back, and be lost again to the next."""
    journaled: bool
    lost: bool = False
    """The journal has it no more: the power went before it was on the disk, or it never was in it."""
    once_lost: bool = False
    """It may have been got back since, but some store may have gone on without it."""
    spoilt: bool = False
    unjournaled: bool = False
    """It was not in the journal when it was taken in."""
    era: int = 0
    forgotten: bool = False
    """The folder was lost, and with it all that was known."""


@attrs.define
class Offered:
    """One quote of Polygon's, whether it reached anybody or not."""

    symbol: str
    timestamp_ms: int
    at: float
    quote: Quote
    muted: bool = False
    """It was kept back, and nothing said so."""


class Record:
    """Grows while the world runs; ``complaints`` is what it finds wrong on the way."""

    def __init__(self) -> None:
        self.accepted: dict[int, Accepted] = {}
        self.by_quote: dict[int, list[int]] = {}
        self.offered: dict[int, Offered] = {}
        self.rejected: set[int] = set()
        self.highest = 0
        self.before_fresh = 0
        """The highest number of the folders that were lost."""
        self.era = 0
        """How many folders were lost."""
        self.synced = 0
        """Everything up to this ``seq`` is on the disk, says the journal."""
        self.trouble = 0.0
        """For how many seconds the disk may have failed."""
        self.complaints: list[str] = []

    def offer(self, quotes: Iterable[Quote], at: float, muted: Iterable[str]) -> None:
        """Polygon has these."""
        for quote in quotes:
            symbol = canonical_symbol(quote.p)
            self.offered[number_of(quote.b)] = Offered(symbol, quote.t, at, quote, quote.p in muted)

    def reject(self, raws: Iterable[str]) -> None:
        """The validator refused these events."""
        for raw in raws:
            with suppress(msgspec.DecodeError):
                self.rejected.add(number_of(_quote.decode(raw).b))

    def accept(self, batch: Batch, at: float, *, journaled: bool) -> None:
        """A batch was taken in."""
        for tick, payload in zip(batch.ticks, batch.payloads, strict=True):
            known = self.accepted.get(tick.seq)
            if known is not None:
                if known.payload != payload:
                    self.complaints.append(f"the number {tick.seq} was used for {known.payload!r} and for {payload!r}")
                elif journaled and (known.lost or not known.journaled):
                    known.lost = False
                    known.journaled = True
                    known.written_at = at
                else:
                    self.complaints.append(f"{tick.seq} was taken in twice")
                continue
            if tick.seq <= self.highest:
                self.complaints.append(f"{tick.seq} is no new number: there was {self.highest}")
            self.highest = max(self.highest, tick.seq)
            quote = number_of(tick.bid)
            self.accepted[tick.seq] = Accepted(
                tick.seq,
                payload,
                quote,
                tick.symbol,
                tick.timestamp_ms,
                tick.late or tick.event_type == EVENT_BACKFILL,
                at,
                at,
                journaled,
                once_lost=not journaled,
                unjournaled=not journaled,
                era=self.era,
            )
            self.by_quote.setdefault(quote, []).append(tick.seq)

    def missed(self, most: int, before: float) -> list[Quote]:
        """Some quotes of one symbol, sent before that moment, that the collector does not know."""
        known = self.by_quote.keys() | self.rejected
        unknown = [offered.quote for n, offered in self.offered.items() if n not in known and offered.at < before]
        return [quote for quote in unknown if quote.p == unknown[0].p][:most]

    def last_is_in(self, before: float) -> bool:
        """Whether the newest quote of those that were sent by then was accepted."""
        number = max((n for n, offered in self.offered.items() if offered.at <= before), default=None)
        return number in self.by_quote

    def spoil(self, first: int, last: int) -> None:
        """The journal has these no more: who has not got them yet may have to do without."""
        for seq, one in self.accepted.items():
            if first <= seq <= last:
                one.once_lost = one.spoilt = True

    def forget(self) -> int:
        """The folder is lost, and with it the knowledge of which numbers were used."""
        for one in self.accepted.values():
            one.forgotten = one.lost = True
        self.before_fresh, self.highest, self.synced = max(self.before_fresh, self.highest), 0, 0
        self.era += 1
        return len(self.accepted)

    def reopened(self, tail: int, died_at: float, window: float | None) -> int:
        """A journal with this tail is what is left. ``window``: how many seconds a power cut may take; None: no power
        was cut, so nothing may be missing. Returns how many are lost.
        """
        lost = 0
        for one in self.accepted.values():
            if one.lost or (one.journaled and one.seq <= tail):
                continue
            one.lost = one.once_lost = True
            lost += 1
            if not one.journaled:
                continue
            if window is None:
                self.complaints.append(f"{one.seq} was in the journal, nothing but the process died, and it is gone")
            elif one.seq <= self.synced or one.written_at < died_at - window - self.trouble:
                self.complaints.append(
                    f"{one.seq} was taken in {died_at - one.written_at:.1f} s before the power cut, what was synced "
                    f"goes up to {self.synced}, and it is gone"
                )
        return lost
