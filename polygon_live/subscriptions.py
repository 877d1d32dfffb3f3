"""What is wanted of Polygon against what this connection was asked for: the difference is the next message.

Without IO: ``next`` says what to send, ``acknowledge`` takes in what Polygon says of it. Rules of its state:

- ``asked`` and ``acknowledged`` are of one connection: Polygon remembers nothing across two.
- Who asks for the next message sends it. What is wanted may change between any two messages: the last wish wins, and
  what was wished in between is never sent.
- First what is new, then what is to be asked for anew (an unsubscribe, for a plain repeat is never answered; then it is
  new), last what is no longer wanted: whoever goes from a list to all pairs, or back, hears his symbols all the time.
  For the same reason a list is kept until all pairs are acknowledged.
"""

from collections.abc import Iterable
from typing import Final

import attrs

from polygon_live import wire
from polygon_live.model import canonical_symbol, pair_of
from polygon_live.operational import ALL_PAIRS

AT_ONCE: Final = 200
"""Topics in one message, some 2 KB: no limit is documented, and clients send far less."""


@attrs.frozen
class Ask:
    """One message: to subscribe to these symbols, or to unsubscribe."""

    subscribe: bool
    symbols: tuple[str, ...]

    @property
    def text(self) -> str:
        """What to send."""
        pairs = [ALL_PAIRS if s == ALL_PAIRS else pair_of(s) for s in self.symbols]
        return wire.subscribe(pairs) if self.subscribe else wire.unsubscribe(pairs)


class Subscriptions:
    """``symbols`` are wanted at first; ``ALL_PAIRS`` is one like any other."""

    def __init__(self, symbols: Iterable[str]) -> None:
        self._wanted = dict.fromkeys(symbols)
        self._anew: dict[str, None] = {}
        self.asked: dict[str, None] = {}
        """In the order in which they were asked for."""
        self.acknowledged: set[str] = set()

    def want(self, symbols: Iterable[str]) -> None:
        """These, and no others."""
        self._wanted = dict.fromkeys(symbols)

    def ask_anew(self, symbols: Iterable[str]) -> None:
        """For these something went wrong."""
        self._anew.update(dict.fromkeys(symbols))

    def forget(self) -> None:
        """The connection is gone."""
        self._anew.clear()
        self.asked.clear()
        self.acknowledged.clear()

    def due(self) -> Ask | None:
        """The message that should be sent now; None if all is as it is wanted."""
        if new := self._first(s for s in self._wanted if s not in self.asked):
            return Ask(subscribe=True, symbols=new)
        if anew := self._first(s for s in self._anew if s in self.asked and s in self._wanted):
            return Ask(subscribe=False, symbols=anew)
        if ALL_PAIRS in self._wanted and ALL_PAIRS not in self.acknowledged:
            return None
        if gone := self._first(s for s in self.asked if s not in self._wanted):
            return Ask(subscribe=False, symbols=gone)
        return None

    def next(self) -> Ask | None:
        """The same, and from now on it counts as sent."""
        ask = self.due()
        if ask is None:
            return None
        for symbol in ask.symbols:
            self._anew.pop(symbol, None)
            if ask.subscribe:
                self.asked[symbol] = None
            else:
                del self.asked[symbol]
                self.acknowledged.discard(symbol)
        return ask

    def acknowledge(self, message: str) -> None:
        """Polygon says ``subscribed to: C.EUR/USD``, or ``unsubscribed``; anything else means nothing here."""
        said, _, topic = message.partition(":")
        symbol = _symbol(topic.strip())
        if "unsubscribed" in said.casefold():
            self.acknowledged.discard(symbol)
        elif "subscribed" in said.casefold() and symbol in self.asked:
            self.acknowledged.add(symbol)

    def missing(self) -> list[str]:
        """Asked for and not acknowledged, in the order in which they were asked for."""
        return [s for s in self.asked if s not in self.acknowledged]

    def complete(self) -> bool:
        """Whether everything that is wanted was asked for and acknowledged."""
        return self._wanted.keys() <= self.acknowledged

    def only_all(self) -> bool:
        """Whether all pairs are all that was asked for."""
        return len(self.asked) == 1 and ALL_PAIRS in self.asked

    @staticmethod
    def _first(symbols: Iterable[str]) -> tuple[str, ...]:
        return tuple(symbol for symbol, _ in zip(symbols, range(AT_ONCE), strict=False))


def _symbol(topic: str) -> str:
    """The symbol of a topic; nothing if it has none."""
    if topic == wire.topic(ALL_PAIRS):
        return ALL_PAIRS
    try:
        return canonical_symbol(topic)
    except ValueError:
        return ""
