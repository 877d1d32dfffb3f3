"""What no single state tells: how fast a counter rises, where a price came from, what became of the connection."""

from collections import deque
from collections.abc import Mapping
from typing import Final, Literal

import attrs

from polygon_live.status import FeedSnapshot

MOST_EVENTS: Final = 12


class Pace:
    """How fast counters rise, over the last ``editions`` looks at them."""

    def __init__(self, editions: int) -> None:
        self._looks: deque[tuple[int, Mapping[str, int]]] = deque(maxlen=editions + 1)

    def note(self, at_ms: int, counts: Mapping[str, int]) -> None:
        """Look at them."""
        self._looks.append((at_ms, counts))

    def per_second(self, name: str) -> float:
        """Since the oldest look that is remembered; 0 before there are two."""
        if not self._looks:
            return 0.0
        (since, before), (now, counts) = self._looks[0], self._looks[-1]
        if now <= since:  # the first look, or a clock that was set back
            return 0.0
        # One that was not there then, or is counted anew, counts from 0.
        began = before.get(name, 0)
        count = counts.get(name, 0)
        return (count - began if count >= began else count) / (now - since) * 1000


class Trends:
    """The last ``points`` prices of each symbol, at equal distances; None where it was not heard."""

    def __init__(self, points: int) -> None:
        self._points = points
        self.of: dict[str, deque[float | None]] = {}

    def note(self, prices: Mapping[str, float | None]) -> None:
        """One more point of each. Who is not in it is forgotten."""
        self.of = {symbol: self.of.get(symbol) or deque(maxlen=self._points) for symbol in prices}
        for symbol, price in prices.items():
            self.of[symbol].append(price)


@attrs.frozen
class Event:
    """Something that happened to the connection; the same again is one event with a count."""

    what: Literal["connected", "ended"]
    reason: str
    """One of the feed's short names; empty for ``connected``."""
    why: str
    """In words."""
    first_ms: int
    last_ms: int
    times: int = 1


class History:
    """What became of the connection since the start, from looking at the feed: the latest first."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._connections = 0
        self._endings: Mapping[str, int] = {}

    def note(self, feed: FeedSnapshot, at_ms: int) -> None:
        """Look at it. What came and went between two looks is counted all the same; its words are the latest."""
        for reason, count in feed.endings.items():
            if new := count - self._endings.get(reason, 0):
                at = feed.last_error_ms or at_ms
                self._enter(Event("ended", reason, feed.last_error or reason, at, at, new))
        if new := feed.connections - self._connections:
            at = feed.connected_since_ms or at_ms
            self._enter(Event("connected", "", f"to {feed.address}", at, at, new))
        self._connections, self._endings = feed.connections, feed.endings

    def _enter(self, event: Event) -> None:
        if self.events and (before := self.events[0]).what == event.what and before.reason == event.reason:
            self.events[0] = attrs.evolve(event, first_ms=before.first_ms, times=before.times + event.times)
        else:
            self.events.appendleft(event)
