"""Whole weeks of a collector's connection in virtual time: the real feed, and a Polygon that costs next to nothing.

What it speaks is Polygon's, but it stands directly behind the library's object: with a WebSocket's frames in between a
week would take minutes. When a market ticks is written down in UTC here, apart from the calendar that is tried.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Any

import attrs
import msgspec
import trio
from structlog.testing import capture_logs

from polygon_live import wire
from polygon_live.calendar import open_since
from polygon_live.health import Health, health
from polygon_live.websocket import Show, WebSocket
from tests.feeding import World
from tests.resting import RestWorld, resting
from tests.test_status import WELL

EVERY_SECONDS = 90
"""A tick of each symbol. Three symbols that nothing is known of yet are given 100 s."""
LOOK_SECONDS = 300
Stretch = tuple[str, str]
"""Two moments in UTC, `2026-03-08 21:00`."""


def at_ms(moment: str) -> int:
    return round(datetime.fromisoformat(f"{moment}+00:00").timestamp() * 1000)


class Line:
    """One connection."""

    def __init__(self) -> None:
        self._to_client, self._messages = trio.open_memory_channel[str](100)
        self._say("connected", "Connected Successfully")
        self.requests: list[wire.Request] = []

    def send(self, message: str) -> None:
        self._to_client.send_nowait(message)

    def _say(self, status: str, *messages: str) -> None:
        self.send(wire.encode([wire.Status(status, message) for message in messages]))

    async def get_message(self) -> str:
        return await self._messages.receive()

    async def get_messages(self) -> Sequence[str | bytes]:
        return self._show([await self.get_message()])

    @contextmanager
    def shown_to(self, show: Show) -> Iterator[None]:
        self._show = show
        yield

    async def send_message(self, text: str) -> None:
        await trio.lowlevel.checkpoint()
        request = msgspec.json.decode(text, type=wire.Request)
        self.requests.append(request)
        if request.action == "auth":
            self._say("auth_success", "authenticated")
        else:
            self._say("success", *(f"{request.action}d to: {topic}" for topic in request.params.split(",")))

    async def ping(self) -> None:
        await trio.lowlevel.checkpoint()


class Polygon:
    """What the feed dials."""

    def __init__(self) -> None:
        self.dialled: list[tuple[float, str]] = []
        self.lines: list[Line] = []
        self.open: Line | None = None

    @asynccontextmanager
    async def dial(self, url: str) -> AsyncIterator[WebSocket]:
        await trio.lowlevel.checkpoint()
        self.dialled.append((trio.current_time(), url))
        self.open = Line()
        self.lines.append(self.open)
        connection: Any = self.open
        yield connection
        self.open = None

    def send(self, quotes: list[wire.Quote]) -> None:
        if self.open is not None:
            self.open.send(wire.encode(quotes))


@attrs.define
class Cost:
    """What a week cost, counted."""

    dials: int = 0
    notes: int = 0
    silences: int = 0
    resubscribed: int = 0
    alarms: int = 0
    asked: int = 0
    interruptions: Counter[str] = attrs.Factory(Counter)


class Week:
    def __init__(self, rest: RestWorld, starts: str, symbols: tuple[str, ...]) -> None:
        self.rest = rest
        self.polygon = Polygon()
        self.starts_ms = at_ms(starts)
        self.world = World(
            self.polygon,  # type: ignore[arg-type]  # as far as the feed's world needs it
            self.polygon.dial,
            sessions=open_since,
            starts_ms=self.starts_ms,
            symbols=symbols,
            market=rest.rest.market,
        )
        self.unhealthy: list[tuple[float, Health]] = []
        self.notes: set[str] = set()
        """What they said of a holiday."""

    async def until(self, moment: str) -> None:
        await self.world.until((at_ms(moment) - self.starts_ms) / 1000)

    async def trade(self, stretches: Mapping[str, Sequence[Stretch]], every_seconds: float = EVERY_SECONDS) -> None:
        """Each of these symbols ticks every so often in its stretches, first five seconds after a beginning."""
        times = {s: [(at_ms(a), at_ms(b)) for a, b in some] for s, some in stretches.items()}
        begins = sorted({a for some in times.values() for a, _ in some})
        for n, begin_ms in enumerate(begins):
            await self.world.until((begin_ms - self.starts_ms) / 1000 + 5)
            until_ms = begins[n + 1] if n + 1 < len(begins) else at_ms("2100-01-01 00:00")
            while (now_ms := self.world.wall_ms()) < until_ms:
                trading = [s for s, some in times.items() if any(a <= now_ms < b for a, b in some)]
                if not trading:
                    break
                self.polygon.send([self.world.quote(symbol) for symbol in trading])
                await trio.sleep(every_seconds)

    async def look(self) -> None:
        """As who asks /health again and again."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            state = attrs.evolve(
                WELL,
                at_ms=self.world.wall_ms(),
                feed=self.world.feed.snapshot(),
                validator=self.world.validator.snapshot(open_since),
            )
            verdict = health(state)
            self.notes.update(note.partition(": ")[2] for note in verdict.notes if "holiday" in note)
            if not verdict.healthy:
                self.unhealthy.append((self.world.now, verdict))


@asynccontextmanager
async def week(
    starts: str, symbols: tuple[str, ...] = ("EURUSD", "USDJPY", "XAUUSD")
) -> AsyncIterator[tuple[Week, Cost]]:
    """The feed at work. What it cost is counted when the block is left."""
    cost = Cost()
    with capture_logs() as logs:
        async with resting() as rest, trio.open_nursery() as nursery:
            one = Week(rest, starts, symbols)
            nursery.start_soon(one.world.judge)
            nursery.start_soon(one.world.feed.run)
            yield one, cost
            one.world.feed.stop()
            nursery.cancel_scope.cancel()
    said = Counter(line["event"] for line in logs)
    cost.dials = len(one.polygon.dialled)
    cost.notes = said["a symbol is unusually quiet"]
    cost.silences = said["nothing comes of any symbol, though the market should be open"]
    cost.resubscribed = said["subscribing anew"]
    cost.alarms = sum(line["log_level"] in {"error", "critical"} for line in logs)
    cost.asked = len(rest.standin.asked)
    cost.interruptions = Counter(item.cause for item in one.world.interruptions)
