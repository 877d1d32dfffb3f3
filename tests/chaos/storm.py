"""Everything that can happen, at random, as often as it is told: to the collector's process, the servers, the lines
to them, the connection to Polygon, and its REST service.

Each of those has a fate of its own, drawn from the seed and its name, so that a seed brings back what is done to whom
and for how long; how these fall together is the machine's doing. Each does all that can be done to it, in an order of
its own, before it begins anew. A fault that has begun is got over before the storm ends.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Final

import trio

from polygon_live.commands.progress import Progress
from polygon_live.embedded import EmbeddedServer
from polygon_live.standin import RestStandIn, StandIn
from polygon_live.standin.rest import FAULTS
from tests.chaos import lines
from tests.chaos.lines import Line
from tests.chaos.service import Service
from tests.waiting import in_thread

SERVER_WAYS: Final = ("killed", "stopped", "held", "held, then killed")
FEED_WAYS: Final = ("reset", "dropped", "closed")
REST_WAYS: Final = ("too-many", "server-error", "unavailable", "cut", "garbage", "bad-gateway")
LONGEST_SECONDS: Final = 3.0
HELD_SECONDS: Final = 1.5
"""The collector's process, at most: longer than a stall of the journal would be told of otherwise."""


class Storm:
    """What happens to whom is told in ``done``, and printed while it happens."""

    def __init__(
        self,
        seed: int,
        service: Service,
        standin: StandIn,
        rest: RestStandIn,
        servers: Mapping[str, EmbeddedServer],
        line_of: Mapping[str, Line],
        progress: Progress,
        *,
        only_held: Sequence[str] = (),
    ) -> None:
        """``only_held``: servers that may not be ended, because they lose what they have acknowledged."""
        self._seed = seed
        self._service = service
        self._standin = standin
        self._rest = rest
        self._servers = servers
        self._lines = line_of
        self._progress = progress
        self._only_held = only_held
        self._over = trio.Event()
        self.done: defaultdict[str, Counter[str]] = defaultdict(Counter)

    async def rage(self, kills: int) -> None:
        """Until the collector was killed so often, and all else has been got over."""
        async with trio.open_nursery() as nursery:
            for name in self._servers:
                nursery.start_soon(self._fate, f"{name}'s server", self._ways_of(name), self._strike_server, 1.0, 8.0)
                nursery.start_soon(self._fate, f"{name}'s line", lines.WAYS, self._spoil_line, 1.0, 8.0)
            nursery.start_soon(self._fate, "feed", FEED_WAYS, self._cut_feed, 3.0, 12.0)
            nursery.start_soon(self._fate, "REST", REST_WAYS, self._spoil_rest, 2.0, 10.0)
            nursery.start_soon(self._fate, "collector", ("held",), self._hold_collector, 8.0, 30.0)
            chance = self._chance("kills")
            for number in range(kills):
                self._progress.show("kills", number, kills)
                # Half of them soon after the start before.
                await trio.sleep(chance.uniform(0.0, 3.0) if chance.random() < 0.5 else chance.uniform(3.0, 12.0))
                stage = await self._service.kill()
                self._tell("collector", f"killed while {stage}", f"{number + 1} of {kills}")
            self._progress.show("kills", kills, kills)
            self._progress.wait("the last faults are got over")
            self._over.set()

    def _chance(self, name: str) -> random.Random:
        return random.Random(f"{self._seed} {name}")

    def _ways_of(self, name: str) -> Sequence[str]:
        return ("held",) if name in self._only_held else SERVER_WAYS

    async def _fate(
        self,
        name: str,
        ways: Sequence[str],
        strike: Callable[[str, str, float], Awaitable[None]],
        least: float,
        most: float,
    ) -> None:
        chance = self._chance(name)
        for way in _shuffled(ways, chance):
            wait, lasts = chance.uniform(least, most), chance.uniform(0.2, LONGEST_SECONDS)
            with trio.move_on_after(wait):
                await self._over.wait()
                return
            self._tell(name, way, f"for {lasts:.1f} s")
            await strike(name.partition("'")[0], way, lasts)

    def _tell(self, name: str, way: str, more: str) -> None:
        self.done[name][way] += 1
        with self._progress.hidden():
            print(f"{trio.current_time():.1f} {name}: {way}, {more}", flush=True)  # noqa: T201

    async def _strike_server(self, name: str, way: str, seconds: float) -> None:
        server = self._servers[name]
        if way.startswith("held"):
            await in_thread(server.pause)
            await trio.sleep(seconds)
        if way == "held":
            await in_thread(server.resume)
            return
        await in_thread(server.stop if way == "stopped" else server.kill)
        await trio.sleep(seconds)
        await in_thread(server.start)

    async def _spoil_line(self, name: str, way: str, seconds: float) -> None:
        line = self._lines[name]
        line.way = way
        await trio.sleep(seconds)
        line.way = None

    async def _cut_feed(self, _name: str, way: str, _seconds: float) -> None:
        if not self._standin.connections:
            return
        connection = self._standin.latest
        match way:
            case "reset":
                connection.reset()
            case "dropped":
                connection.drop()
            case _:
                connection.close(1001, "going away")

    async def _spoil_rest(self, _name: str, way: str, _seconds: float) -> None:
        self._rest.faults.append(FAULTS[way])

    async def _hold_collector(self, _name: str, _way: str, seconds: float) -> None:
        await self._service.hold(min(seconds, HELD_SECONDS))


def _shuffled(ways: Sequence[str], chance: random.Random) -> Iterator[str]:
    while True:
        yield from chance.sample(ways, len(ways))
