"""The one connection to Polygon: dial, log in, subscribe, read, and again.

Rules of this file's state:

- The socket is always read. What does not fit into ``frames`` is dropped there and counted; the feed never waits.
- Whenever nobody listened for a while, an interruption stands among the frames. An orderly stop is none: the next run
  knows since when no collector ran.
- One task owns a socket (``_own_socket``), another holds the conversation on it. ``stop()`` cancels the conversation
  only, so that the owner can still say goodbye properly: Polygon keeps the account's only slot taken for a while after
  a connection that just vanished.
- A new connection is dialled only when the old one is closed: two at once evict each other.
- Inside a connection errors travel as values (``verdict``), because the receiver and the watcher of one connection
  share a nursery and only the first to know is right.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import structlog
import trio
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
)

from polygon_live import wire
from polygon_live.calendar import Sessions, open_since
from polygon_live.channels import WeightedSender
from polygon_live.config import Secret
from polygon_live.dial import Dial, address_of, closed_error, dial_error, dial_websocket
from polygon_live.errors import (
    DialFailed,
    FeedError,
    FeedSilent,
    LoginRefused,
    SubscriptionFailed,
    TooManyConnections,
)
from polygon_live.frames import Heard, Intake
from polygon_live.login import Login, Phase
from polygon_live.model import Interruption, pair_of
from polygon_live.redial import Redial
from polygon_live.status import FeedSnapshot
from polygon_live.watch import ACK_SECONDS, SymbolWatch

LOGIN_SECONDS: Final = 15.0
IDLE_SECONDS: Final = 30.0
"""No message for so long: ask for a sign of life, which costs a ping. One pair may be silent for longer on a holiday
(156 s in the real files)."""
PONG_SECONDS: Final = 10.0
QUIET_SECONDS: Final = 900.0
"""A silent connection that may be in order is made anew at most this often."""

log = structlog.get_logger()


class Feed:
    """Keeps one connection alive until stopped. ``heard`` tells when a symbol's last event was judged (trio's clock).

    ``wall_ms`` is Unix time in milliseconds; ``sessions`` knows when the market is open.
    """

    def __init__(
        self,
        *,
        urls: Sequence[str],
        key: Secret,
        symbols: Sequence[str],
        reconnect_delay: float,
        frames: WeightedSender[Heard],
        heard: Callable[[str], float],
        wall_ms: Callable[[], int],
        rng: random.Random,
        dial: Dial = dial_websocket,
        sessions: Sessions = open_since,
    ) -> None:
        self._urls = tuple(urls)
        self._key = key
        self._symbols = tuple(symbols)
        self._intake = Intake(frames)
        self._wall_ms = wall_ms
        self._dial = dial
        self._redial = Redial(reconnect_delay, rng)
        self._sessions = sessions
        self._watch = SymbolWatch(symbols, heard, wall_ms, sessions)
        self._running = trio.CancelScope()
        self._url = self._urls[0]
        self._state = "dialling"
        self._login: Login | None = None
        self._connected_since_ms: int | None = None
        self._streaming_since = math.inf
        self._last_message = -math.inf
        self._silence_tried = -math.inf
        self._connections = 0
        self._endings: Counter[str] = Counter()
        self._error: FeedError | None = None
        self._error_ms: int | None = None
        self._retry_at_ms: int | None = None

    def stop(self) -> None:
        """End the conversation; ``run`` says goodbye to Polygon, closes the channel and returns."""
        self._running.cancel()

    async def run(self) -> None:
        """Stream until stopped. Whatever happens on the way to Polygon, it goes on."""
        async with self._intake.channel, trio.open_nursery() as sockets:
            with self._running:
                untried = len(self._urls)
                while True:
                    error = await self._connection(sockets)
                    self._endings[error.reason] += 1
                    self._error, self._error_ms = error, self._wall_ms()
                    streamed = max(0.0, self._last_message - self._streaming_since)
                    untried = untried - 1 if isinstance(error, DialFailed) else 0
                    if self._connected_since_ms is None:
                        self._url = self._urls[(self._urls.index(self._url) + 1) % len(self._urls)]
                    self._connected_since_ms = None
                    if untried <= 0:
                        untried = len(self._urls)
                        await self._wait(error, streamed)
            self._state = "stopped"

    async def _wait(self, error: FeedError, streamed: float) -> None:
        delay = self._redial.after(error, streamed=streamed, now=trio.current_time())
        self._state = "waiting"
        self._retry_at_ms = self._wall_ms() + round(delay * 1000)
        log.warning("reconnecting", why=str(error), reason=error.reason, seconds=round(delay, 1))
        await trio.sleep(delay)
        self._retry_at_ms = None

    async def _connection(self, sockets: trio.Nursery) -> FeedError:
        """One connection from the first packet to the last; why it ended."""
        self._state = "dialling"
        self._streaming_since = math.inf
        leave, closed = trio.Event(), trio.Event()
        try:
            ws = await sockets.start(self._own_socket, self._url, leave, closed)
        except DialFailed as failed:
            return failed
        try:
            why = await self._converse(ws)
            self._intake.interrupted(Interruption("disconnect", str(why)))
            return why
        finally:
            self._state = "closing"
            leave.set()
            self._login = None
            with trio.CancelScope(shield=True):  # bounded: the owner closes within CLOSE_SECONDS
                await closed.wait()

    async def _own_socket(
        self, url: str, leave: trio.Event, closed: trio.Event, task_status: trio.TaskStatus[WebSocketConnection]
    ) -> None:
        """Open the socket, lend it, close it with a goodbye when it is no longer needed."""
        lent = False
        try:
            async with self._dial(url) as ws:
                lent = True
                task_status.started(ws)
                await leave.wait()
        except Exception as why:  # whatever the library makes of the network must not end the collector
            if not lent:
                raise dial_error(url, why) from why
            log.info("the connection did not close cleanly", address=address_of(url), why=repr(why))
        finally:
            closed.set()

    async def _converse(self, ws: WebSocketConnection) -> FeedError:
        """Log in, subscribe and read until something ends it; what that was."""
        self._state = "logging in"
        login = self._login = Login(self._key, self._symbols)
        try:
            with trio.fail_after(LOGIN_SECONDS):
                while login.phase is not Phase.SUBSCRIBED:
                    message = await ws.get_message()
                    self._intake.take(message, self._wall_ms())
                    await self._hear(ws, login, message)
        except trio.TooSlowError:
            told = f"let {LOGIN_SECONDS:g} s pass while {login.phase.value}{_said(login)}"
            return FeedSilent(f"{address_of(self._url)} {told}")
        except ConnectionClosed as why:
            return closed_error(why)
        except FeedError as why:
            return why
        self._state = "subscribing"
        self._last_message = trio.current_time()
        self._watch.subscribed(self._last_message)
        verdict: list[FeedError] = []
        async with trio.open_nursery() as nursery:

            def end(error: FeedError) -> None:
                verdict.append(error)
                nursery.cancel_scope.cancel()

            nursery.start_soon(self._watch_symbols, ws, login, end)
            nursery.start_soon(self._watch_silence, ws, end)
            end(await self._read(ws, login))
        return verdict[0]

    async def _read(self, ws: WebSocketConnection, login: Login) -> FeedError:
        """Read to the end: everything goes to the validator, statuses are heard here too."""
        try:
            while True:
                message = await ws.get_message()
                self._last_message = trio.current_time()
                self._intake.take(message, self._wall_ms())
                if wire.may_hold_status(message):
                    await self._hear(ws, login, message)
                elif self._streaming_since == math.inf:
                    self._streaming_since = self._last_message
        except ConnectionClosed as why:
            return closed_error(why)
        except FeedError as why:
            return why

    async def _hear(self, ws: WebSocketConnection, login: Login, message: str | bytes) -> None:
        for status in wire.statuses(message):
            answer = login.hear(status)
            while login.unknown:
                odd = login.unknown.popleft()
                log.warning("Polygon sends a status that is not known", status=odd.status, message=odd.message)
            if answer is not None:
                await ws.send_message(answer)
        if self._state == "subscribing" and not login.missing():
            self._announce(login)

    def _announce(self, login: Login) -> None:
        self._state = "streaming"
        self._connected_since_ms = self._wall_ms()
        self._connections += 1
        lacking = {"not_acknowledged": login.missing(), "polygon_says": list(login.refusals)} if login.missing() else {}
        log.info("Connected to Polygon.io", address=address_of(self._url), symbols=len(login.acknowledged), **lacking)

    async def _watch_symbols(self, ws: WebSocketConnection, login: Login, end: Callable[[FeedError], None]) -> None:
        """Carry out what the symbol watch decides, as often as it asks for."""
        deadline = trio.current_time() + ACK_SECONDS
        while True:
            decision = self._watch.decide(login.acknowledged, trio.current_time())
            if self._state == "subscribing" and trio.current_time() >= deadline:
                if not login.acknowledged and self._streaming_since == math.inf:
                    end(_nothing_acknowledged(login))
                    return
                self._announce(login)
            silent = (*decision.resubscribe, *decision.reconnect, *decision.report)
            if silent:
                told = f"no acknowledgement, or no tick in market hours{_said(login)}"
                self._intake.interrupted(Interruption("mute", told, silent))
            if decision.reconnect:
                names = ", ".join(decision.reconnect)
                end(SubscriptionFailed(f"no acknowledgement, or no tick in market hours, for {names}{_said(login)}"))
                return
            if decision.report:
                log.error("symbols do not stream", symbols=decision.report, polygon_says=list(login.refusals))
            if decision.resubscribe:
                log.warning("subscribing anew", symbols=decision.resubscribe, polygon_says=list(login.refusals))
                pairs = [pair_of(s) for s in decision.resubscribe]
                try:
                    await ws.send_message(wire.unsubscribe(pairs))  # a plain repeat is never answered
                    await ws.send_message(wire.subscribe(pairs))
                except ConnectionClosed:
                    return  # the reader hears of it too, and knows the reason
            await trio.sleep_until(decision.ask_again)

    async def _watch_silence(self, ws: WebSocketConnection, end: Callable[[FeedError], None]) -> None:
        """One timer a connection, not a cancel scope a frame: at one event a frame that would cost as much as decoding.

        Silence proves nothing: a closed market is silent, and so is a half-open connection. A pong tells them apart;
        a missing pong alone does not, for some servers send none.
        """
        looked = -math.inf
        while True:
            await trio.sleep_until(max(self._last_message, looked) + IDLE_SECONDS)
            if trio.current_time() < self._last_message + IDLE_SECONDS:
                continue
            alive = await self._pong(ws)
            looked = trio.current_time()
            silent = looked - self._last_message
            if silent < IDLE_SECONDS or self._may_be_silent(alive=alive):
                continue
            self._silence_tried = looked
            self._watch.reconnecting(looked)
            sign = "answers pings but sends nothing" if alive else "sends nothing and answers no ping"
            end(FeedSilent(f"{address_of(self._url)} {sign}: no message for {silent:.0f} s"))
            return

    def _may_be_silent(self, *, alive: bool) -> bool:
        """Whether to leave a silent connection as it is. Making it anew was tried lately: then an unlisted holiday, a
        thin market, or a server that never pongs, must not cause a storm. A market that has just opened may be slow.
        """
        now_ms = self._wall_ms()
        opened = [at for s in self._symbols if (at := self._sessions(s, now_ms)) is not None]
        expected = bool(opened) and now_ms - min(opened) >= IDLE_SECONDS * 1000
        if alive and not expected:
            return True
        return (alive or not expected) and trio.current_time() - self._silence_tried < QUIET_SECONDS

    async def _pong(self, ws: WebSocketConnection) -> bool:
        try:
            with trio.move_on_after(PONG_SECONDS):
                await ws.ping()
                return True
        except ConnectionClosed:
            pass  # the reader hears of it too, and knows the reason
        return False

    def snapshot(self) -> FeedSnapshot:
        """As of now."""
        login, error = self._login, self._error
        return FeedSnapshot(
            state=self._state,
            address=address_of(self._url),
            connected_since_ms=self._connected_since_ms,
            connections=self._connections,
            endings=dict(self._endings),
            last_error=str(error) if error else None,
            last_error_ms=self._error_ms,
            needs_operator=self._state != "streaming" and isinstance(error, LoginRefused | TooManyConnections),
            retry_at_ms=self._retry_at_ms,
            acknowledged=tuple(sorted(login.acknowledged)) if login else (),
            silent=self._watch.silent(),
            refusals=tuple(login.refusals) if login else (),
            frames=self._intake.count,
            characters=self._intake.characters,
            dropped_frames=self._intake.dropped,
            last_dropped_ms=self._intake.dropped_ms,
            waiting_characters=self._intake.channel.held,
        )


def _nothing_acknowledged(login: Login) -> FeedError:
    if any("authorized" in refusal.casefold() for refusal in login.refusals):
        return LoginRefused(f"the key's plan has none of the symbols{_said(login)}", reason="no_plan")
    return SubscriptionFailed(f"Polygon acknowledged no symbol in {ACK_SECONDS:g} s{_said(login)}")


def _said(login: Login) -> str:
    return f"; Polygon says: {login.refusals[-1]!r}" if login.refusals else ""
