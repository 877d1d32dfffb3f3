"""A stop while everything hangs: the journal's disk, and three stores that take connections and never answer."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from polygon_live.calendar import all_of_it, always_open
from polygon_live.config import HttpServer, KafkaAccess, NatsAccess, Secret, Settings
from polygon_live.daemon import Collector, steered
from polygon_live.errors import JournalError
from polygon_live.journal.segment import Segment
from polygon_live.model import Batch
from polygon_live.standin import StandIn
from polygon_live.wire import Quote
from tests.feeding import KEY, URL
from tests.place import now_ms
from tests.waiting import PATIENCE_SECONDS, until


@pytest.fixture
def deaf() -> Iterator[Callable[[], int]]:
    """Ports at which connections are taken, and nothing is ever read."""
    with ExitStack() as sockets:
        yield lambda: int(sockets.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1])


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Set, it hangs in the middle of an append, until the test is over."""
    hangs, over = threading.Event(), threading.Event()
    append = Segment.append

    def hanging(segment: Segment, batch: Batch, at_ms: int) -> None:
        if hangs.is_set():
            over.wait(60)
        append(segment, batch, at_ms)

    monkeypatch.setattr(Segment, "append", hanging)
    yield hangs
    over.set()


async def test_a_stop_while_everything_hangs_ends_and_says_what_is_lost(
    deaf: Callable[[], int], disk: threading.Event, tmp_path: Path
) -> None:
    standin = StandIn(key=KEY)
    settings = Settings(
        api_key=Secret(KEY),
        timescale_dsn=Secret(f"postgresql://user:password@127.0.0.1:{deaf()}/ticks"),
        nats=NatsAccess((Secret(f"nats://127.0.0.1:{deaf()}"),)),
        kafka=KafkaAccess((f"127.0.0.1:{deaf()}",)),
        ws_urls=(URL,),
        rest_url=f"http://127.0.0.1:{deaf()}",
        http=HttpServer(port=0),
        data_dir=tmp_path,
        grace_seconds=2.0,
    )
    lost = pytest.RaisesExc(JournalError, match="2 ticks that not every store had yet were in memory only")
    with trio.fail_after(PATIENCE_SECONDS), capture_logs() as logs, pytest.RaisesGroup(lost, flatten_subgroups=True):
        async with standin.in_memory() as dial, trio.open_nursery() as nursery:
            steering = await steered(settings, symbols=["EURUSD"])
            collector = Collector(settings, steering, dial=dial, sessions=always_open, stretches=all_of_it)
            nursery.start_soon(collector.run)
            await standin.subscribed(1, 1)
            pipeline = collector.pipeline

            def accepted(count: int) -> bool:
                return pipeline.validator.accepted >= count

            for n in range(3):
                standin.send([Quote("EUR/USD", 1.2, 1.1 + n / 100, now_ms(), 48)])
                await until(partial(accepted, n + 1))
                if n == 0:
                    await until(lambda: pipeline.keeper.snapshot().tail)
                    disk.set()
            await until(lambda: pipeline.keeper.failing)
            collector.stop()
            await until(lambda: any(line["event"] == "still ending" for line in logs))
    (waiting, *_) = [line["waiting_ticks"] for line in logs if line["event"] == "still ending"]
    assert waiting == dict.fromkeys(("timescale", "nats", "kafka"), 3)
    told = [
        (line["event"].split(":")[0], line["store"], line["ticks"])
        for line in logs
        if {"store", "ticks"} <= line.keys()
    ]
    assert told == [
        (event, store, ticks)
        for store in ("timescale", "nats", "kafka")
        for event, ticks in (("ticks wait in the journal for the next run", 1), ("ticks are lost with this process", 2))
    ]
