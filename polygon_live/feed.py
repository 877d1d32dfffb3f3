"""The one connection to Polygon: dial, hold a conversation, close, wait, and again.

Rules of this file's state:

- The socket is always read. What does not fit into ``frames`` is dropped there and counted; the feed never waits.
- Whenever nobody listened for a while, an interruption stands among the frames. An orderly stop is none: the next run
  knows since when no collector ran.
- One task owns a socket (``_own_socket``), another holds the conversation on it. ``stop()`` cancels the conversation
  only, so that the owner can still say goodbye properly: Polygon keeps the account's only slot taken for a while after
  a connection that just vanished.
- A new connection is dialled only when the old one is closed: two at once evict each other.
- The turns for dialling, logging in and the first subscription are had before any of them begins: once Polygon has
  greeted, it waits for us.
- ``reconfigure`` only notes what is wanted. The conversation, if there is one, finds it there; so does the next one.
"""

import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog
import trio
from trio_websocket import ConnectionRejected

from polygon_live.calendar import Sessions, open_since
from polygon_live.channels import WeightedSender
from polygon_live.config import Secret
from polygon_live.conversation import Conversation, Standing
from polygon_live.dial import Dial, address_of, dial_error, dial_websocket
from polygon_live.errors import DialFailed, FeedError, FeedSilent, LoginRefused, TooManyConnections
from polygon_live.frames import Heard, Intake
from polygon_live.limits import Turns
from polygon_live.model import Interruption
from polygon_live.operational import ALL_PAIRS, Operational
from polygon_live.redial import Redial
from polygon_live.silence import Silence
from polygon_live.status import FeedSnapshot
from polygon_live.subscriptions import Subscriptions
from polygon_live.watch import SymbolWatch
from polygon_live.websocket import WebSocket

OPENING: Final = 3
"""Turns: the dial, the login, the first subscription."""
TOO_MANY_REQUESTS: Final = 429

log = structlog.get_logger()


class Feed:
    """Keeps one connection alive until stopped. ``heard`` tells when a symbol's last event was judged (trio's clock),
    of ``ALL_PAIRS`` that of any; ``usual`` is its longest pause in the session that began then (Unix ms), in seconds.

    ``market`` asks Polygon whether the market is ``open`` or ``closed`` (raises RestError; None: it can't be asked).
    ``symbols`` may be ``ALL_PAIRS`` alone. ``wall_ms`` is Unix time in milliseconds; ``sessions`` knows when the market
    is open; ``turns`` are shared with whoever else asks Polygon for anything.
    """

    def __init__(
        self,
        *,
        urls: Sequence[str],
        key: Secret,
        symbols: Sequence[str],
        reconnect_delay: float,
        turns: Turns,
        frames: WeightedSender[Heard],
        heard: Callable[[str], float],
        usual: Callable[[str, int], float | None],
        market: Callable[[], Awaitable[str]] | None = None,
        wall_ms: Callable[[], int],
        rng: random.Random,
        dial: Dial = dial_websocket,
        sessions: Sessions = open_since,
    ) -> None:
        self._urls = tuple(urls)
        self._heard = heard
        self._dial = dial
        self._redial = Redial(reconnect_delay, rng)
        self._standing = Standing(
            key=key,
            subscriptions=Subscriptions(symbols),
            watch=SymbolWatch(
                symbols,
                heard=self._last_heard,
                last_tick=self._last_tick,
                usual=usual,
                wall_ms=wall_ms,
                sessions=sessions,
            ),
            silence=Silence(self._last_tick),
            market=market,
            intake=Intake(frames),
            turns=turns,
            wall_ms=wall_ms,
            changed=trio.lowlevel.ParkingLot(),
        )
        self._running = trio.CancelScope()
        self._url = self._urls[0]
        self._state = "dialling"
        self._conversation: Conversation | None = None
        self._last_of_all = -math.inf
        self._connections = 0
        self._endings: Counter[str] = Counter()
        self._error: FeedError | None = None
        self._error_ms: int | None = None
        self._retry_at_ms: int | None = None

    def stop(self) -> None:
        """End the conversation; ``run`` says goodbye to Polygon, closes the channel and returns."""
        self._running.cancel()

    def reconfigure(self, operational: Operational) -> None:
        """Other symbols, another reconnect delay, from now on and without a reconnect. The last one wins: of several at
        once only the difference to what Polygon was asked for is sent.
        """
        standing = self._standing
        self._redial.change(operational.websocket_reconnect_delay)
        standing.subscriptions.want(operational.symbols)
        new = standing.watch.want(operational.symbols)
        back = [symbol for symbol in new if symbol in standing.subscriptions.asked]  # before its removal was sent
        standing.watch.asked(back, trio.current_time())
        standing.changed.unpark_all()

    async def run(self) -> None:
        """Stream until stopped. Whatever happens on the way to Polygon, it goes on."""
        async with self._standing.intake.channel, trio.open_nursery() as sockets:
            with self._running:
                untried = len(self._urls)
                while True:
                    error, conversation = await self._connection(sockets)
                    self._endings[error.reason] += 1
                    self._error, self._error_ms = error, self._standing.wall_ms()
                    untried = untried - 1 if isinstance(error, DialFailed) else 0
                    if conversation is None or conversation.connected_since_ms is None:
                        self._url = self._urls[(self._urls.index(self._url) + 1) % len(self._urls)]
                    if untried <= 0:
                        untried = len(self._urls)
                        await self._wait(error, conversation.streamed if conversation else 0.0)
            self._state = "stopped"

    async def _wait(self, error: FeedError, streamed: float) -> None:
        began, began_ms = trio.current_time(), self._standing.wall_ms()
        seconds = self._redial.after(error, streamed=streamed, now=began)
        self._state = "waiting"
        say = log.error if isinstance(error, LoginRefused | TooManyConnections) else log.warning
        say("reconnecting", why=str(error), reason=error.reason, seconds=round(seconds, 1))
        while (due := began + self._redial.seconds) > trio.current_time():  # it may change meanwhile
            self._retry_at_ms = began_ms + round(self._redial.seconds * 1000)
            with trio.CancelScope(deadline=due):
                await self._standing.changed.park()
        self._retry_at_ms = None

    async def _connection(self, sockets: trio.Nursery) -> tuple[FeedError, Conversation | None]:
        """One connection from the first packet to the last; why it ended."""
        self._state = "dialling"
        held = await self._standing.turns.hold(OPENING, urgent=True)
        leave, closed = trio.Event(), trio.Event()
        try:
            held.use()
            ws = await sockets.start(self._own_socket, self._url, leave, closed)
            conversation = self._conversation = Conversation(self._standing, ws, address_of(self._url), held)
            why = await conversation.run()
            if isinstance(why, TooManyConnections):
                self._standing.turns.violation(address_of(self._url), str(why))
            self._standing.intake.interrupted(Interruption("disconnect", str(why)))
        except DialFailed as failed:
            return failed, None
        else:
            return why, conversation
        finally:
            held.give_back()
            self._part()
            leave.set()
            with trio.CancelScope(shield=True):  # bounded: the owner closes within CLOSE_SECONDS
                await closed.wait()

    def _part(self) -> None:
        """The conversation is over."""
        self._state = "closing"
        self._standing.subscriptions.forget()
        if self._conversation is not None:
            self._connections += self._conversation.connected_since_ms is not None
            self._last_of_all = max(self._last_of_all, self._conversation.last_of_all)
            self._conversation = None

    async def _own_socket(
        self, url: str, leave: trio.Event, closed: trio.Event, task_status: trio.TaskStatus[WebSocket]
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
                error = dial_error(url, why)
                if isinstance(why, ConnectionRejected) and why.status_code == TOO_MANY_REQUESTS:
                    self._standing.turns.violation(address_of(url), str(error))
                raise error from why
            log.info("the connection did not close cleanly", address=address_of(url), why=repr(why))
        finally:
            closed.set()

    def _last_tick(self) -> float:
        return self._heard(ALL_PAIRS)

    def _last_heard(self, symbol: str) -> float:
        """Of all pairs the feed knows itself: the first of them may be one that nobody has heard of."""
        if symbol != ALL_PAIRS:
            return self._heard(symbol)
        return max(self._last_of_all, self._conversation.last_of_all if self._conversation else -math.inf)

    def snapshot(self) -> FeedSnapshot:
        """As of now."""
        talk, error, standing = self._conversation, self._error, self._standing
        connected_since_ms = talk.connected_since_ms if talk else None
        state = talk.state if talk else self._state
        return FeedSnapshot(
            state=state,
            address=address_of(self._url),
            connected_since_ms=connected_since_ms,
            connections=self._connections + (connected_since_ms is not None),
            endings=dict(self._endings),
            last_error=str(error) if error else None,
            last_error_ms=self._error_ms,
            needs_operator=state != "streaming" and isinstance(error, LoginRefused | TooManyConnections),
            retry_at_ms=self._retry_at_ms,
            acknowledged=tuple(sorted(standing.subscriptions.acknowledged)),
            silent=standing.watch.silent(),
            refusals=talk.refusals if talk else (),
            added=standing.watch.added(),
            added_silent=standing.watch.added_silent(),
            frames=standing.intake.count,
            characters=standing.intake.characters,
            dropped_frames=standing.intake.dropped,
            last_dropped_ms=standing.intake.dropped_ms,
            waiting_characters=standing.intake.channel.held,
            stages=standing.watch.stages(),
            hush=standing.silence.word if state == "streaming" or isinstance(error, FeedSilent) else "none",
            market_said=standing.silence.said(trio.current_time()),
        )
