"""The conversation on one connection: log in, then ask for what is wanted, read, and watch what comes.

Rules of this file's state:

- The socket is always read: whoever has to wait for a turn before he may send is another task than the reader.
- Errors travel as values (``verdict``), because the tasks of one connection share a nursery and only the first to know
  is right.
- What is wanted may change at any time. Whoever changes it, or something that others decide by, unparks ``changed``.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import attrs
import structlog
import trio
from trio_websocket import ConnectionClosed

from polygon_live import wire
from polygon_live.config import Secret
from polygon_live.dial import closed_error
from polygon_live.errors import FeedError, FeedSilent, LoginRefused, RestError, SubscriptionFailed
from polygon_live.frames import Intake
from polygon_live.limits import Held, Turns
from polygon_live.login import Login, Phase
from polygon_live.model import Interruption
from polygon_live.operational import ALL_PAIRS
from polygon_live.silence import ASK_AGAIN_SECONDS, IDLE_SECONDS, REFUSED_AGAIN_SECONDS, Answer, Silence
from polygon_live.subscriptions import Subscriptions
from polygon_live.watch import ACK_SECONDS, Decision, SymbolWatch
from polygon_live.websocket import WebSocket

LOGIN_SECONDS: Final = 15.0
"""From the open WebSocket to the answer to the login. No turn is waited for in it."""
PONG_SECONDS: Final = 10.0
MARKET_SECONDS: Final = 30.0
"""For the question whether the market is open, the wait for its turn included."""

log = structlog.get_logger()


@attrs.frozen(kw_only=True, eq=False)
class Standing:
    """What outlives connections."""

    key: Secret
    subscriptions: Subscriptions
    watch: SymbolWatch
    silence: Silence
    market: Callable[[], Awaitable[str]] | None
    """Asks Polygon for ``open`` or ``closed``. Raises RestError. None: it can't be asked."""
    intake: Intake
    turns: Turns
    wall_ms: Callable[[], int]
    changed: trio.lowlevel.ParkingLot


class Conversation:
    """``held`` are turns for the login and the first message after it; ``address`` is for people."""

    def __init__(self, standing: Standing, ws: WebSocket, address: str, held: Held) -> None:
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
        self._last_message = self._last_quotes = -math.inf
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
            return closed_error(why, self._login.hide)
        except FeedError as why:
            return why
        self.state = "subscribing"
        self._last_message = self._last_quotes = trio.current_time()
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
            with self._ws.shown_to(self._take):
                while True:
                    for status in await self._ws.get_messages():
                        await self._hear(status)
        except ConnectionClosed as why:
            return closed_error(why, self._login.hide)
        except FeedError as why:
            return why

    def _take(self, messages: Sequence[str | bytes]) -> Sequence[str | bytes]:
        self._last_message = trio.current_time()
        now_ms = self._standing.wall_ms()
        for message in messages:
            self._standing.intake.take(message, now_ms)
        statuses = [message for message in messages if wire.may_hold_status(message)]
        if len(statuses) < len(messages):
            self._last_quotes = self._last_message
            if self._standing.subscriptions.only_all():
                self.last_of_all = self._last_message
            if self._streaming_since == math.inf:
                self._streaming_since = self._last_message
        return statuses

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
            doubted = self._standing.watch.most_silent() and self._standing.silence.may_ask(now)
            if doubted:
                await self._ask()  # so many at once: a holiday, with a tick now and then?
                self._standing.watch.listened()
            self._tell(decision)
            if decision.resubscribe:
                log.warning("subscribing anew", symbols=decision.resubscribe, polygon_says=self.refusals)
                subscriptions.ask_anew(decision.resubscribe)
                self._standing.changed.unpark_all()
            if doubted:
                continue  # something may have changed meanwhile
            decided = self._asked_at + ACK_SECONDS if self.state == "subscribing" else math.inf
            with trio.CancelScope(deadline=min(decision.ask_again, decided)):
                await self._standing.changed.park()

    def _tell(self, decision: Decision) -> None:
        subscriptions = self._standing.subscriptions
        for symbol, sentence in decision.noted.items():
            log.info("a symbol is unusually quiet", symbol=symbol, silence=sentence)
        if decision.report:
            closed = self._standing.silence.said(trio.current_time()) == "closed"
            say = log.info if closed else log.error
            said = ("the market is closed",) if closed else self.refusals
            say("symbols do not stream", symbols=decision.report, polygon_says=said)
        if decision.added_silent:
            log.error(
                "added symbols do not stream: is each the name of a pair that the plan has?",
                symbols=decision.added_silent,
                acknowledged=[s for s in decision.added_silent if s in subscriptions.acknowledged],
                polygon_says=self.refusals,
            )

    async def _watch_silence(self, end: Callable[[FeedError], None]) -> None:
        """One timer a connection, not a cancel scope a frame: at one event a frame that would cost as much as decoding.

        Silence proves nothing: a closed market is silent, and so is a half-open connection. A pong tells them apart, as
        any message does; a missing pong alone does not, for some servers send none.
        """
        silence = self._standing.silence
        looked = -math.inf
        while True:
            await trio.sleep_until(max(self._last_quotes, looked) + IDLE_SECONDS)
            if trio.current_time() < self._last_quotes + IDLE_SECONDS:
                continue
            alive = trio.current_time() < self._last_message + IDLE_SECONDS or await self._pong()
            looked = trio.current_time()
            if looked < self._last_quotes + IDLE_SECONDS:
                continue
            odd = self._standing.watch.odd(self._last_quotes, looked)
            before = silence.word
            step = silence.step(looked, alive=alive, odd=odd)
            if before == "none" and silence.word != "none":
                log.info("nothing comes of any symbol, though the market should be open", address=self._address)
            if step == "ask":
                await self._ask()
                step = silence.step(trio.current_time(), alive=alive, odd=odd)
            if step == "reconnect" and self._last_quotes < looked:
                silence.reconnecting(looked)
                self._standing.watch.reconnecting(looked)
                sign = "answers pings but sends no quotes" if alive else "sends nothing and answers no ping"
                end(FeedSilent(f"{self._address} {sign}: no quote for {looked - self._last_quotes:.0f} s"))
                return

    async def _ask(self) -> None:
        """Whether Polygon says that the market is open, and what that makes of the silence."""
        silence, before = self._standing.silence, self._standing.silence.word
        silence.asking(trio.current_time())
        answer: Answer = "unknown"
        again, said = ASK_AGAIN_SECONDS, "there is nobody to ask"
        if self._standing.market is not None:
            try:
                with trio.fail_after(MARKET_SECONDS):
                    said = await self._standing.market()
                answer = "open" if said == "open" else "closed"
            except trio.TooSlowError:
                said = f"no answer within {MARKET_SECONDS:g} s"
            except RestError as why:
                said, again = str(why), ASK_AGAIN_SECONDS if why.again else REFUSED_AGAIN_SECONDS
        silence.answered(answer, said, trio.current_time(), again=again)
        if silence.word == before:
            return
        if silence.word == "alarm":
            log.error("no ticks at all, though Polygon says that the market is open", address=self._address)
        elif silence.word == "quiet":
            log.info("no ticks at all: a holiday? The silence is left alone", polygon_says=said)

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
