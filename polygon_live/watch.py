"""Which symbols should be ticking and are not, and what to do about each: decided here, done in conversation.py.

::

    silent ─► noted ─► subscribed anew ─► the connection made anew, once ─► reported, once
              beyond what   four times that     ten minutes                    five more
              is expected

What is expected of a symbol is learnt from its own ticks (habit.py); of one that is not known yet, a tick in
``MUTE_SECONDS``. Only silence while others tick counts: if nothing comes at all, that is the connection's matter, or
the market's (silence.py).

A symbol that was asked for must be acknowledged within ``ACK_SECONDS``, or it takes the same steps, ten seconds each.
To subscribe anew takes an unsubscribe: Polygon never answers a plain repeat. A tick undoes it all, but for one symbol
the connection is not made anew twice an hour: that costs the others more than it may help. Nor for all of those
together of which no habit is known: some tick less than once in ``MUTE_SECONDS``.

A symbol that was added while the collector runs may be a typing error: Polygon acknowledges any. It has
``ADDED_SECONDS`` for its acknowledgement and its first tick; then it is told, and asked for anew once. Until it has
ticked the connection is never made anew for it.

All pairs are watched as one symbol, which ticks whenever anything does.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, Literal

import attrs

from polygon_live.calendar import Sessions
from polygon_live.habit import LEAST_SECONDS, MUTE_SECONDS, expected_within, mute_after
from polygon_live.operational import ALL_PAIRS
from polygon_live.silence import IDLE_SECONDS
from polygon_live.status import Stage

ACK_SECONDS: Final = 10.0
ADDED_SECONDS: Final = 60.0
RECONNECT_AGAIN_SECONDS: Final = 3600.0
LOOK_AGAIN_SECONDS: Final = 60.0
"""Markets open while nobody speaks: look at least this often."""
LOOK_SECONDS: Final = 1.0
"""Of a thousand symbols one is always nearly due: what can wait is not looked at more often."""
STALL_SECONDS: Final = 2.0
"""Who asks so much later than he was told to has heard nothing meanwhile, whatever came."""


@attrs.frozen
class Decision:
    """What to do now, and when to ask again (on the clock of the caller)."""

    resubscribe: tuple[str, ...]
    reconnect: tuple[str, ...]
    report: tuple[str, ...]
    added_silent: tuple[str, ...]
    """Added ones whose time is over."""
    ask_again: float
    noted: Mapping[str, str] = attrs.field(factory=dict)
    """Symbols whose silence is odd, each with a sentence. It is told once a silence."""

    @property
    def silent(self) -> tuple[str, ...]:
        """All that were to tick by now, so that something is to be done."""
        return tuple(dict.fromkeys((*self.resubscribe, *self.reconnect, *self.report, *self.added_silent)))


@attrs.define
class _Symbol:
    first_asked_at: float = math.inf
    """On this connection."""
    asked_at: float = math.inf
    silent_from: float = -math.inf
    """Since when it was silent when it was subscribed anew."""
    noted_at: float = -math.inf
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

    def next_step(self, now: float, may_from: float) -> Literal["resubscribe", "reconnect", "report"] | None:
        if not (self.resubscribed or (self.reconnected and not self.added)):
            return "resubscribe"
        if self.added:
            return None
        if not self.reconnected and now >= may_from:
            return "reconnect"
        return None if self.reported else "report"

    def stage(self, heard: float) -> Stage | None:
        """None: there is nothing to say of it."""
        if heard < self.asked_at:
            if self.reported:
                return "silent"
            if self.reconnected and not self.added and self.noted_at > heard:
                return "reconnected"
            if self.resubscribed and not self.added:
                return "resubscribed"
        return "quiet" if self.noted_at > heard else None


class SymbolWatch:
    """Lives as long as the feed: whether a reconnect was tried for a symbol outlives the connection.

    ``heard`` tells when a symbol's last event came (caller's clock, -inf for never), of ``ALL_PAIRS`` too;
    ``last_tick`` when that of any did; ``usual`` is a symbol's longest pause lately in the session that began then
    (Unix ms; seconds, None: not known); ``wall_ms`` is Unix time, for the calendar.
    """

    def __init__(
        self,
        symbols: Iterable[str],
        *,
        heard: Callable[[str], float],
        last_tick: Callable[[], float],
        usual: Callable[[str, int], float | None],
        wall_ms: Callable[[], int],
        sessions: Sessions,
    ) -> None:
        self._symbols = {s: _Symbol() for s in symbols}
        self._heard = heard
        self._last_tick = last_tick
        self._usual = usual
        self._wall_ms = wall_ms
        self._sessions = sessions
        self._ask_again = math.inf
        self._stalled_at = -math.inf
        self._guessed_at = -math.inf
        """When the connection was made anew for a symbol of which no habit is known."""

    def want(self, symbols: Iterable[str]) -> list[str]:
        """Watch these and no others; those that are new here."""
        known = self._symbols
        self._symbols = {s: known.get(s) or _Symbol(added=True) for s in symbols}
        return [s for s in self._symbols if s not in known]

    def connected(self) -> None:
        """A new connection: nothing has been asked of it yet."""
        self._ask_again = math.inf
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
        for state in self._symbols.values():
            state.reconnected, state.reconnected_at = True, now

    def decide(self, acknowledged: Collection[str], now: float) -> Decision:
        """What is due at ``now``. Taking the decision counts as carrying it out."""
        wall_ms = self._wall_ms()
        if now > self._ask_again + STALL_SECONDS:
            self._stalled_at = now
        resubscribe, reconnect, report, added_silent = [], [], [], []
        noted: dict[str, str] = {}
        ask_again = now + LOOK_AGAIN_SECONDS
        for symbol, state in self._symbols.items():
            since = self._silent_since(symbol, state, now, wall_ms)
            due, over = self._due(symbol, state, since, acknowledged=symbol in acknowledged, now=now, wall_ms=wall_ms)
            odd = self._odd_at(symbol, state, since, now)
            if odd <= now:
                state.noted_at = now
                noted[symbol] = self._sentence(symbol, since, now)
            ask_again = min(ask_again, max(odd, now + LOOK_SECONDS))
            if due > now:
                ask_again = min(ask_again, due)
                continue
            if over:
                state.told = True
                added_silent.append(symbol)
            match state.next_step(now, self._may_reconnect_from(symbol, state)):
                case "resubscribe":
                    state.resubscribed = True
                    state.silent_from, state.asked_at = since, now
                    resubscribe.append(symbol)
                    ask_again = min(ask_again, now + ACK_SECONDS)
                case "reconnect":
                    reconnect.append(symbol)
                case "report":
                    state.reported = True
                    report.append(symbol)
        self._reconnect(reconnect, now)
        self._ask_again = ask_again
        return Decision(tuple(resubscribe), tuple(reconnect), tuple(report), tuple(added_silent), ask_again, noted)

    def _reconnect(self, symbols: Iterable[str], now: float) -> None:
        for symbol in symbols:
            self._symbols[symbol].reconnected, self._symbols[symbol].reconnected_at = True, now
            if self._usual_of(symbol) is None:
                self._guessed_at = now

    def listened(self) -> None:
        """Who asks next may be late, and has heard whatever came: he waited for something else."""
        self._ask_again = math.inf

    def odd(self, silent_from: float, now: float) -> bool | None:
        """Whether a tick should have come by now, of any symbol. None: the market is closed.

        A market that has just opened may be slow, and a holiday's thin one too, if that was learnt. As long as it is
        not, of several symbols together a tick is expected sooner than of one.
        """
        wall_ms = self._wall_ms()
        opened = {s: at for s in self._symbols if (at := self._opened(s, now, wall_ms)) != math.inf}
        if not opened:
            return None
        bound = IDLE_SECONDS
        if self._last_tick() != -math.inf and ALL_PAIRS not in opened:
            expected = min(expected_within(self._usual_of(symbol)) for symbol in opened)
            bound = max(bound, min(expected, MUTE_SECONDS / len(opened)))
        return now >= max(silent_from + bound, min(opened.values()) + MUTE_SECONDS)

    def stages(self) -> dict[str, Stage]:
        """Of all for which there is something to say."""
        found = {symbol: state.stage(self._heard(symbol)) for symbol, state in self._symbols.items()}
        return {symbol: stage for symbol, stage in found.items() if stage is not None}

    def silent(self) -> tuple[str, ...]:
        """Symbols that were reported and have not ticked since."""
        return self._mute(lambda state: state.reported)

    def most_silent(self) -> bool:
        """Whether that is more than half of all."""
        return 2 * len(self.silent()) > len(self._symbols)

    def added(self) -> tuple[str, ...]:
        """Added ones that have not ticked yet and still have time."""
        return self._mute(lambda state: state.added and not state.told)

    def added_silent(self) -> tuple[str, ...]:
        """Added ones whose time is over and that have not ticked since."""
        return self._mute(lambda state: state.told)

    def _mute(self, meant: Callable[[_Symbol], bool]) -> tuple[str, ...]:
        return tuple(s for s, state in self._symbols.items() if meant(state) and self._heard(s) < state.asked_at)

    def _silent_since(self, symbol: str, state: _Symbol, now: float, wall_ms: int) -> float:
        """Since when its silence counts; never, while its market is closed."""
        since = max(self._heard(symbol), state.asked_at, self._stalled_at)
        if since > now - LEAST_SECONDS:  # what the calendar costs is spent on those only that are silent
            return since
        return max(since, self._opened(symbol, now, wall_ms))

    def _due(
        self, symbol: str, state: _Symbol, since: float, *, acknowledged: bool, now: float, wall_ms: int
    ) -> tuple[float, bool]:
        """When there is something to do, and whether it is that an added symbol's time is over."""
        if self._heard(symbol) > state.asked_at:  # a tick proves the subscription, whatever was acknowledged
            state.ticked()
        elif state.added:
            return self._added_due(symbol, state, acknowledged=acknowledged, now=now, wall_ms=wall_ms)
        elif not acknowledged:
            return state.asked_at + ACK_SECONDS, False
        if since > now - LEAST_SECONDS:
            return since + LEAST_SECONDS, False
        if state.reported:
            due = math.inf if state.reconnected else self._may_reconnect_from(symbol, state)
        elif state.reconnected:
            due = since + MUTE_SECONDS
        elif state.resubscribed:
            due = max(since + MUTE_SECONDS, state.silent_from + 2 * MUTE_SECONDS)
        else:
            due = since + mute_after(expected_within(self._usual_of(symbol)))
        return self._while_others_tick(due, now), False

    def _may_reconnect_from(self, symbol: str, state: _Symbol) -> float:
        """Many that tick once in ten minutes would cost the others a connection every ten minutes."""
        guessed_at = self._guessed_at if self._usual_of(symbol) is None else -math.inf
        return max(state.reconnected_at, guessed_at) + RECONNECT_AGAIN_SECONDS

    def _odd_at(self, symbol: str, state: _Symbol, since: float, now: float) -> float:
        """When its silence is to be noted; never, if it was."""
        if state.added or state.noted_at > self._heard(symbol):
            return math.inf
        if since > now - LEAST_SECONDS:
            return since + LEAST_SECONDS
        return self._while_others_tick(since + expected_within(self._usual_of(symbol)), now)

    def _while_others_tick(self, due: float, now: float) -> float:
        """The same, but for a silence that nobody has broken since it became due: look again, ever less often."""
        last_tick = self._last_tick()
        if due > now or due <= last_tick:
            return due
        return now + min(max(LOOK_SECONDS, (now - last_tick) / 2), LOOK_AGAIN_SECONDS)

    def _usual_of(self, symbol: str) -> float | None:
        if self._symbols[symbol].asked_at - self._heard(symbol) >= MUTE_SECONDS:
            return None  # nobody listened for so long that it says nothing of now
        opened_ms = self._sessions(symbol, self._wall_ms())
        return None if opened_ms is None else self._usual(symbol, opened_ms)

    def _sentence(self, symbol: str, since: float, now: float) -> str:
        usual = self._usual_of(symbol)
        lately = "" if usual is None else f", lately never for more than {usual:.0f} s"
        return f"silent for {now - since:.0f} s{lately}"

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
