"""The conversation on one connection: log in, then ask for what is wanted, read, and watch what comes.

Rules of this file's state:

- The socket is always read: whoever has to wait for a turn before he may send is another task than the reader.
- Errors travel as values (``verdict``), because the tasks of one connection share a nursery and only the first to know
  is right.
- What is wanted may change at any time. Whoever changes it, or something that others decide by, unparks ``changed``.
"""

import math
from collections.abc import Callable
from typing import Final

import attrs
import structlog
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from polygon_live import wire
from polygon_live.config import Secret
from polygon_live.dial import closed_error
from polygon_live.errors import FeedError, FeedSilent, LoginRefused, SubscriptionFailed
from polygon_live.frames import Intake
from polygon_live.limits import Held, Turns
from polygon_live.login import Login, Phase
from polygon_live.model import Interruption
from polygon_live.operational import ALL_PAIRS
from polygon_live.subscriptions import Subscriptions
from polygon_live.watch import ACK_SECONDS, IDLE_SECONDS, SymbolWatch

LOGIN_SECONDS: Final = 15.0
"""From the open WebSocket to the answer to the login. No turn is waited for in it."""
PONG_SECONDS: Final = 10.0

log = structlog.get_logger()


@attrs.frozen(kw_only=True, eq=False)
class Standing:
    """What outlives connections."""

    key: Secret
    subscriptions: Subscriptions
    watch: SymbolWatch
    intake: Intake
    turns: Turns
    wall_ms: Callable[[], int]
    changed: trio.lowlevel.ParkingLot


class Conversation:
    """``held`` are turns for the login and the first message after it; ``address`` is for people."""

    def __init__(self, standing: Standing, ws: WebSocketConnection, address: str, held: Held) -> None:
        self._standing = standing
        self._ws = ws
        self._address = address
        self._held = held
        self._login = Login(standing.key, standing.subscriptions)
        self.state = "logging in"
        self.connected_since_ms: int | None = None
        self.last_of_all = -math.inf
        """When the last message with quotes came that nothing but the subscription to all pairs can have brought."""
        self._streaming_since = math.inf
        self._last_message = -math.inf
        self._asked_at = math.inf
        """When the first subscription was sent."""

    @property
    def refusals(self) -> tuple[str, ...]:
        """What Polygon said about refused topics."""
        return tuple(self._login.refusals)

    @property
    def streamed(self) -> float:
        """Seconds from the first message with quotes to the last message."""
        return max(0.0, self._last_message - self._streaming_since)

    async def run(self) -> FeedError:
        """Until something ends it; what that was."""
        try:
            with trio.fail_after(LOGIN_SECONDS):
                while self._login.phase is not Phase.LOGGED_IN:
                    message = await self._ws.get_message()
                    self._standing.intake.take(message, self._standing.wall_ms())
                    await self._hear(message)
        except trio.TooSlowError:
            told = f"let {LOGIN_SECONDS:g} s pass while {self._login.phase.value}{self._login.said()}"
            return FeedSilent(f"{self._address} {told}")
        except ConnectionClosed as why:
            return closed_error(why)
        except FeedError as why:
            return why
        self.state = "subscribing"
        self._last_message = trio.current_time()
        self._standing.watch.connected()
        verdict: list[FeedError] = []
        async with trio.open_nursery() as nursery:

            def end(error: FeedError) -> None:
                verdict.append(error)
                nursery.cancel_scope.cancel()

            nursery.start_soon(self._subscribe)
            nursery.start_soon(self._watch_symbols, end)
            nursery.start_soon(self._watch_silence, end)
            end(await self._read())
        return verdict[0]

    async def _read(self) -> FeedError:
        """Read to the end: everything goes to the validator, statuses are heard here too."""
        try:
            while True:
                message = await self._ws.get_message()
                self._last_message = trio.current_time()
                self._standing.intake.take(message, self._standing.wall_ms())
                if wire.may_hold_status(message):
                    await self._hear(message)
                else:
                    if self._standing.subscriptions.only_all():
                        self.last_of_all = self._last_message
                    if self._streaming_since == math.inf:
                        self._streaming_since = self._last_message
        except ConnectionClosed as why:
            return closed_error(why)
        except FeedError as why:
            return why

    async def _hear(self, message: str | bytes) -> None:
        for status in wire.statuses(message):
            answer = self._login.hear(status)
            while self._login.told:
                odd = self._login.told.popleft()
                if odd.status == "error":
                    self._standing.turns.violation(f"{self._address} subscribe", odd.message)
                else:
                    log.warning("Polygon sends a status that is not known", status=odd.status, message=odd.message)
            if answer is not None:
                self._held.use()
                await self._ws.send_message(answer)
        if self.state == "subscribing" and self._standing.subscriptions.complete():
            self._announce()
        self._standing.changed.unpark_all()

    def _announce(self) -> None:
        self.state = "streaming"
        self.connected_since_ms = self._standing.wall_ms()
        missing = self._standing.subscriptions.missing()
        lacking = {"not_acknowledged": missing, "polygon_says": self.refusals} if missing else {}
        symbols = len(self._standing.subscriptions.acknowledged)
        if symbols:
            log.info("Connected to Polygon.io", address=self._address, symbols=symbols, **lacking)
        else:
            log.warning("ticks come, though Polygon has acknowledged no subscription", address=self._address, **lacking)

    async def _subscribe(self) -> None:
        """Send whatever brings this connection nearer to what is wanted, as often as that changes."""
        held = self._held
        while True:
            while self._standing.subscriptions.due() is None:
                await self._standing.changed.park()
            if not held.left:
                held = await self._standing.turns.hold(urgent=True)
            ask = self._standing.subscriptions.next()
            if ask is None:  # while a turn was waited for, things came to be as they were
                held.give_back()
                continue
            held.use()
            now = trio.current_time()
            self._asked_at = min(now, self._asked_at)
            if ask.subscribe:
                self._standing.watch.asked(ask.symbols, now)
            self._standing.changed.unpark_all()
            try:
                await self._ws.send_message(ask.text)
            except ConnectionClosed:
                return  # the reader hears of it too, and knows the reason

    async def _watch_symbols(self, end: Callable[[FeedError], None]) -> None:
        """Carry out what the symbol watch decides, as often as it asks for."""
        subscriptions = self._standing.subscriptions
        while True:
            now = trio.current_time()
            decision = self._standing.watch.decide(subscriptions.acknowledged, now)
            if self.state == "subscribing" and now >= self._asked_at + ACK_SECONDS:
                if not subscriptions.acknowledged and self._streaming_since == math.inf:
                    end(_nothing_acknowledged(self._login))
                    return
                self._announce()
            if decision.silent and (ALL_PAIRS not in decision.silent or subscriptions.only_all()):
                why = f"no acknowledgement, or no tick in market hours{self._login.said()}"
                meant = None if ALL_PAIRS in decision.silent else decision.silent
                self._standing.intake.interrupted(Interruption("mute", why, meant))
            if decision.reconnect:
                names = ", ".join(decision.reconnect)
                why = f"no acknowledgement, or no tick in market hours, for {names}{self._login.said()}"
                end(SubscriptionFailed(why))
                return
            if decision.report:
                log.error("symbols do not stream", symbols=decision.report, polygon_says=self.refusals)
            if decision.added_silent:
                log.error(
                    "added symbols do not stream: is each the name of a pair that the plan has?",
                    symbols=decision.added_silent,
                    acknowledged=[s for s in decision.added_silent if s in subscriptions.acknowledged],
                    polygon_says=self.refusals,
                )
            if decision.resubscribe:
                log.warning("subscribing anew", symbols=decision.resubscribe, polygon_says=self.refusals)
                subscriptions.ask_anew(decision.resubscribe)
                self._standing.changed.unpark_all()
            decided = self._asked_at + ACK_SECONDS if self.state == "subscribing" else math.inf
            with trio.CancelScope(deadline=min(decision.ask_again, decided)):
                await self._standing.changed.park()

    async def _watch_silence(self, end: Callable[[FeedError], None]) -> None:
        """One timer a connection, not a cancel scope a frame: at one event a frame that would cost as much as decoding.

        Silence proves nothing: a closed market is silent, and so is a half-open connection. A pong tells them apart;
        a missing pong alone does not, for some servers send none.
        """
        looked = -math.inf
        while True:
            await trio.sleep_until(max(self._last_message, looked) + IDLE_SECONDS)
            if trio.current_time() < self._last_message + IDLE_SECONDS:
                continue
            alive = await self._pong()
            looked = trio.current_time()
            silent = looked - self._last_message
            if silent < IDLE_SECONDS or self._standing.watch.may_be_silent(looked, alive=alive):
                continue
            self._standing.watch.reconnecting(looked)
            sign = "answers pings but sends nothing" if alive else "sends nothing and answers no ping"
            end(FeedSilent(f"{self._address} {sign}: no message for {silent:.0f} s"))
            return

    async def _pong(self) -> bool:
        try:
            with trio.move_on_after(PONG_SECONDS):
                await self._ws.ping()
                return True
        except ConnectionClosed:
            pass  # the reader hears of it too, and knows the reason
        return False


def _nothing_acknowledged(login: Login) -> FeedError:
    if any("authorized" in refusal.casefold() for refusal in login.refusals):
        return LoginRefused(f"the key's plan has none of the symbols{login.said()}", reason="no_plan")
    return SubscriptionFailed(f"Polygon acknowledged no symbol in {ACK_SECONDS:g} s{login.said()}")
