"""The whole daemon under a load: three stores, a sender and a subscriber, each a process of its own on this machine.

What is measured of a period (``Period``) is what the kernel and the helper processes noted; the collector is asked
before and after it, and during it only where its answers steer the load.
"""

import os
import signal
import tempfile
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import msgspec
import psycopg
import trio
from kafka import KafkaAdminClient  # type: ignore[attr-defined,unused-ignore]

from polygon_live.config import NatsAccess, Secret
from polygon_live.document import document
from polygon_live.embedded import Broker, EmbeddedServer, Nats, Postgres
from polygon_live.engines.nats import create_stream
from polygon_live.histogram import quantile
from polygon_live.operational import Operational
from polygon_live.standin import StandInHub
from tests import reading
from tests.bench import machine, ticks
from tests.bench.sender import Marks, Sender
from tests.bench.subscriber import Heard, Subscriber
from tests.collecting import Running
from tests.engines.kafka import Kafka
from tests.place import STORES, Place
from tests.waiting import in_thread

SERVICE: Final = "polygon-live-collector"
PATIENCE_SECONDS: Final = 600.0
WINDOW_TICKS: Final = 19_000
"""Sent and not yet in all stores, where the load is as much as goes: below what a store's queue holds (20,000), for
what it does not hold is read from the journal, which is another matter."""
ASK_SECONDS: Final = 0.1
"""Each answer costs the collector some 3 ms."""


@attrs.frozen
class Options:
    """How the daemon is run."""

    kafka_client: str | None = None
    """POLYGON_LIVE_KAFKA_CLIENT; None: not set."""
    broker: str = "apache"
    """``apache``: what users run, though Java takes its share of the cores. Or ``embedded``, which writes all that it
    has ever got to a file each second, four times as large: good for a few thousand ticks.
    """
    stream: bool = False
    """Whether a JetStream stream keeps the ticks."""


@attrs.frozen
class Period:
    """What passed in a stretch of time."""

    seconds: float
    ticks: int
    cpu: Mapping[str, float]
    """Seconds, by process: collector, PostgreSQL, NATS, Kafka, sender, subscriber."""
    threads: Mapping[str, float]
    """Of the collector, those that cost most."""
    idle: float
    """Seconds, of all cores."""
    strangers: float
    """Seconds of CPU that went to none of these and were not idle: how busy the machine was with other things."""
    resident_mib: float
    """The collector, at its end."""
    batches: Mapping[str, float]
    """Ticks in one, by store, on average."""

    @property
    def us_per_tick(self) -> float:
        """CPU of the collector, threads included, in µs."""
        return self.cpu["collector"] / self.ticks * 1e6


@attrs.frozen
class _Reading:
    """What the books say at one moment; ``batches`` are ticks and batches, by store."""

    at: float
    cpu: Mapping[str, float]
    threads: Mapping[str, float]
    idle: float
    batches: Mapping[str, tuple[float, int]]


@attrs.define
class Rig:
    """A collector and what stands around it. Times are of CLOCK_MONOTONIC, which all processes of a machine share."""

    place: Place
    _ending: AsyncExitStack
    _settings: Mapping[str, str]
    sender: Sender
    subscriber: Subscriber
    folder: Path
    running: Running = attrs.field(init=False)
    started: float = 0.0
    """When the collector's process was begun, in seconds."""

    async def start(self) -> None:
        """Return when it has subscribed."""
        self.started = time.monotonic()
        running = self.place.collector(self.sender.url, **self._settings)
        self.running = await self._ending.enter_async_context(running)
        with trio.fail_after(120):
            await in_thread(partial(self.sender.subscribed, len(self.sender.symbols)))

    async def stop(self) -> None:
        """In order, as a service manager does it."""
        self.running.signal(signal.SIGTERM)
        await self.running.ended()

    # Loads ----------------------------------------------------------------------------------------------------------

    async def steady(self, per_second: float, *, per_frame: int, seconds: float) -> Period:
        """A load of this rate for so long and until all of it is delivered, and what that cost."""
        count = max(1, round(per_second * seconds / per_frame)) * per_frame
        before = await self._reading()
        self.sender.send(count, per_second=per_second, per_frame=per_frame)
        await in_thread(self.sender.wait)
        await self.until_delivered()
        return await self._since(before, count)

    async def most(
        self, *names: str, per_frame: int, seconds: float = float("inf"), count: float = float("inf")
    ) -> Period:
        """As much as these stores (all, if none is named) acknowledge, for so long or so many, and until the last tick
        is in them.
        """
        before, first, delivered = await self._reading(), self.sender.sent, self.sender.sent
        begun = trio.current_time()
        step = max(per_frame, 1000)
        while trio.current_time() < begun + seconds and self.sender.sent < first + count:
            room = min(WINDOW_TICKS - self.sender.sent + delivered, first + count - self.sender.sent + step - 1)
            room = int(room // step * step)
            if room > 0:
                self.sender.send(room, per_second=None, per_frame=per_frame)
            await trio.sleep(ASK_SECONDS)
            delivered = await self.delivered(*names)
        await in_thread(self.sender.wait)
        await self.until_delivered(*names)
        return await self._since(before, self.sender.sent - first)

    async def standing(self, seconds: float) -> Period:
        """Nothing but time passes."""
        before = await self._reading()
        await trio.sleep(seconds)
        return await self._since(before, 0)

    async def delivered(self, *names: str) -> int:
        """Ticks that these stores, all if none is named, have acknowledged."""
        state = await self.running.state()
        return min(int(s["delivered"]) for s in state["sinks"] if not names or s["name"] in names)

    async def until_delivered(self, *names: str) -> None:
        """Whatever was sent."""
        with trio.fail_after(PATIENCE_SECONDS):
            while await self.delivered(*names) < self.sender.sent:  # noqa: ASYNC110  # it is another process
                await trio.sleep(ASK_SECONDS)

    # What it cost ---------------------------------------------------------------------------------------------------

    async def _reading(self) -> "_Reading":
        pid = self.running.process.pid
        state = await self.running.state()
        return _Reading(
            time.monotonic(),
            {
                "collector": machine.cpu_seconds(pid),
                **{s.name: machine.tree_cpu_seconds(s.pid or 0) for s in map(self.place.server, STORES)},
                "sender": machine.cpu_seconds(self.sender.pid),
                "subscriber": machine.cpu_seconds(self.subscriber.pid),
                "bench": machine.cpu_seconds(os.getpid()),
            },
            machine.threads(pid),
            machine.idle_seconds(),
            {s["name"]: (s["batches"]["total"], sum(s["batches"]["counts"])) for s in state["sinks"]},
        )

    async def _since(self, before: "_Reading", count: int) -> Period:
        now = await self._reading()
        spent = {name: seconds - before.threads.get(name, 0.0) for name, seconds in now.threads.items()}
        busiest = sorted(spent, key=lambda name: -spent[name])[:6]
        batches = {}
        for name, (total, number) in now.batches.items():
            had, were = before.batches[name]
            batches[name] = round((total - had) / (number - were), 1) if number > were else 0.0
        seconds, idle = now.at - before.at, now.idle - before.idle
        cpu = {name: round(now.cpu[name] - before.cpu[name], 2) for name in now.cpu}
        return Period(
            seconds=seconds,
            ticks=count,
            cpu=cpu,
            threads={name: round(spent[name], 2) for name in busiest if spent[name]},
            idle=round(idle, 2),
            strangers=round(seconds * len(os.sched_getaffinity(0)) - idle - sum(cpu.values()), 2),
            resident_mib=machine.resident_mib(self.running.process.pid),
            batches=batches,
        )

    async def written(self) -> Marks:
        """When each tick was, since this was last asked."""
        return await in_thread(partial(self.sender.marks, self.folder))

    async def to_the_subscriber(self, sent: Marks) -> "Delays":
        """From each tick's write to the subscriber's hands. Whatever was sent must have been delivered."""
        with trio.fail_after(PATIENCE_SECONDS):
            while await in_thread(self.subscriber.count) < self.sender.sent:  # noqa: ASYNC110
                await trio.sleep(ASK_SECONDS)
        heard = await in_thread(partial(self.subscriber.heard, self.folder))
        self._compare(heard)
        return delays(sent, heard.marks)

    def _compare(self, heard: Heard) -> None:
        """The n-th message must be the n-th tick that was sent: else the times would be of different ticks."""
        bids = [msgspec.json.decode(tick.replace(ticks.MOMENT, b"0"))["b"] for tick in self.sender.ticks]
        for count, bid in zip(heard.marks.counts, heard.bids, strict=True):
            if bids[(count - 1) % len(bids)] != bid:
                raise SystemExit(f"message {count} on NATS is not the tick that was sent as number {count}")

    async def to_the_table(self, sent: Marks) -> "Delays":
        """From each tick's write to the commit of its transaction, by the server's own note of that."""
        return delays(sent, await in_thread(partial(_commits, self.place.postgres.dsn)))

    async def acknowledged(self, name: str) -> tuple[Sequence[float], Sequence[int]]:
        """The collector's own histogram of a store's delays from receipt on: bounds in seconds, and counts."""
        delay = (await self.running.sink(name))["delay"]
        return delay["bounds"], delay["counts"]

    # Whether all of it is there -------------------------------------------------------------------------------------

    async def complete(self) -> Mapping[str, int]:
        """How many ticks each place has; raises SystemExit if it is not everywhere what was sent."""
        await self.until_delivered()
        state = await self.running.state()
        rows = await in_thread(partial(_rows, self.place.postgres.dsn))
        counted = {
            "sent": self.sender.sent,
            "accepted": state["validator"]["accepted"],
            **{f"acknowledged by {s['name']}": s["delivered"] for s in state["sinks"]},
            **rows,
            **await in_thread(partial(archived, self.place.broker.address)),
            "messages": await in_thread(self.subscriber.count),
        }
        if len(set(counted.values())) != 1 or state["feed"]["dropped_frames"]:
            raise SystemExit(f"these should be the same: {counted}; rejects {state['rejects']['counts']}")
        return counted


@attrs.frozen
class Delays:
    """Nanoseconds, rising, and how many ticks had each."""

    values: Sequence[int]
    weights: Sequence[int]

    def at(self, share: float) -> float:
        """The percentile, in ms."""
        total, passed = sum(self.weights), 0
        for value, weight in zip(self.values, self.weights, strict=True):
            passed += weight
            if passed >= share * total:
                return value / 1e6
        return float("nan")

    @property
    def told(self) -> Mapping[str, float]:
        """In ms."""
        shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}
        return {name: round(self.at(share), 3) for name, share in shares.items()}


def delays(sent: Marks, arrived: Marks) -> Delays:
    """Tick by tick, though both were noted for many at a time: by their number."""
    found: list[tuple[int, int]] = []
    at, number = 0, sent.counts[0] - 1 if sent.counts else 0
    first = bisect_left(arrived.counts, sent.counts[0]) if sent.counts else 0
    for count, moment in zip(arrived.counts[first:], arrived.nanoseconds[first:], strict=True):
        while number < count and at < len(sent.counts):
            upto = min(count, sent.counts[at])
            found.append((moment - sent.nanoseconds[at], upto - number))
            number = upto
            at += number == sent.counts[at]
    found.sort()
    return Delays([value for value, _ in found], [weight for _, weight in found])


def between(
    before: tuple[Sequence[float], Sequence[int]], after: tuple[Sequence[float], Sequence[int]], q: float
) -> float:
    """The percentile of what came to a histogram meanwhile, in ms: as fine as its buckets are."""
    found = quantile(q, after[0], [now - then for now, then in zip(after[1], before[1], strict=True)])
    return float("nan") if found is None else found * 1000


def _commits(dsn: str) -> Marks:
    asked = """select count(*), extract(epoch from pg_xact_commit_timestamp(xmin))::numeric
               from market_ticks group by xmin order by min(seq)"""
    with psycopg.connect(dsn) as connection:
        found = connection.execute(asked).fetchall()
    offset = time.time_ns() - time.monotonic_ns()
    counts, total = [], 0
    for number, _ in found:
        total += number
        counts.append(total)
    return Marks(counts, [int(moment * 10**9) - offset for _, moment in found])


def _rows(dsn: str) -> Mapping[str, int]:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("select count(*), count(distinct seq) from market_ticks").fetchone()
    assert row is not None
    return {"rows": row[0], "distinct rows": row[1]}


def archived(brokers: str) -> Mapping[str, int]:
    """Committed records of the archive, and how many different ticks they are."""
    seqs: list[int] = []
    for records in reading.portions(brokers):
        seqs += [int(dict(record.headers)["seq"]) for record in records]
    return {"records": len(seqs), "distinct records": len(set(seqs))}


# Its parts ----------------------------------------------------------------------------------------------------------


def _start(postgres: Postgres, *others: EmbeddedServer) -> None:
    """PostgreSQL notes when it commits: it was not made to, and takes that up at a start only."""
    postgres.start()
    with psycopg.connect(postgres.dsn, autocommit=True) as admin:
        admin.execute("alter system set track_commit_timestamp = on")
    postgres.stop()
    for server in (postgres, *others):
        server.start()


@asynccontextmanager
async def place(folder: Path, options: Options) -> AsyncIterator[Place]:
    """Three stores of this measurement's own."""
    postgres, nats = Postgres(folder / "postgres"), Nats(folder / "nats")
    broker = Kafka(folder / "kafka") if options.broker == "apache" else Broker(folder / "broker")
    home = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    if options.kafka_client:
        home["POLYGON_LIVE_KAFKA_CLIENT"] = options.kafka_client
    try:
        await in_thread(partial(_start, postgres, nats, broker))
        if options.stream:
            await create_stream(NatsAccess((Secret(nats.url),)))
        yield Place(postgres, nats, broker, home, folder / "collector.log")
    finally:
        for server in (postgres, nats, broker):
            server.kill()


@asynccontextmanager
async def rig(stores: Place, collector: str, *, symbols: int = 14) -> AsyncIterator[Rig]:
    """A collector of this name on these stores. What is in the table and in the archive from before is removed."""
    async with AsyncExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix=f"bench-{collector}-")))
        await in_thread(partial(emptied, stores))
        more = {"POLYGON_LIVE_COLLECTOR_ID": collector, "POLYGON_LIVE_DATA_DIR": str(folder / "data")}
        if symbols != 14:  # its safe defaults are the fourteen
            hub = StandInHub()
            hub.post(SERVICE, document(Operational(symbols=ticks.symbols(symbols))))
            more["POLYGON_LIVE_HUB_URL"] = await ending.enter_async_context(hub.listening())
        subscriber = ending.enter_context(Subscriber(stores.nats.url))
        sender = ending.enter_context(Sender(symbols))
        at = attrs.evolve(stores, log_path=folder / "collector.log")
        made = Rig(at, ending, more, sender, subscriber, folder)
        await made.start()
        yield made


def emptied(stores: Place) -> None:
    """The table and the archive. A collector that has no cursor reads back what others have left there, for as long as
    that takes.
    """
    with psycopg.connect(stores.postgres.dsn) as connection:
        if connection.execute("select to_regclass('market_ticks')").fetchone() != (None,):
            connection.execute("truncate market_ticks")
    with closing(KafkaAdminClient(bootstrap_servers=stores.broker.address)) as admin:
        if reading.TOPIC in admin.list_topics():
            admin.delete_topics([reading.TOPIC])
        while reading.TOPIC in admin.list_topics():
            time.sleep(0.05)
