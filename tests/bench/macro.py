"""The whole daemon: what it sustains, how soon a tick is through, what a tick costs, and what it costs to wait."""

import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from tests.bench import bare, load, machine
from tests.bench.load import ASK_SECONDS, PATIENCE_SECONDS, Options, Period, Rig
from tests.bench.report import Figure
from tests.place import STORES, Place
from tests.waiting import in_thread

_numbers = count()

WARM_SECONDS: Final = 3.0
"""Not measured: partitions are made, Kafka's producer is opened, Java compiles."""


@attrs.define
class Bench:
    """How it is to be measured, and where figures go as soon as they are known."""

    options: Options
    seconds: float
    """Of one measurement."""
    backlog: int
    """Ticks that wait in the journal when the store comes back."""
    away: str
    """That store: ``timescale`` or ``kafka``."""
    tell: Callable[[Figure], None]
    doing: Callable[[str], None]
    """What is being done, for who looks on."""
    ending: AsyncExitStack
    servers: dict[str, str] = attrs.field(factory=dict)
    """Their versions, once they were started."""
    _place: Place | None = None

    async def stores(self) -> Place:
        """Started when somebody asks for the first time."""
        if self._place is None:
            self.doing("starting three stores")
            folder = Path(self.ending.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            folder.chmod(0o755)  # noqa: ASYNC240  # PostgreSQL runs under another account
            self._place = await self.ending.enter_async_context(load.place(folder, self.options))
            self.servers |= await in_thread(partial(machine.versions, self._place))
        return self._place

    @property
    def warm(self) -> float:
        """Seconds before a measurement."""
        return min(WARM_SECONDS, self.seconds)

    @asynccontextmanager
    async def rig(self, *, symbols: int = 14) -> AsyncIterator[Rig]:
        """A collector that has no past."""
        stores = await self.stores()
        self.doing("starting a collector")
        async with load.rig(stores, f"bench-{next(_numbers)}", symbols=symbols) as rig:
            yield rig

    async def complete(self, rig: Rig) -> dict[str, int]:
        self.doing("counting what the stores hold")
        return dict(await rig.complete())


def _spent(period: Period) -> dict[str, Any]:
    return attrs.asdict(period)


async def sustained(bench: Bench) -> None:
    """As much as goes, with everything acknowledged by three stores and counted in them."""
    for per_frame, goal in ((20, "45 k (100 k fast)"), (1, "20 k (45 k fast)")):
        async with bench.rig() as rig:
            bench.doing(f"as much as goes, {per_frame} events a frame")
            await rig.most(per_frame=per_frame, seconds=bench.warm)
            period = await rig.most(per_frame=per_frame, seconds=bench.seconds)
            counted = await bench.complete(rig)
        name = f"three stores, journal on, {per_frame} events a frame"
        more = {"period": _spent(period), "complete": counted}
        bench.tell(Figure("sustained", name, period.ticks / period.seconds, "ticks/s", "higher", f"≥ {goal}", more))
        bench.tell(Figure("sustained", f"{name}: CPU of a tick", period.us_per_tick, "µs", "lower"))


STEADY: Final = ((100, 1), (5000, 20), (5000, 1))
"""Ticks a second, events a frame."""


async def steady(bench: Bench) -> None:
    """What a tick costs at a set rate, and how soon it is through."""
    async with bench.rig() as rig:
        bench.doing("warming up")
        await rig.steady(5000, per_frame=20, seconds=bench.warm)
        for per_second, per_frame in STEADY:
            at = f"{per_second} ticks/s, {per_frame} a frame"
            bench.doing(at)
            await rig.to_the_subscriber(await rig.written())
            before = await rig.acknowledged("kafka")
            period = await rig.steady(per_second, per_frame=per_frame, seconds=bench.seconds)
            after = await rig.acknowledged("kafka")
            sent = await rig.written()
            heard, committed = await rig.to_the_subscriber(sent), await rig.to_the_table(sent)

            def tell(
                name: str, value: float, goal: str = "", *, unit: str = "ms", at: str = at, **more: object
            ) -> None:
                bench.tell(Figure("steady", f"{at}: {name}", value, unit, "lower", goal, more))

            busy = per_second == 5000
            cpu_goal = "≤ 25 (12 fast)" if busy and per_frame == 20 else ""
            tell("CPU of the collector for a tick", period.us_per_tick, cpu_goal, unit="µs", period=_spent(period))
            tell("sent → NATS subscriber, p50", heard.at(0.5), "≤ 1", all=heard.told)
            tell("sent → NATS subscriber, p99", heard.at(0.99), "≤ 5")
            tell("sent → committed in the table, p50", committed.at(0.5), all=committed.told)
            tell("sent → committed in the table, p99", committed.at(0.99), "≤ 50" if busy else "")
            acknowledged = load.between(before, after, 0.99)
            tell("received → acknowledged by Kafka, p99", acknowledged, "≤ 50" if busy else "")
        await bench.complete(rig)


IDLE_SECONDS: Final = 30.0


async def idle(bench: Bench) -> None:
    """Fourteen quiet symbols."""
    async with bench.rig() as rig:
        bench.doing("20 ticks/s")
        await rig.steady(20, per_frame=1, seconds=bench.warm)
        period = await rig.steady(20, per_frame=1, seconds=max(IDLE_SECONDS * bench.warm / WARM_SECONDS, bench.seconds))
        await bench.complete(rig)
    share = 100 * period.cpu["collector"] / period.seconds
    bench.tell(Figure("idle", "14 symbols, 20 ticks/s: of a core", share, "%", "lower", "≤ 3", _spent(period)))
    bench.tell(Figure("idle", "14 symbols, 20 ticks/s: resident", period.resident_mib, "MiB", "lower", "≤ 120"))


SYMBOLS: Final = (14, 140, 1400)
RATES: Final = (100, 1000, 5000, 20_000, 50_000)
FEW: Final = 5000


async def scaling(bench: Bench) -> None:
    """What one tick more costs as symbols and rate grow: what the collector costs without any is taken off."""
    by_symbols: list[float] = []
    by_rate: list[float] = []
    for symbols in SYMBOLS:
        async with bench.rig(symbols=symbols) as rig:
            costs = await _costs(bench, rig, f"{symbols} symbols", RATES if symbols == 14 else (FEW,))
            await bench.complete(rig)
        by_symbols.append(costs[FEW])
        by_rate += costs.values() if symbols == 14 else ()
    for what, found in (("symbol counts", by_symbols), ("rates", by_rate)):
        ratio = max(found) / min(found)
        bench.tell(Figure("scaling", f"the dearest of these {what} against the cheapest", ratio, "×", "lower", "≤ 1.2"))


async def _costs(bench: Bench, rig: Rig, what: str, rates: Sequence[int]) -> dict[int, float]:
    """µs by rate."""
    bench.doing(f"{what}: warming up")
    await rig.steady(100, per_frame=20, seconds=bench.warm)  # few: what was sent is verified afterwards
    standing = await rig.standing(bench.seconds / 2)
    costs = {}
    for rate in rates:
        name = f"{what}, {rate} ticks/s"
        bench.doing(name)
        period = await rig.steady(rate, per_frame=20, seconds=bench.seconds / (4 if rate > FEW else 1))
        spare = standing.cpu["collector"] / standing.seconds * period.seconds
        costs[rate] = max(0.01, (period.cpu["collector"] - spare) / period.ticks * 1e6)
        more = {"period": _spent(period), "standing": _spent(standing), "kept up": period.ticks / period.seconds / rate}
        bench.tell(Figure("scaling", f"{name}: CPU of one tick more", costs[rate], "µs", "lower", "", more))
    return costs


LIVE: Final = 4000
"""Ticks a second, while a backlog is caught up."""


async def backlog(bench: Bench) -> None:
    """One store was away; it catches up while ticks go on to come."""
    away, others = bench.away, [store for store in STORES if store != bench.away]
    async with bench.rig() as rig:
        await rig.steady(LIVE, per_frame=20, seconds=bench.warm)
        server = rig.place.server(away)
        await in_thread(server.kill)
        bench.doing(f"{bench.backlog} ticks without {away}")
        built = await rig.most(*others, per_frame=20, count=bench.backlog)
        await rig.to_the_subscriber(await rig.written())
        await in_thread(server.start)
        before, had = await rig.acknowledged("kafka"), await rig.delivered(away)
        bench.doing(f"{away} catches up")
        begun, has = trio.current_time(), 0
        with trio.fail_after(PATIENCE_SECONDS):
            while has < rig.sender.sent - LIVE // 10:
                rig.sender.send(LIVE // 2, per_second=LIVE, per_frame=20)
                await in_thread(rig.sender.wait)
                has = await rig.delivered(away)
        took = trio.current_time() - begun
        after, sent = await rig.acknowledged("kafka"), await rig.written()
        await rig.until_delivered()
        meanwhile = {"sent → NATS subscriber": (await rig.to_the_subscriber(sent)).at(0.99)}
        if away == "kafka":
            meanwhile["sent → committed in the table"] = (await rig.to_the_table(sent)).at(0.99)
        else:
            meanwhile["received → acknowledged by Kafka"] = load.between(before, after, 0.99)
        counted = await bench.complete(rig)
    speed = (has - had) / took
    name = f"{bench.backlog} ticks behind, {LIVE} ticks/s live: {away} catches up, times the live rate"
    more = {"seconds": took, "complete": counted, "building it": _spent(built)}
    bench.tell(Figure("backlog", name, speed / LIVE, "×", "higher", "≥ 3", more))
    for what, found in meanwhile.items():
        bench.tell(Figure("backlog", f"meanwhile {what}, p99", found, "ms", "lower", "≤ 20"))


async def start(bench: Bench) -> None:
    """From the process's beginning to the first tick in its places, the servers being there."""
    async with bench.rig() as rig:
        for which in ("the first start", "a later start"):
            bench.doing(which)
            if which != "the first start":
                await rig.stop()
                await rig.to_the_subscriber(await rig.written())
                await rig.start()
            rig.sender.send(100, per_second=100, per_frame=1)
            while not await rig.delivered():  # noqa: ASYNC110  # it is another process
                await trio.sleep(ASK_SECONDS)
            everywhere = time.monotonic() - rig.started
            await in_thread(rig.sender.wait)
            heard = await in_thread(partial(rig.subscriber.heard, rig.folder))
            on_nats = heard.marks.nanoseconds[0] / 1e9 - rig.started
            for where, value in (("in the NATS subscriber's hands", on_nats), ("in all three stores", everywhere)):
                bench.tell(Figure("start", f"{which}: to the first tick {where}", value, "s", "lower", "≤ 2"))


async def sender(bench: Bench) -> None:
    """What the sender could do, if whoever reads cost nothing."""
    for per_frame in (20, 1):
        bench.doing(f"the sender alone, {per_frame} events a frame")
        speed = await in_thread(partial(bare.speed, per_frame, bench.seconds / 5))
        name = f"the sender into a bare reader, {per_frame} events a frame"
        bench.tell(Figure("sender", name, speed, "ticks/s", "higher"))
