"""Which symbols should be ticking and are not, and what to do about each: decided here, done in conversation.py.

A symbol that was asked for must be acknowledged within ``ACK_SECONDS`` and, while its market is open, tick at least
every ``MUTE_SECONDS``. One that does not is subscribed anew (after an unsubscribe: Polygon never answers a plain
repeat), then the connection is made anew, once, then it is reported and left: the others go on. A tick undoes it all,
but for one symbol the connection is not made anew twice an hour: that costs the others more than it may help.

A symbol that was added while the collector runs may be a typing error: Polygon acknowledges any. It has
``ADDED_SECONDS`` for its acknowledgement and its first tick; then it is told, and asked for anew once. Until it has
ticked the connection is never made anew for it.

All pairs are watched as one symbol, which ticks whenever anything does.
"""

import math
from collections.abc import Callable, Collection, Iterable
from typing import Final

import attrs

from polygon_live.calendar import Sessions

ACK_SECONDS: Final = 10.0
MUTE_SECONDS: Final = 300.0
"""The longest silence in the real files is 156 s (USDJPY on a New Year's Day); metals are unverified."""
ADDED_SECONDS: Final = 60.0
RECONNECT_AGAIN_SECONDS: Final = 3600.0
LOOK_AGAIN_SECONDS: Final = 60.0
"""Markets open while nobody speaks: look at least this often."""
IDLE_SECONDS: Final = 30.0
"""No message for so long: ask for a sign of life, which costs a ping. One pair may be silent for longer on a holiday
(156 s in the real files)."""
QUIET_SECONDS: Final = 900.0
"""A silent connection that may be in order is made anew at most this often."""


@attrs.frozen
class Decision:
    """What to do now, and when to ask again (on the clock of the caller)."""

    resubscribe: tuple[str, ...]
    reconnect: tuple[str, ...]
    report: tuple[str, ...]
    added_silent: tuple[str, ...]
    """Added ones whose time is over."""
    ask_again: float

    @property
    def silent(self) -> tuple[str, ...]:
        """All for which there is something to do."""
        return tuple(dict.fromkeys((*self.resubscribe, *self.reconnect, *self.report, *self.added_silent)))


@attrs.define
class _Symbol:
    first_asked_at: float = math.inf
    """On this connection."""
    asked_at: float = math.inf
    resubscribed: bool = False
    reconnected: bool = False
    reconnected_at: float = -math.inf
    reported: bool = False
    added: bool = False
    """While the collector ran, and no tick since."""
    told: bool = False
    """That its time is over."""

    def ticked(self) -> None:
        self.resubscribed = self.reconnected = self.reported = self.added = self.told = False


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
        self._silence_tried = -math.inf

    def want(self, symbols: Iterable[str]) -> list[str]:
        """Watch these and no others; those that are new here."""
        known = self._symbols
        self._symbols = {s: known.get(s) or _Symbol(added=True) for s in symbols}
        return [s for s in self._symbols if s not in known]

    def connected(self) -> None:
        """A new connection: nothing has been asked of it yet."""
        for symbol, state in self._symbols.items():
            if self._heard(symbol) > state.asked_at:
                state.ticked()
            state.asked_at = state.first_asked_at = math.inf
            state.resubscribed = False

    def asked(self, symbols: Iterable[str], now: float) -> None:
        """The connection has just been asked for these."""
        for state in (self._symbols[s] for s in symbols if s in self._symbols):
            state.asked_at = now
            state.first_asked_at = min(now, state.first_asked_at)

    def reconnecting(self, now: float) -> None:
        """The connection is being made anew because nothing came: it counts for every symbol."""
        self._silence_tried = now
        for state in self._symbols.values():
            state.reconnected, state.reconnected_at = True, now

    def decide(self, acknowledged: Collection[str], now: float) -> Decision:
        """What is due at ``now``. Taking the decision counts as carrying it out."""
        wall_ms = self._wall_ms()
        resubscribe, reconnect, report, added_silent = [], [], [], []
        ask_again = now + LOOK_AGAIN_SECONDS
        for symbol, state in self._symbols.items():
            due, over = self._due(symbol, state, acknowledged=symbol in acknowledged, now=now, wall_ms=wall_ms)
            if due > now:
                ask_again = min(ask_again, due)
                continue
            if over:
                state.told = True
                added_silent.append(symbol)
            if not (state.resubscribed or (state.reconnected and not state.added)):
                state.resubscribed = True
                state.asked_at = now
                resubscribe.append(symbol)
                ask_again = min(ask_again, now + ACK_SECONDS)
            elif state.added:
                pass
            elif not state.reconnected and now - state.reconnected_at >= RECONNECT_AGAIN_SECONDS:
                reconnect.append(symbol)
            elif not state.reported:
                state.reported = True
                report.append(symbol)
        for symbol in reconnect:
            self._symbols[symbol].reconnected, self._symbols[symbol].reconnected_at = True, now
        return Decision(tuple(resubscribe), tuple(reconnect), tuple(report), tuple(added_silent), ask_again)

    def silent(self) -> tuple[str, ...]:
        """Symbols that were reported and have not ticked since."""
        return self._mute(lambda state: state.reported)

    def added(self) -> tuple[str, ...]:
        """Added ones that have not ticked yet and still have time."""
        return self._mute(lambda state: state.added and not state.told)

    def added_silent(self) -> tuple[str, ...]:
        """Added ones whose time is over and that have not ticked since."""
        return self._mute(lambda state: state.told)

    def may_be_silent(self, now: float, *, alive: bool) -> bool:
        """Whether to leave a silent connection as it is; ``alive``: it answers pings. Making it anew was tried lately:
        then an unlisted holiday, a thin market, or a server that never pongs, must not cause a storm. A market that has
        just opened may be slow.
        """
        now_ms = self._wall_ms()
        opened = [at for s in self._symbols if (at := self._sessions(s, now_ms)) is not None]
        expected = bool(opened) and now_ms - min(opened) >= IDLE_SECONDS * 1000
        if alive and not expected:
            return True
        return (alive or not expected) and now - self._silence_tried < QUIET_SECONDS

    def _mute(self, meant: Callable[[_Symbol], bool]) -> tuple[str, ...]:
        return tuple(s for s, state in self._symbols.items() if meant(state) and self._heard(s) < state.asked_at)

    def _due(self, symbol: str, state: _Symbol, *, acknowledged: bool, now: float, wall_ms: int) -> tuple[float, bool]:
        """When there is something to do, and whether it is that an added symbol's time is over."""
        heard = self._heard(symbol)
        if heard > state.asked_at:  # a tick proves the subscription, whatever was acknowledged
            state.ticked()
        elif state.added:
            return self._added_due(symbol, state, acknowledged=acknowledged, now=now, wall_ms=wall_ms)
        elif not acknowledged:
            return state.asked_at + ACK_SECONDS, False
        return max(heard, state.asked_at, self._opened(symbol, now, wall_ms)) + MUTE_SECONDS, False

    def _added_due(
        self, symbol: str, state: _Symbol, *, acknowledged: bool, now: float, wall_ms: int
    ) -> tuple[float, bool]:
        if state.told:
            return math.inf, False
        begins = max(state.first_asked_at, self._opened(symbol, now, wall_ms) if acknowledged else -math.inf)
        over = begins + ADDED_SECONDS
        if acknowledged or state.resubscribed or now >= over:
            return over, True
        return state.asked_at + ACK_SECONDS, False

    def _opened(self, symbol: str, now: float, wall_ms: int) -> float:
        """Since when the symbol's market is open, on the caller's clock; never, if it is closed."""
        opened_ms = self._sessions(symbol, wall_ms)
        return math.inf if opened_ms is None else now - (wall_ms - opened_ms) / 1000
