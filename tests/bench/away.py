"""One store away while many ticks pass: the others complete, memory is flat, and on its return the backlog drains.

``python -m tests.bench.away [timescale|nats|kafka] [ticks] [per second]``: the whole collector as a process,
PostgreSQL, NATS with a stream, and Apache Kafka. It prints what was counted, and fails if it does not add up.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import trio

from polygon_live.commands.progress import Progress
from polygon_live.config import NatsAccess, Secret
from polygon_live.embedded import Nats, Postgres
from polygon_live.engines.nats import create_stream
from polygon_live.standin import StandIn
from tests.collecting import KEY, Running
from tests.engines.kafka import Kafka
from tests.place import STORES, Flow, Place
from tests.waiting import in_thread

WARM_UP: Final = 20_000
PATIENCE_SECONDS: Final = 1800.0


def resident(running: Running) -> float:
    """Of the collector, in MiB."""
    pages = int(Path(f"/proc/{running.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def send(flow: Flow, ticks: int, per_second: int, progress: Progress) -> None:
    goal, start, begun = flow.sent + ticks, flow.sent, trio.current_time()
    while flow.sent < goal:
        due = start + round((trio.current_time() - begun) * per_second)
        while flow.sent < min(due, goal):
            flow.send(20)
        progress.show("ticks sent", flow.sent - start, ticks)
        await trio.sleep(0.01)


async def until_delivered(running: Running, count: int, progress: Progress, *names: str) -> dict[str, Any]:
    with trio.fail_after(PATIENCE_SECONDS):
        while True:
            state = await running.state()
            least = min(s["delivered"] for s in state["sinks"] if s["name"] in names)
            progress.show(f"ticks in {' and '.join(names)}", least, count)
            if least >= count:
                return state
            await trio.sleep(0.5)


async def main(away: str, ticks: int, per_second: int) -> None:
    with Progress() as progress, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        postgres, nats, kafka = Postgres(folder / "postgres"), Nats(folder / "nats"), Kafka(folder / "kafka")
        servers = (postgres, nats, kafka)
        try:
            for server in servers:
                progress.wait(f"starting {server.name}")
                await in_thread(server.start)
            place = Place(postgres, nats, kafka, {**os.environ, "HOME": name}, folder / "log")
            await create_stream(NatsAccess((Secret(nats.url),)))
            progress.wait("starting the collector")
            await measure(place, away, ticks, per_second, progress)
        finally:
            for server in servers:
                server.kill()


async def measure(place: Place, away: str, ticks: int, per_second: int, progress: Progress) -> None:
    def say(text: str) -> None:
        with progress.hidden():
            print(text, flush=True)  # noqa: T201

    standin = StandIn(key=KEY)
    flow = Flow(standin)
    others = [store for store in STORES if store != away]
    async with place.collecting(standin) as running:
        await send(flow, WARM_UP, per_second, progress)
        await until_delivered(running, flow.sent, progress, *STORES)
        before = resident(running)
        await in_thread(place.server(away).kill)
        begun = trio.current_time()
        await send(flow, ticks, per_second, progress)
        state = await until_delivered(running, flow.sent, progress, *others)
        passed, during = trio.current_time() - begun, resident(running)
        gone = next(s for s in state["sinks"] if s["name"] == away)
        say(f"{away} away: {ticks} ticks in {passed:.0f} s, all of them in {' and '.join(others)}")
        say(f"resident: {before:.0f} MiB before, {during:.0f} MiB after: {during - before:+.0f}")
        told = {"waiting": gone["waiting_ticks"], "seconds_until_loss": gone["seconds_until_loss"]}
        say(f"{told}, journal {state['journal']['bytes'] / 2**20:.0f} MiB")
        await in_thread(place.server(away).start)
        back = trio.current_time()
        await until_delivered(running, flow.sent, progress, *STORES)
        drained = trio.current_time() - back
        say(f"back: drained in {drained:.0f} s, {ticks / drained:.0f} ticks/s; {resident(running):.0f} MiB")
        state = await running.state()
    if not state["validator"]["accepted"] == flow.sent == state["sinks"][0]["delivered"]:
        raise SystemExit(f"{flow.sent} sent, {state['validator']['accepted']} accepted, {state['sinks']}")
    progress.wait("reading what the stores hold")
    rows = await in_thread(place.rows)
    records = await in_thread(place.records)
    numbers = [row["seq"] for row in rows]
    say(f"sent {flow.sent}, rows {len(numbers)}, distinct {len(set(numbers))}, archive {len(records)}")
    if not len(numbers) == len(set(numbers)) == len(records) == flow.sent:
        raise SystemExit("these numbers should be the same")


if __name__ == "__main__":
    given = dict(enumerate(sys.argv[1:]))
    trio.run(main, given.get(0, "timescale"), int(given.get(1, 1_000_000)), int(given.get(2, 4000)))
