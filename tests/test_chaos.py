"""Faults at random on the whole collector under load: one to three stores at once, at any moment, now and then before
the last ones are got over. Afterwards every tick is in each store once, whole and in order.

Where a test fails, what was done is printed. ``CHAOS_SEED`` is another seed: see the fixture ``chance``.
"""

import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio

from polygon_live.commands.progress import Progress
from polygon_live.embedded import EmbeddedServer, Nats, Postgres
from polygon_live.standin import StandIn
from tests import reading, servers
from tests.chaos.siege import besiege
from tests.collecting import KEY, Running
from tests.comparing import archive_agrees, messages_agree, table_agrees, ticks_of
from tests.engines.kafka import Kafka
from tests.engines.nats import in_stream
from tests.place import STORES, Flow, Place, with_stream
from tests.waiting import in_thread, until
from tests.wires import Wire

TICKS_PER_SECOND: Final = 700
LONGEST_SECONDS: Final = 3.0

Ways = Mapping[str, Sequence[str]]
"""What may be done to which store."""
ANY_WAY: Final = ("killed", "held", "held, then killed")
EMBEDDED: Final[Ways] = {"timescale": ANY_WAY, "nats": ANY_WAY, "kafka": ("held",)}
"""The embedded broker's own kill loses what it has acknowledged."""


@attrs.frozen
class Fault:
    """What happens to one store in one round."""

    store: str
    way: str
    after: float
    """Seconds, from the beginning of the round."""
    lasts: float

    @classmethod
    def drawn(cls, store: str, ways: Ways, chance: random.Random) -> "Fault":
        return cls(store, chance.choice(ways[store]), chance.uniform(0, 0.3), chance.uniform(0.2, LONGEST_SECONDS))

    @property
    def kills(self) -> bool:
        return self.way.endswith("killed")

    async def happen(self, server: EmbeddedServer) -> None:
        await trio.sleep(self.after)
        blows = [server.pause] * self.way.startswith("held") + [server.kill] * self.kills
        for blow in blows:
            await in_thread(blow)
            await trio.sleep(self.lasts / len(blows))
        await in_thread(server.start if self.kills else server.resume)


async def rounds(number: int, place: Place, running: Running, ways: Ways, chance: random.Random, *always: str) -> None:
    """Let so many happen, those to ``always`` in each of them, and wait until all is well again."""
    killed = set()
    for n in range(number):
        others = sorted(ways.keys() - set(always))
        chosen = [*always, *chance.sample(others, chance.randint(0 if always else 1, 3 - len(always)))]
        faults = [Fault.drawn(store, ways, chance) for store in chosen]
        patient = chance.random() < 0.5
        print(f"round {n}: {faults}, then {'until all is well' if patient else 'the next'}")  # noqa: T201
        async with trio.open_nursery() as nursery:
            for fault in faults:
                nursery.start_soon(fault.happen, place.server(fault.store))
        killed |= {fault.store for fault in faults if fault.kills}
        if patient:
            await all_well(running)
    state = await all_well(running)
    for sink in state["sinks"]:
        assert sink["retries"] or sink["name"] not in killed, f"{sink['name']} was killed and saw nothing"


async def all_well(running: Running) -> dict[str, Any]:
    return await running.until_state(lambda s: all(x["state"] == "good" and x["connected"] for x in s["sinks"]))


@asynccontextmanager
async def flowing(running: Running, flow: Flow) -> AsyncIterator[None]:
    """Ticks stream during the block; after it each store has taken each of them, and the collector has ended well."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flow.run, TICKS_PER_SECOND)
        await running.until_delivered(500)
        yield
        nursery.cancel_scope.cancel()
    state = await running.until_delivered(flow.sent)
    assert state["validator"]["accepted"] == flow.sent
    for sink in state["sinks"]:
        told = {name: sink[name] for name in ("delivered", "waiting_ticks", "lost", "set_aside", "expired")}
        nothing = dict.fromkeys(("waiting_ticks", "lost", "set_aside", "expired"), 0)
        assert told == {"delivered": flow.sent} | nothing, sink["name"]
    assert not [watcher for watcher in state["watchers"] if watcher["restarts"]]
    # In a log line: what stands between them are sockets that kafka-python leaves to the garbage collector.
    assert not [line for line in running.said.splitlines() if line.startswith("{") and "Traceback" in line]


async def agreed(place: Place, flow: Flow) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The table and the archive hold what was sent; the ticks and their rows."""
    rows = await in_thread(place.rows)
    ticks = ticks_of(flow.quotes, rows[0]["seq"])
    table_agrees(rows, ticks)
    archive_agrees(await in_thread(place.records), ticks, rows)
    return ticks, rows


@pytest.mark.engine
async def test_whatever_happens_to_the_stores_each_has_every_tick_once(place: Place, chance: random.Random) -> None:
    await with_stream(place)
    standin = StandIn(key=KEY)
    flow = Flow(standin)
    async with place.collecting(standin) as running:
        async with flowing(running, flow):
            await running.until_health(200)
            await rounds(4, place, running, EMBEDDED, chance)
            await away_for_long(place, running, chance)
        ticks, rows = await agreed(place, flow)
        messages_agree(await in_stream(place.nats.url), ticks, rows, may_wait=True)


async def away_for_long(place: Place, running: Running, chance: random.Random) -> None:
    """One store, until /health says so; it names no other one, and takes it back."""
    store = chance.choice(STORES)
    print(f"away for long: {store}")  # noqa: T201
    server = place.server(store)
    await in_thread(server.pause if store == "kafka" else server.kill)
    body = await running.until_health(503, f"{store} is down")
    assert not [reason for reason in body["reasons"] for other in STORES if other != store and other in reason]
    assert next(float(r.split(": ")[1].split()[0]) for r in body["reasons"] if r.startswith(store)) >= 10
    await in_thread(server.resume if store == "kafka" else server.start)
    await running.until_health(200)


class Faithful(reading.Listener):
    """A listener that comes back whenever it is thrown out."""

    def __init__(self) -> None:
        super().__init__()
        self._there = trio.Event()

    async def run(self, port: int) -> None:
        """For ever."""
        while True:
            with suppress(OSError, trio.BrokenResourceError):
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    await self.listen(stream, task_status=self)
            if self._there.is_set():
                self._there = trio.Event()
            await trio.sleep(0.02)

    def started(self, value: None = None) -> None:  # a TaskStatus has it
        """It is subscribed."""
        self._there.set()

    async def is_there(self) -> None:
        await self._there.wait()

    def firsts(self) -> list[tuple[str, dict[str, Any]]]:
        """What was heard, without the repeats, which must be repeats to the letter."""
        found: dict[int, tuple[str, dict[str, Any]]] = {}
        for subject, tick in self.heard:
            assert found.setdefault(tick["seq"], (subject, tick))[1] == tick
        return list(found.values())


class Waiting(Wire):
    """Nobody reaches a server that came back before its listener does: what core NATS has no listener for is gone."""

    def __init__(self, port: int, listener: Faithful) -> None:
        super().__init__(port)
        self._listener = listener

    async def passable(self) -> None:
        await self._listener.is_there()


@pytest.mark.engine
async def test_without_a_stream_who_listens_hears_every_tick(place: Place, chance: random.Random) -> None:
    standin = StandIn(key=KEY)
    flow = Flow(standin)
    listener = Faithful()
    async with trio.open_nursery() as nursery, Waiting(place.nats.port, listener).laid() as port:
        nursery.start_soon(listener.run, place.nats.port)
        await listener.is_there()
        async with place.collecting(standin, POLYGON_LIVE_NATS_URLS=f"nats://127.0.0.1:{port}") as running:
            async with flowing(running, flow):
                await rounds(3, place, running, EMBEDDED, chance, "nats")
            assert (await running.sink("nats"))["about"]["mode"] == "core"
            ticks, rows = await agreed(place, flow)
            await until(lambda: listener.heard[-1][1]["seq"] == ticks[-1]["seq"])
            messages_agree(listener.firsts(), ticks, rows, may_wait=True)
        nursery.cancel_scope.cancel()


@pytest.fixture
def real_place(
    own_postgres: Callable[..., Postgres],
    own_nats: Callable[..., Nats],
    clean_environment: dict[str, str],
    tmp_path: Path,
) -> Iterator[Place]:
    """The same with Apache Kafka, which is not started yet."""
    with servers.servers(Kafka, tmp_path) as own_kafka:
        yield Place(own_postgres(), own_nats(), own_kafka(start=False), clean_environment, tmp_path / "collector.log")


@pytest.mark.fetched
async def test_the_collector_is_killed_again_and_again_while_everything_around_it_fails(
    real_place: Place, chance: random.Random
) -> None:
    """``ops/just chaos`` in short."""
    print(await besiege(real_place, Progress(), kills=3, seed=chance.randrange(10**6), per_second=TICKS_PER_SECOND))  # noqa: T201
