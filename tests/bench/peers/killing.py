"""``kill -9`` just after a burst, in a stream that does not wait, and a restart: what is there of what was sent.

Ticks come at a rate that everybody keeps up with, then a thousand at once, as news brings them; then comes the kill.
Whoever is away hears nothing of what passes meanwhile. A REST service has the past, for who asks.
"""

import subprocess
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import msgspec
import trio

from polygon_live.model import SOURCE_REST, canonical_symbol
from polygon_live.standin import RestStandIn, StandIn
from polygon_live.wire import Quote
from tests.bench import load
from tests.bench.load import Options
from tests.bench.peers.speed import OURS
from tests.bench.peers.stage import PEERS, Key, Stage
from tests.chaos.ending import settled
from tests.chaos.service import RESTART_SECONDS, Service
from tests.collecting import KEY, environment
from tests.place import Flow, Place
from tests.waiting import PATIENCE_SECONDS, in_thread

PER_SECOND: Final = 100
BURST: Final = 1000
BURST_SECONDS: Final = 0.05
"""From the burst to the kill."""


@attrs.frozen
class Fate:
    """What became of what was sent, in one store of one of them."""

    name: str
    store: str
    sent: int
    heard_lost: int
    """Sent to it before the kill, some of it perhaps still on its way, and not there in the end."""
    passed: int
    """Sent to nobody, after the kill and before the new process was subscribed."""
    passed_lost: int
    """Of them, and of what was sent later, not there in the end."""
    doubled: int
    """There more than once."""


async def kill_each(folder: Path, python: Path, seconds: float, doing: Callable[[str], None]) -> list[Fate]:
    """Everybody who delivers anywhere, for so long before the kill and after it."""
    async with load.place(folder, Options()) as place:
        doing(f"{OURS}, killed and started again")
        fates = await _ours(place, seconds)
        for peer in PEERS:
            if peer.stores:
                doing(f"{peer.name}, killed and started again")
                stage = await in_thread(partial(Stage.prepared, place, peer, python))
                fates += await _peer(stage, seconds)
    return fates


async def _ours(place: Place, seconds: float) -> list[Fate]:
    standin = StandIn(key=KEY)
    rest = RestStandIn(standin.history, key=KEY)
    flow = Flow(standin)
    async with standin.listening() as ws_url, rest.listening() as rest_url, trio.open_nursery() as nursery:
        env = environment(
            place.base, ws_url=ws_url, dsn=place.postgres.dsn, nats_url=place.nats.url, broker=place.broker.address
        )
        service = Service({**env, "POLYGON_LIVE_REST_URL": rest_url}, place.log_path)
        nursery.start_soon(service.run)
        await standin.subscribed(1, 14)
        async with trio.open_nursery() as flowing:
            flowing.start_soon(partial(flow.run, PER_SECOND))
            await trio.sleep(seconds)
            before = await _burst(flow)
            await service.kill()
            await standin.subscribed(2, 14)
            passed = flow.sent - before
            await trio.sleep(seconds)
            flowing.cancel_scope.cancel()
        await settled(await service.process(), flow)
        await service.stop()
        with trio.fail_after(PATIENCE_SECONDS):
            await service.ended.wait()
    rows = [(r["symbol"], r["timestamp_ms"], r["bid"], r["source"]) for r in await in_thread(place.rows)]
    ticks = [msgspec.json.decode(record.value) for record in await in_thread(place.records)]
    records = [(t["symbol"], t["timestamp_ms"], t["bid"], t["source"]) for t in ticks]
    return [
        fate(OURS, store, flow.quotes, before, passed, found)
        for store, found in (("timescale", rows), ("kafka", records))
    ]


async def _peer(stage: Stage, seconds: float) -> list[Fate]:
    standin = StandIn(key="key")
    flow = Flow(standin)
    async with standin.listening() as ws_url:
        process = stage.start(ws_url)
        try:
            await _subscribed(standin, process, 1)
            async with trio.open_nursery() as flowing:
                flowing.start_soon(partial(flow.run, PER_SECOND))
                await trio.sleep(seconds)
                before = await _burst(flow)
                process.kill()
                await in_thread(process.wait)
                await trio.sleep(RESTART_SECONDS)
                process = stage.start(ws_url)
                await _subscribed(standin, process, 2)
                passed = flow.sent - before
                await trio.sleep(seconds)
                flowing.cancel_scope.cancel()
            standin.latest.close(1000)
            with trio.fail_after(PATIENCE_SECONDS):
                await in_thread(process.wait)
        finally:
            process.kill()
    read: dict[str, Callable[[], list[Key]]] = {"timescale": stage.rows, "kafka": stage.records}
    fates = []
    for store in (s for s in stage.peer.stores if s in read):
        found = ((*key, "") for key in await in_thread(read[store]))
        fates.append(fate(stage.peer.name, store, flow.quotes, before, passed, found))
    return fates


async def _burst(flow: Flow) -> int:
    """How many were sent in all when it is time to kill."""
    for _ in range(BURST // 20):
        flow.send(20)
    await trio.sleep(BURST_SECONDS)
    return flow.sent


async def _subscribed(standin: StandIn, process: subprocess.Popen[bytes], connections: int) -> None:
    with trio.fail_after(60):
        await standin.subscribed(connections)
    if process.poll() is not None:
        raise SystemExit(f"{process.args!r} has ended: {process.returncode}")


def fate(
    name: str, store: str, sent: list[Quote], before: int, passed: int, found: Iterable[tuple[str, int, float, str]]
) -> Fate:
    """REST knows whole seconds only: what was fetched is found by its second."""
    live: Counter[Key] = Counter()
    fetched: Counter[Key] = Counter()
    for symbol, ms, bid, source in found:
        (fetched if source == SOURCE_REST else live)[symbol, ms, round(bid, 9)] += 1
    lost = [0, 0]
    for n, quote in enumerate(sent):
        key = (canonical_symbol(quote.p), quote.t, round(quote.b, 9))
        second = (key[0], quote.t // 1000 * 1000, key[2])
        for counted, wanted in ((live, key), (fetched, second)):
            if counted[wanted]:
                counted[wanted] -= 1
                break
        else:
            lost[n >= before] += 1
    return Fate(name, store, len(sent), lost[0], passed, lost[1], live.total() + fetched.total())
