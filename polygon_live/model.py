"""The words that every part of the collector shares: symbol, tick, batch, reject.

Facts: `C` events have no size, no sequence number and no server time, and two different quotes may carry the same
pair and millisecond; so the collector numbers what it accepts (`Tick.seq`), and that number is the only key.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Final, Literal, Self

import msgspec

FOURTEEN_SYMBOLS: Final = (
    "EURUSD",
    "XAUUSD",
    "GBPUSD",
    "USDJPY",
    "AUDUSD",
    "USDCAD",
    "NZDUSD",
    "EURGBP",
    "EURJPY",
    "GBPJPY",
    "AUDJPY",
    "NZDJPY",
    "USDCHF",
    "XAGUSD",
)

SOURCE_LIVE: Final = "polygon_websocket"
EVENT_QUOTE: Final = "quote"
SOURCE_REST: Final = "polygon_rest"
EVENT_BACKFILL: Final = "quote_backfill"

UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)
"""What the decoding of foreign JSON may raise: no JSON, no UTF-8 or a number too long, nested too deep."""

_PAIR = re.compile(r"(?:C[:.])?([A-Z]{3})[/-]?([A-Z]{3})", re.IGNORECASE)


def canonical_symbol(name: str) -> str:
    """``EURUSD`` from any form in use: EURUSD, EUR/USD, EUR-USD, C:EURUSD, C.EUR/USD; upper or lower case.

    Raises ValueError for anything that is not two three-letter codes.
    """
    match = _PAIR.fullmatch(name)
    if match is None or not name.isascii():
        msg = f"{name!r} is not a currency pair; write it like EURUSD or EUR/USD"
        raise ValueError(msg)
    return (match[1] + match[2]).upper()


def pair_of(symbol: str) -> str:
    """The form Polygon sends and is subscribed with: ``EUR/USD`` for ``EURUSD``."""
    return f"{symbol[:3]}/{symbol[3:]}"


def is_metal(symbol: str) -> bool:
    """Gold, silver, platinum, palladium: ISO 4217 gives them XAU, XAG, XPT, XPD. They keep hours of their own."""
    return symbol.startswith(("XAU", "XAG", "XPT", "XPD"))


class Tick(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One accepted quote. Its JSON is the contract with the consumers on NATS and Kafka.

    Prices are in quote currency per unit of base currency, exactly the numbers that Polygon sent; ``mid`` and
    ``spread`` (ask − bid, price units, never pips) are rounded to 9 decimals. ``timestamp_ms`` and ``timestamp`` are
    the same number, Polygon's Unix milliseconds; ``received_ms`` is the collector's clock. ``late`` (older than the
    newest tick of its symbol) and ``suspect`` (an unusual jump) leave only when true.
    """

    symbol: str
    bid: float
    ask: float
    mid: float
    spread: float
    timestamp_ms: int
    timestamp: int
    exchange: int | None
    source: str
    event_type: str
    seq: int
    received_ms: int
    late: bool = False
    suspect: bool = False


class Batch(msgspec.Struct, frozen=True):
    """Ticks in ``seq`` order, each with its JSON, encoded once for NATS and Kafka alike.

    ``after`` is the last ``seq`` accepted before this batch: a reader that sees a jump knows that it missed something.
    """

    after: int
    ticks: Sequence[Tick]
    payloads: Sequence[bytes]

    def __len__(self) -> int:
        """How many ticks."""
        return len(self.ticks)

    @property
    def first(self) -> int:
        """The first ``seq``."""
        return self.ticks[0].seq

    @property
    def last(self) -> int:
        """The last ``seq``."""
        return self.ticks[-1].seq

    def halves(self) -> tuple[Self, Self]:
        """Two batches in order, to look for a tick that a store refuses."""
        middle = len(self.ticks) // 2
        left = type(self)(self.after, self.ticks[:middle], self.payloads[:middle])
        return left, type(self)(left.last, self.ticks[middle:], self.payloads[middle:])

    def beyond(self, seq: int) -> Self:
        """What is left after this ``seq``: nothing, a part, or all of it."""
        if seq < self.first:
            return self
        passed = bisect_right(self.ticks, seq, key=lambda tick: tick.seq)
        return type(self)(seq, self.ticks[passed:], self.payloads[passed:])

    @classmethod
    def of_payloads(cls, after: int, payloads: Sequence[bytes]) -> Self:
        """Read back from what was encoded. Raises msgspec.MsgspecError if that is no JSON of a tick."""
        return cls(after, [_tick.decode(payload) for payload in payloads], payloads)

    @classmethod
    def joined(cls, batches: "Sequence[Batch]") -> "Batch":
        """One batch from several that follow each other."""
        if len(batches) == 1:
            return batches[0]
        ticks = [t for b in batches for t in b.ticks]
        return cls(batches[0].after, ticks, [p for b in batches for p in b.payloads])


class Reject(msgspec.Struct, frozen=True):
    """Something that was received or accepted and did not go on, with the reason and the evidence.

    ``reason`` is one of a fixed set of short names (low cardinality: it labels a metric); ``detail`` is the sentence
    for people; ``raw`` is the event as it came, cut at ``RAW_LIMIT`` characters. ``stage`` is who refused it:
    ``validate`` or the name of a sink (then ``seq`` is set).
    """

    stage: str
    reason: str
    detail: str
    raw: str
    received_ms: int
    symbol: str | None = None
    seq: int | None = None


class Interruption(msgspec.Struct, frozen=True):
    """Travels among the frames: between those before it and those after it there was a time in which nobody listened to
    these symbols (None: to none of them). It weighs nothing, so it always finds room.

    ``cause`` is one of the causes of ``gap.py``.
    """

    cause: Literal["disconnect", "mute", "downtime", "overflow", "clock"]
    detail: str
    symbols: Sequence[str] | None = None

    def __len__(self) -> int:
        """Nothing."""
        return 0


RAW_LIMIT: Final = 2000


def evidence(raw: str) -> str:
    """The event as it came, made fit to be kept anywhere: cut at ``RAW_LIMIT``, no NUL and no lone surrogate."""
    return raw[:RAW_LIMIT].encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


_encoder = msgspec.json.Encoder()
_tick = msgspec.json.Decoder(Tick)


def encode(value: Any) -> bytes:
    """UTF-8 JSON of a tick or anything else made of msgspec structs and built-in types."""
    return _encoder.encode(value)
