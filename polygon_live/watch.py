"""Which symbols should be ticking and are not, and what to do about each: decided here, done in feed.py.

A symbol that was asked for must be acknowledged within ``ACK_SECONDS`` and, while its market is open, tick at least
every ``MUTE_SECONDS``. One that does not is subscribed anew (after an unsubscribe: Polygon never answers a plain
repeat), then the connection is made anew, once, then it is reported and left: the others go on. A tick undoes it all,
but for one symbol the connection is not made anew twice an hour: that costs the others more than it may help.
"""

import math
from collections.abc import Callable, Collection, Iterable
from typing import Final

import attrs

from polygon_live.calendar import Sessions

ACK_SECONDS: Final = 10.0
MUTE_SECONDS: Final = 300.0
"""The longest silence in the real files is 156 s (USDJPY on a New Year's Day); metals are unverified."""
RECONNECT_AGAIN_SECONDS: Final = 3600.0
LOOK_AGAIN_SECONDS: Final = 60.0
"""Markets open while nobody speaks: look at least this often."""


@attrs.frozen
class Decision:
    """What to do now, and when to ask again (on the clock of the caller)."""

    resubscribe: tuple[str, ...]
    reconnect: tuple[str, ...]
    report: tuple[str, ...]
    ask_again: float


@attrs.define
class _Symbol:
    asked_at: float = -math.inf
    resubscribed: bool = False
    reconnected: bool = False
    reconnected_at: float = -math.inf
    reported: bool = False


class SymbolWatch:
    """Lives as long as the feed: whether a reconnect was tried for a symbol outlives the connection.

    ``heard`` tells when a symbol's last event came (caller's clock, -inf for never); ``wall_ms`` is Unix time, for the
    calendar.
    """

    def __init__(
        self, symbols: Iterable[str], heard: Callable[[str], float], wall_ms: Callable[[], int], sessions: Sessions
    ) -> None:
        self._symbols = {s: _Symbol() for s in symbols}
        self._heard = heard
        self._wall_ms = wall_ms
        self._sessions = sessions

    def subscribed(self, now: float) -> None:
        """A new connection has just asked for every symbol."""
        for state in self._symbols.values():
            state.asked_at = now
            state.resubscribed = False

    def reconnecting(self, now: float) -> None:
        """The connection is being made anew because nothing came: it counts for every symbol."""
        for state in self._symbols.values():
            state.reconnected, state.reconnected_at = True, now

    def decide(self, acknowledged: Collection[str], now: float) -> Decision:
        """What is due at ``now``. Taking the decision counts as carrying it out."""
        wall_ms = self._wall_ms()
        resubscribe, reconnect, report = [], [], []
        ask_again = now + LOOK_AGAIN_SECONDS
        for symbol, state in self._symbols.items():
            due = self._due(symbol, state, acknowledged=symbol in acknowledged, now=now, wall_ms=wall_ms)
            if due > now:
                ask_again = min(ask_again, due)
            elif not (state.resubscribed or state.reconnected):
                state.resubscribed = True
                state.asked_at = now
                resubscribe.append(symbol)
                ask_again = min(ask_again, now + ACK_SECONDS)
            elif not state.reconnected and now - state.reconnected_at >= RECONNECT_AGAIN_SECONDS:
                reconnect.append(symbol)
            elif not state.reported:
                state.reported = True
                report.append(symbol)
        for symbol in reconnect:
            self._symbols[symbol].reconnected, self._symbols[symbol].reconnected_at = True, now
        return Decision(tuple(resubscribe), tuple(reconnect), tuple(report), ask_again)

    def silent(self) -> tuple[str, ...]:
        """Symbols that were reported and have not ticked since."""
        return tuple(s for s, state in self._symbols.items() if state.reported and self._heard(s) < state.asked_at)

    def _due(self, symbol: str, state: _Symbol, *, acknowledged: bool, now: float, wall_ms: int) -> float:
        heard = self._heard(symbol)
        if heard > state.asked_at:  # a tick proves the subscription, whatever was acknowledged
            state.resubscribed = state.reconnected = state.reported = False
        elif not acknowledged:
            return state.asked_at + ACK_SECONDS
        opened_ms = self._sessions(symbol, wall_ms)
        if opened_ms is None:
            return math.inf
        opened = now - (wall_ms - opened_ms) / 1000
        return max(heard, state.asked_at, opened) + MUTE_SECONDS
