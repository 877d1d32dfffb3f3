"""One edition a second, rendered once for everybody who follows: in full for who comes, then what has changed.

Nobody waits for a follower. Who takes an edition late finds the present one, not a queue: what it missed in between is
in a full one. So what a follower costs is one reference, however slow it is.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Self

import attrs
import msgspec
import trio

from polygon_live.errors import JournalError
from polygon_live.gap import Gap
from polygon_live.page.memory import History, Pace, Trends
from polygon_live.page.symbols import Row, rows
from polygon_live.page.view import Ledger, parts
from polygon_live.status import State

EVERY_SECONDS: Final = 1.0
MINUTE: Final = 60
"""Editions over which the rate of a symbol is taken."""
STORE_EDITIONS: Final = 10
"""And that of a store."""
TREND_EDITIONS: Final = 3
TREND_POINTS: Final = 40
"""Two minutes, a point every three seconds."""
MOST_GAPS: Final = 8
"""Entries that are not settled, and as many that are."""
LEDGER_SECONDS: Final = 15.0
"""The ledger is read when its counts have changed, and this often at the least."""
MOST_FOLLOWERS: Final = 32


@attrs.define
class Edition:
    """What is known at one moment, each part encoded once."""

    number: int
    at_ms: int
    sampled: bool
    """Whether every trend has got one more point, which is the row's price."""
    parts: Mapping[str, msgspec.Raw]
    rows: Mapping[str, Row]
    trends: Mapping[str, Sequence[float | None]]
    change: bytes | None = None
    """Against the edition before; None: nobody followed."""
    _full: bytes | None = None

    @property
    def full(self) -> bytes:
        """Everything, rendered for the first who wants it."""
        if self._full is None:
            trends = {symbol: list(points) for symbol, points in self.trends.items()}
            self._full = self._event("full", {**self.parts, "symbols": self.rows, "trends": trends})
        return self._full

    def since(self, before: "Edition") -> bytes:
        """What has changed. Gone are symbols that are not collected any more."""
        changed: dict[str, Any] = {name: part for name, part in self.parts.items() if before.parts.get(name) != part}
        changed["symbols"] = {symbol: row for symbol, row in self.rows.items() if before.rows.get(symbol) != row}
        changed["gone"] = [symbol for symbol in before.rows if symbol not in self.rows]
        return self._event("change", changed)

    def _event(self, name: str, body: Mapping[str, Any]) -> bytes:
        """As server-sent events are written. JSON has no line ends in it."""
        data = msgspec.json.encode({"at_ms": self.at_ms, "sampled": self.sampled, **body})
        return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


class Board:
    """``read`` gathers the present state, ``gaps`` reads the ledger's latest entries (raises JournalError)."""

    def __init__(self, read: Callable[[], State], gaps: Callable[[int], Awaitable[Sequence[Gap]]]) -> None:
        self._read = read
        self._gaps = gaps
        self._ledger: Ledger = None
        self._history = History()
        self._pace = Pace(MINUTE)
        self._rates = Pace(STORE_EDITIONS)
        self._trends = Trends(TREND_POINTS)
        self.edition: Edition | None = None
        self.published = trio.Event()
        """Set with the next edition, and replaced."""
        self.followers = 0

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_ledger)
            while True:
                self._publish(self._read())
                await trio.sleep(EVERY_SECONDS)

    def follow(self) -> "Follower | None":
        """Somebody who looks; None if there are too many already."""
        return Follower(self) if self.followers < MOST_FOLLOWERS else None

    def _publish(self, state: State) -> None:
        self._history.note(state.feed, state.at_ms)
        self._pace.note(state.at_ms, {symbol.symbol: symbol.accepted for symbol in state.validator.symbols})
        counts = {sink.name: sink.delivered for sink in state.sinks}
        self._rates.note(state.at_ms, {**counts, "accepted": state.validator.accepted})
        before = self.edition
        number = before.number + 1 if before else 0
        now = dict(rows(state, self._pace))
        sampled = number % TREND_EDITIONS == 0
        if sampled:
            self._trends.note({symbol: price(row) for symbol, row in now.items()})
        encoded = {
            name: msgspec.Raw(msgspec.json.encode(part))
            for name, part in parts(state, self._ledger, self._history, self._rates).items()
        }
        edition = Edition(number, state.at_ms, sampled, encoded, now, self._trends.of)
        if before is not None and self.followers:
            edition.change = edition.since(before)
        self.edition = edition
        published, self.published = self.published, trio.Event()
        published.set()

    async def _keep_ledger(self) -> None:
        """Read it beside the editions: its thread may be busy, and nobody shall wait for it."""
        known, read_at = None, -LEDGER_SECONDS
        while True:
            await self.published.wait()
            counts = self.edition and self.edition.parts["gaps"]
            # Those parts hold the entries too, so that a change is seen once more after it has been read.
            if self.followers and (counts != known or trio.current_time() - read_at > LEDGER_SECONDS):
                try:
                    self._ledger = await self._gaps(MOST_GAPS)
                except JournalError as why:
                    self._ledger = str(why)
                known, read_at = counts, trio.current_time()


def price(row: Row) -> float | None:
    """The middle, for the trend; None while nobody hears the symbol."""
    if row.bid is None or row.ask is None or row.state in {"mute", "closed"}:
        return None
    return round((row.bid + row.ask) / 2, row.digits + 1)


class Follower:
    """An asynchronous iterator of events, from entering it to leaving it."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._seen: int | None = None

    async def __aenter__(self) -> Self:
        self._board.followers += 1
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._board.followers -= 1

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The present edition, as soon as it is another one than that taken last."""
        while (edition := self._board.edition) is None or edition.number == self._seen:
            await self._board.published.wait()
        follows = self._seen is not None and edition.number == self._seen + 1
        self._seen = edition.number
        return edition.change if follows and edition.change is not None else edition.full
