"""The feed and the validator on a stand-in Polygon in memory, in virtual time."""

import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import trio
import trio.testing

from polygon_live import wire
from polygon_live.calendar import Sessions, always_open
from polygon_live.config import Secret
from polygon_live.dial import Dial
from polygon_live.feed import Feed
from polygon_live.frames import open_frames, parted
from polygon_live.limits import Turns
from polygon_live.model import Interruption, Reject, Tick, pair_of
from polygon_live.operational import ALL_PAIRS, Limits, Operational
from polygon_live.standin import Connection, StandIn
from polygon_live.validate import Validator

KEY = "test-key-77aa"
URL = "ws://first.example/forex"
OTHER_URL = "ws://second.example/forex"
TUESDAY_MS = 1_780_401_600_000  # 2026-06-02 12:00 UTC
PRICES = {"EURUSD": 1.1, "XAUUSD": 2650.0}


class Upper(random.Random):
    """Always the upper end of the range: exact delays."""

    def uniform(self, a: float, b: float) -> float:
        return max(a, b)


class World:
    """A feed at work, and what came of it."""

    def __init__(
        self,
        standin: StandIn,
        dial: Dial,
        *,
        urls: Sequence[str] = (URL,),
        symbols: Sequence[str] = tuple(PRICES),
        sessions: Sessions = always_open,
        starts_ms: int = TUESDAY_MS,
        key: str = KEY,
        frames_max: int = 2**20,
        reconnect_delay: float = 5.0,
        per_second: float = 5.0,
        market: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        self.standin = standin
        self.began = trio.current_time()
        self._starts_ms = starts_ms
        self.validator = Validator(symbols, Limits(), now_ms=self.wall_ms, first_seq=0)
        self.turns = Turns(per_second, wall_ms=self.wall_ms)
        frames_in, self.frames = open_frames(frames_max)
        self.feed = Feed(
            urls=urls,
            key=Secret(key),
            symbols=symbols,
            reconnect_delay=reconnect_delay,
            turns=self.turns,
            frames=frames_in,
            heard=self._last_heard,
            usual=self.validator.usual,
            market=market,
            wall_ms=self.wall_ms,
            rng=Upper(),
            dial=dial,
            sessions=sessions,
        )
        self._heard: dict[str, float] = {}
        self.ticks: list[Tick] = []
        self.rejects: list[Reject] = []
        self.heard: list[Tick | Interruption] = []
        """Everything in its order."""
        self.quotes: Counter[str] = Counter()
        """How many came of each pair, whatever the validator makes of them: it knows the symbols of the beginning."""

    def _last_heard(self, symbol: str) -> float:
        if symbol == ALL_PAIRS:
            return max(self._heard.values(), default=-math.inf)
        return self._heard.get(symbol, -math.inf)

    def wall_ms(self) -> int:
        return self._starts_ms + round(self.now * 1000)

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return trio.current_time() - self.began

    @property
    def dialled(self) -> list[float]:
        """When the feed dialled, in seconds since the beginning."""
        return [round(at - self.began, 3) for at, _url in self.standin.dialled]

    @property
    def interruptions(self) -> list[Interruption]:
        return [item for item in self.heard if isinstance(item, Interruption)]

    @property
    def came(self) -> list[str]:
        """Symbols of ticks and causes of interruptions, in their order."""
        return [item.cause if isinstance(item, Interruption) else item.symbol for item in self.heard]

    @property
    def state(self) -> str:
        return self.feed.snapshot().state

    async def judge(self) -> None:
        while True:
            try:
                heard = await self.frames.receive_some(2**16)
            except trio.EndOfChannel:
                return
            for part in parted(heard):
                if isinstance(part, Interruption):
                    if part.cause != "mute":
                        self.validator.missed()
                    self.heard.append(part)
                    continue
                quotes = [e for frame in part for e in wire.decode(frame.data) if isinstance(e, wire.Quote)]
                self.quotes.update(q.p for q in quotes)
                self._heard.update({q.p.replace("/", ""): trio.current_time() for q in quotes})
                ticks, refused = self.validator.judge(part, trio.current_time())
                self.heard += ticks
                self.ticks += ticks
                self.rejects += refused

    def quote(self, symbol: str = "EURUSD") -> wire.Quote:
        """A good quote of now, another one at each millisecond."""
        bid = PRICES.get(symbol, 1.5)
        return wire.Quote(pair_of(symbol), round(bid * 1.0001, 5), bid, self.wall_ms(), 48)

    async def stream(self, seconds: float, *symbols: str) -> None:
        """A quote of each of these symbols (all, if none is named) every second for so long, the first one now."""
        for _ in range(round(seconds)):
            self.standin.send([self.quote(s) for s in symbols or PRICES])
            await trio.sleep(1)

    def want(self, *symbols: str, reconnect_delay: float = 5.0) -> None:
        """Reconfigure the feed."""
        self.feed.reconfigure(Operational(symbols=symbols, websocket_reconnect_delay=reconnect_delay))

    async def until(self, seconds: float) -> None:
        """Let time pass until so many seconds after the beginning, and everything that is due then happen."""
        await trio.sleep_until(self.began + seconds)
        await trio.testing.wait_all_tasks_blocked()

    async def subscribed(self, connections: int = 1) -> Connection:
        connection = await self.standin.subscribed(connections, len(PRICES))
        await trio.testing.wait_all_tasks_blocked()
        return connection


@asynccontextmanager
async def feeding(standin: StandIn | None = None, *, judging: bool = True, **settings: object) -> AsyncIterator[World]:
    """Run a feed until the end of the block, then stop it in order."""
    standin = standin or StandIn(key=KEY)
    async with standin.in_memory() as dial, trio.open_nursery() as nursery:
        world = World(standin, dial, **settings)  # type: ignore[arg-type]
        if judging:
            nursery.start_soon(world.judge)
        nursery.start_soon(world.feed.run)
        await trio.testing.wait_all_tasks_blocked()
        yield world
        world.feed.stop()
