"""The NATS sink against three nodes: whatever happens to them, listeners hear every tick and the stream has it once."""

import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from nats.js import JetStreamContext

from polygon_live.config import NatsAccess, Secret
from polygon_live.errors import StoreUnavailable
from polygon_live.model import Batch, Tick, encode
from polygon_live.sinks.nats import NatsSink
from tests.engines.nats import Cluster, Node, cluster, in_stream, made_stream, until_so
from tests.pumping import Desk, pump_on
from tests.reading import Listener, listening
from tests.waiting import PATIENCE_SECONDS, in_thread

pytestmark = pytest.mark.engine
NOW_MS = 1_780_401_600_000
SYMBOLS = ("EURUSD", "XAUUSD", "GBPUSD", "USDJPY", "AUDUSD")


class Impatient(NatsSink):
    PUBLISH_SECONDS = 2.0


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("nats")) as made:
        yield made


@pytest.fixture
async def three(nodes: Cluster) -> Cluster:
    """All nodes run, agree, and keep nothing."""
    await in_thread(nodes.start)
    await nodes.whole()

    async def remove(js: JetStreamContext) -> bool:
        for stream in await js.streams_info():
            await js.delete_stream(stream.config.name or "")
        return not await js.streams_info()

    await until_so(nodes.urls[0], remove)
    return nodes


async def leader_of(three: Cluster) -> Node:
    """When the others have caught up with it."""

    async def leader(js: JetStreamContext) -> str | None:
        found = (await js.stream_info("TICKS")).cluster
        assert found is not None
        return found.leader if all(replica.current for replica in found.replicas or ()) else None

    name = await until_so(three.urls[0], leader)
    assert name is not None
    return three.named(name)


async def stored(three: Cluster) -> list[int]:
    """Every ``seq`` in the stream, in its order."""
    return [tick["seq"] for _subject, tick in await in_stream(three.urls[0])]


def batch(first: int, count: int) -> Batch:
    ticks = [
        Tick(SYMBOLS[seq % 5], 1.1, 1.2, 1.15, 0.1, NOW_MS, NOW_MS, 48, "polygon_websocket", "quote", seq, NOW_MS)
        for seq in range(first, first + count)
    ]
    return Batch(first - 1, ticks, [encode(t) for t in ticks])


class Load:
    """A pump under load, up to two thousand ticks a second, until the end of the block; then all of them delivered."""

    def __init__(self, *urls: str) -> None:
        self.offered = 0
        access = NatsAccess(tuple(Secret(url) for url in urls))
        self.sink = Impatient(access, "c1", live_max_age_seconds=10, now_ms=lambda: NOW_MS)
        self.pump = pump_on(self.sink, Desk(), wall_ms=lambda: NOW_MS, rng=random.Random(1))
        self._ended = trio.Event()

    async def offer(self) -> None:
        while not self._ended.is_set():
            self.burst(20)
            await trio.sleep(0.01)
        await self.pump.backlog.aclose()

    def burst(self, ticks: int) -> None:
        self.pump.backlog.offer(batch(self.offered + 1, ticks))
        self.offered += ticks

    def end(self) -> None:
        self._ended.set()

    @property
    def server(self) -> object:
        """Where it is connected."""
        return self.sink.facts().about["server"]

    async def connected(self) -> None:
        await self.until(lambda: self.pump.snapshot().connected)

    async def goes_on(self, ticks: int = 500) -> None:
        """Wait until so many more are delivered."""
        now = self.pump.snapshot().delivered
        await self.until(lambda: self.pump.snapshot().delivered >= now + ticks)

    async def until(self, told: Callable[[], object]) -> None:
        with trio.move_on_after(PATIENCE_SECONDS):
            while not told():  # noqa: ASYNC110  # the servers tell nobody
                await trio.sleep(0.005)
            return
        raise AssertionError(f"it never came to that: {self.pump.snapshot()}")


@asynccontextmanager
async def load(*urls: str) -> AsyncIterator[Load]:
    made = Load(*urls)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.pump.run)
        await made.connected()
        nursery.start_soon(made.offer)
        yield made
        made.end()


@asynccontextmanager
async def listeners(*at: Node) -> AsyncIterator[list[Listener]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(listening(node.url)) for node in at]


def seqs(listener: Listener) -> list[int]:
    """As they came, each only when it came first."""
    return list(dict.fromkeys(tick["seq"] for _, tick in listener.heard))


async def heard_all(listener: Listener, count: int) -> None:
    """In ``seq`` order, apart from repeats."""
    with trio.move_on_after(PATIENCE_SECONDS):
        while len(seqs(listener)) < count:  # noqa: ASYNC110  # the server delivers when it likes
            await trio.sleep(0.05)
    assert_complete(seqs(listener), count)


def assert_complete(found: Sequence[int], count: int) -> None:
    """Each once, and each symbol's in order."""
    assert len(found) == len(set(found)), "some are there twice"
    assert set(range(1, count + 1)) - set(found) == set()
    by_symbol = defaultdict(list)
    for seq in found:
        by_symbol[seq % 5].append(seq)
    assert all(ones == sorted(ones) for ones in by_symbol.values()), "not in order"


async def test_listeners_at_other_nodes_hear_every_tick_though_the_connected_node_is_killed(three: Cluster) -> None:
    used, *others = three.nodes
    async with listeners(*others) as heard:
        async with load(used.url) as work:
            assert work.server == f"127.0.0.1:{used.port}"
            known = str(work.sink.facts().about["servers_known"])
            assert sorted(known.split(", ")) == sorted(f"127.0.0.1:{node.port}" for node in three.nodes)
            await work.goes_on()
            work.burst(5000)
            await work.goes_on(1)
            await in_thread(used.kill)
            await work.goes_on()
            assert three.at(work.server) in others, "the settings name only the dead one"
            assert work.sink.facts().about["mode"] == "core"
        for listener in heard:
            await heard_all(listener, work.offered)


async def test_the_stream_has_every_tick_once_in_order_though_its_leader_is_killed(three: Cluster) -> None:
    await made_stream(three)
    leader = await leader_of(three)
    async with load(leader.url) as work:
        assert work.sink.facts().about["mode"] == "jetstream"
        await work.goes_on()
        await in_thread(leader.kill)
        await work.goes_on()
        assert three.at(work.server) is not leader
        await in_thread(leader.start)
        await work.goes_on()
    assert work.pump.snapshot().retries >= 1
    assert_complete(await stored(three), work.offered)


async def test_the_stream_has_every_tick_once_in_order_though_its_leaders_step_down(three: Cluster) -> None:
    await made_stream(three)
    async with load(three.urls[0]) as work:
        for _ in range(2):
            leader = await leader_of(three)
            for _ in range(2):
                work.burst(5000)
            await work.goes_on(2000)
            await until_so(three.urls[0], lambda js: js._nc.request("$JS.API.STREAM.LEADER.STEPDOWN.TICKS", timeout=2))
            await work.goes_on(7000)
            assert await leader_of(three) is not leader
    assert_complete(await stored(three), work.offered)


async def test_with_one_node_of_three_listeners_hear_on(three: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polygon_live.engines.nats.client.ASK_AGAIN_SECONDS", 0.5)
    alive = three.nodes[2]
    async with listeners(alive) as (heard,):
        async with load(three.nodes[0].url) as work:
            await work.goes_on()
            await in_thread(three.nodes[1].kill)
            await in_thread(three.nodes[0].kill)
            await work.goes_on()
            assert three.at(work.server) is alive
            await work.until(lambda: work.sink.facts().complaints)
            assert work.sink.facts().about["mode"] == "core"
            (complaint,) = work.sink.facts().complaints
            assert "too few of its servers" in complaint
            assert "whether a stream keeps the ticks by now is not known" in complaint
        await heard_all(heard, work.offered)


async def test_with_one_node_of_three_the_stream_is_waited_for_and_has_everything_in_the_end(three: Cluster) -> None:
    await made_stream(three)
    dead = three.nodes[:2]
    async with load(*three.urls) as work:
        await work.goes_on()
        for node in dead:
            await in_thread(node.kill)
        await work.until(lambda: "too few of" in str(work.pump.snapshot().last_error))
        assert isinstance(work.pump._error, StoreUnavailable)
        told = work.pump.snapshot()
        assert not told.needs_operator
        assert told.delivered < work.offered
        await in_thread(dead[0].start)
        await work.goes_on()
        await in_thread(dead[1].start)
    assert_complete(await stored(three), work.offered)


async def test_nothing_acknowledged_is_lost_though_all_nodes_are_killed_at_once(three: Cluster) -> None:
    await made_stream(three)
    async with load(*three.urls) as work:
        await work.goes_on(2000)
        await in_thread(three.kill)
        await work.until(lambda: "can't be reached" in str(work.pump.snapshot().last_error))
        await in_thread(three.start)
        await work.goes_on()
    assert_complete(await stored(three), work.offered)


@pytest.mark.parametrize("keeping", [False, True], ids=["core", "stream"])
async def test_a_node_that_hangs_is_left_and_its_return_changes_nothing(three: Cluster, keeping: bool) -> None:
    if keeping:
        await made_stream(three)
        used = await leader_of(three)
    else:
        used = three.nodes[0]
    async with listeners(*three.others(used)) as heard:
        async with load(used.url) as work:
            await work.goes_on()
            await in_thread(used.pause)
            await work.goes_on()
            assert three.at(work.server) is not used
            await in_thread(used.resume)
            await work.goes_on()
        for listener in heard:
            await heard_all(listener, work.offered)
    if keeping:
        assert_complete(await stored(three), work.offered)


async def test_a_fresh_start_beside_a_cluster_without_a_leader_says_so_and_waits(three: Cluster) -> None:
    for node in three.nodes[:2]:
        await in_thread(node.kill)
    told = None
    with trio.fail_after(PATIENCE_SECONDS):
        while told is None:  # the last node answers as the leader, if it was that, until it misses the others
            sink = Load(three.urls[2]).sink
            try:
                await sink.open()
            except StoreUnavailable as why:
                told = str(why)
            await sink.aclose()
    assert "too few of its servers" in told
    assert "whether a stream keeps the ticks is not known" in told
