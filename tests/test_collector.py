"""The Python interface, as a program of somebody else uses it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
import structlog
import trio
from structlog.testing import capture_logs

import polygon_live
from polygon_live import PolygonLiveCollector
from polygon_live.errors import ConfigurationError, NotUnderTrio, PolygonLiveError, StreamOverflow
from polygon_live.model import FOURTEEN_SYMBOLS, Tick
from polygon_live.standin import StandIn
from polygon_live.wire import Quote
from tests.collecting import KEY, collector, environment
from tests.comparing import archive_agrees, table_agrees, ticks_of
from tests.place import Place, now_ms
from tests.reading import listening
from tests.waiting import PATIENCE_SECONDS, in_thread, until

EXAMPLE = """
import trio

from polygon_live import PolygonLiveCollector


async def main():
    collector = PolygonLiveCollector()
    await collector.connect_websocket(symbols=["EURUSD", "XAUUSD"])


trio.run(main)
"""
TWO = ("EURUSD", "XAUUSD")


def quotes(count: int) -> list[Quote]:
    """Of now, both symbols in turn, each other than the one before."""
    pairs = (("EUR/USD", 1.1), ("XAU/USD", 2650.0))
    made = []
    for n in range(count):
        pair, price = pairs[n % 2]
        bid = round(price + n / 1000, 5)
        made.append(Quote(pair, round(bid + 0.0001, 5), bid, now_ms(), 48))
    return made


@pytest.fixture
def environ(clean_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """This process's own, without any of our settings."""
    for name in list(os.environ):
        if name.startswith(("POLYGON_", "HOME")):
            monkeypatch.delenv(name)
    for name, value in clean_environment.items():
        monkeypatch.setenv(name, value)
    structlog.reset_defaults()
    yield clean_environment
    structlog.reset_defaults()


@pytest.fixture
async def polygon() -> AsyncIterator[tuple[StandIn, str]]:
    """On a socket."""
    standin = StandIn(key=KEY)
    async with standin.listening() as url:
        yield standin, url


# Into the three stores -----------------------------------------------------------------------------------------------


@pytest.mark.engine
async def test_example_2_as_it_is_written_fills_the_three_stores(place: Place, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(EXAMPLE)
    standin = StandIn(key=KEY)
    sent = quotes(1000)
    async with standin.listening() as ws_url, listening(place.nats.url) as listener:
        servers = {"dsn": place.postgres.dsn, "nats_url": place.nats.url, "broker": place.broker.address}
        env = environment(place.base, ws_url=ws_url, **servers)
        async with collector(env, tmp_path / "log", module="example") as running:
            with trio.fail_after(PATIENCE_SECONDS):
                connection = await standin.subscribed(1, 2)
            assert set(connection.subscribed) == {"EUR/USD", "XAU/USD"}
            standin.send(sent)
            await until(lambda: len(listener.heard) == len(sent))
            await until_rows(place, len(sent))
            running.signal(signal.SIGTERM)
            assert await running.ended() == 0
            assert running.events("collector stopped")[0]["accepted"] == len(sent)
            assert standin.latest.goodbye == 1000
            assert KEY not in running.said
    rows, records = await in_thread(place.rows), await in_thread(place.records)
    ticks = ticks_of(sent, rows[0]["seq"])
    table_agrees(rows, ticks)
    archive_agrees(records, ticks, rows)
    assert {subject.removesuffix(".late") for subject, _tick in listener.heard} == {"ticks.EURUSD", "ticks.XAUUSD"}


async def until_rows(place: Place, count: int) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        while len(await in_thread(place.rows)) < count:  # noqa: ASYNC110  # another process writes them
            await trio.sleep(0.05)


def settle(monkeypatch: pytest.MonkeyPatch, place: Place, ws_url: str, **more: str) -> None:
    """The settings of a collector, in this process."""
    servers = {"dsn": place.postgres.dsn, "nats_url": place.nats.url, "broker": place.broker.address}
    env = environment(place.base, ws_url=ws_url, **servers)
    for name, value in (env | more).items():
        monkeypatch.setenv(name, value)


@pytest.mark.engine
async def test_a_cancellation_ends_it_in_order(
    place: Place, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, polygon: tuple[StandIn, str]
) -> None:
    standin, ws_url = polygon
    settle(monkeypatch, place, ws_url)
    mine = PolygonLiveCollector(symbols=["GBPUSD"])
    with capture_logs() as logs, trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(mine.connect_websocket, symbols=["C:EURUSD", "xau/usd"]))
            connection = await standin.subscribed(1, 2)
            assert set(connection.subscribed) == {"EUR/USD", "XAU/USD"}, "those of the call go before"
            standin.send(quotes(1000))
            await until_rows(place, 1000)
            standin.send(quotes(1000))
            nursery.cancel_scope.cancel()
    assert standin.latest.goodbye == 1000
    events = [line["event"] for line in logs]
    assert events.count("stopping") == 1
    assert events[-1] == "collector stopped"
    accepted = logs[-1]["accepted"]
    assert accepted >= 1000
    rows = await in_thread(place.rows)
    assert len(rows) == accepted
    assert sorted(json.loads(r.value)["seq"] for r in await in_thread(place.records)) == [r["seq"] for r in rows]


@pytest.mark.engine
async def test_a_cancellation_before_anything_has_begun_ends_it_too(
    place: Place, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch, place, "ws://127.0.0.1:1/forex")
    with trio.CancelScope() as scope:
        scope.cancel()
        await PolygonLiveCollector().connect_websocket()
    assert scope.cancelled_caught
    assert await in_thread(place.journal) == []


@pytest.mark.engine
async def test_a_store_that_hangs_costs_a_cancellation_the_grace_period_and_no_tick(
    place: Place, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, polygon: tuple[StandIn, str]
) -> None:
    standin, ws_url = polygon
    settle(monkeypatch, place, ws_url, POLYGON_LIVE_GRACE_SECONDS="0.5")
    with capture_logs() as logs, trio.fail_after(PATIENCE_SECONDS):
        async with listening(place.nats.url) as listener, trio.open_nursery() as nursery:
            nursery.start_soon(partial(PolygonLiveCollector().connect_websocket, symbols=TWO))
            await standin.subscribed(1, 2)
            standin.send(quotes(100))
            await until(lambda: len(listener.heard) == 100)
            await until_rows(place, 100)
            await in_thread(place.postgres.pause)
            standin.send(quotes(100))
            await until(lambda: len(listener.heard) == 200)
            nursery.cancel_scope.cancel()
    waiting = [line for line in logs if line["event"] == "ticks wait in the journal for the next run"]
    assert [(line["store"], line["ticks"]) for line in waiting] == [("timescale", 100)]
    assert len(await in_thread(place.journal)) == 200


@pytest.mark.engine
async def test_it_runs_in_another_thread_where_no_signal_comes(
    place: Place, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, polygon: tuple[StandIn, str]
) -> None:
    standin, ws_url = polygon
    settle(monkeypatch, place, ws_url)
    before = signal.getsignal(signal.SIGTERM)
    scopes: list[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = []

    async def main() -> None:
        with trio.CancelScope() as scope:
            scopes.append((trio.lowlevel.current_trio_token(), scope))
            await PolygonLiveCollector().connect_websocket(symbols=TWO)

    with capture_logs(), trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, trio.run, main)
            await standin.subscribed(1, 2)
            assert signal.getsignal(signal.SIGTERM) is before
            standin.send(quotes(100))
            await until_rows(place, 100)
            token, scope = scopes[0]
            token.run_sync_soon(scope.cancel)
    assert standin.latest.goodbye == 1000


async def test_everything_that_is_missing_is_told_before_anything_is_begun(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mine = PolygonLiveCollector()
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    monkeypatch.setenv("POLYGON_LIVE_DATA_DIR", str(tmp_path / "data"))
    with pytest.raises(ConfigurationError) as raised:
        await mine.connect_websocket(symbols=["EURUSD"])
    names = ("TIMESCALE_DSN", "NATS_URLS", "KAFKA_BROKERS")
    assert [fault.partition(" ")[0] for fault in raised.value.faults] == [f"POLYGON_LIVE_{name}" for name in names]
    assert not (tmp_path / "data").exists()
    assert not structlog.is_configured()


@pytest.mark.engine
async def test_the_environment_is_read_when_it_is_used(
    place: Place, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, polygon: tuple[StandIn, str]
) -> None:
    standin, ws_url = polygon
    mine = PolygonLiveCollector()
    settle(monkeypatch, place, ws_url)
    with capture_logs(), trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mine.connect_websocket)
            connection = await standin.subscribed(1, len(FOURTEEN_SYMBOLS))
            nursery.cancel_scope.cancel()
    assert len(connection.subscribed) == len(FOURTEEN_SYMBOLS), "the safe defaults"


# Into one's own program ----------------------------------------------------------------------------------------------


@pytest.fixture
def key_only(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, polygon: tuple[StandIn, str]
) -> tuple[StandIn, str]:
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    monkeypatch.setenv("POLYGON_LIVE_WS_URLS", polygon[1])
    return polygon


async def test_the_key_is_enough_for_the_ticks(key_only: tuple[StandIn, str]) -> None:
    standin, _url = key_only
    sent = quotes(100)
    read: list[Tick] = []
    with trio.fail_after(PATIENCE_SECONDS):
        async with PolygonLiveCollector(symbols=TWO) as mine:
            await standin.subscribed(1, 2)
            standin.send(sent)
            async for tick in mine.ticks():
                read.append(tick)
                if len(read) == len(sent):
                    break
            assert (mine.dropped, mine.rejected) == (0, {})
        assert [(tick.bid, tick.ask, tick.timestamp_ms) for tick in read] == [(q.b, q.a, q.t) for q in sent]
        await standin.until(lambda: standin.latest.goodbye == 1000)
        assert not await in_thread(lambda: list(Path(os.environ["HOME"]).rglob("journal*"))), "nothing is kept"
        async with mine:
            await standin.subscribed(2, 2)
            standin.send(sent)
            assert (await anext(mine.ticks())).bid == sent[0].b


@pytest.mark.parametrize("overflow", ["drop_oldest", "fail"])
async def test_a_program_that_reads_too_slowly(key_only: tuple[StandIn, str], overflow: str) -> None:
    standin, _url = key_only
    sent = quotes(100)
    read: list[Tick] = []

    async def read_late() -> None:
        async with PolygonLiveCollector(symbols=TWO, overflow=overflow, buffer_ticks=10) as mine:  # type: ignore[arg-type]
            await standin.subscribed(1, 2)
            standin.send(sent)
            if overflow == "fail":
                await standin.until(lambda: standin.latest.goodbye == 1000)
            else:
                await until(lambda: mine.dropped == 90)
            async for tick in mine.ticks():
                read.append(tick)
                if overflow == "drop_oldest" and len(read) == 10:
                    return

    with trio.fail_after(PATIENCE_SECONDS):
        if overflow == "drop_oldest":
            await read_late()
            assert [tick.bid for tick in read] == [quote.b for quote in sent[-10:]]
        else:
            with pytest.raises(StreamOverflow):
                await read_late()
            assert [tick.bid for tick in read] == [quote.b for quote in sent[:10]]


async def test_without_the_key_nothing_begins(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="POLYGON_API_KEY is not set"):
        await PolygonLiveCollector().__aenter__()


async def test_ticks_are_there_in_the_block_only_and_once(key_only: tuple[StandIn, str]) -> None:
    mine = PolygonLiveCollector(symbols=TWO)
    with pytest.raises(PolygonLiveError, match="async with"):
        mine.ticks()
    async with mine:
        for twice in (mine.__aenter__, mine.connect_websocket):
            with pytest.raises(trio.BusyResourceError):
                await twice()
    with pytest.raises(PolygonLiveError, match="async with"):
        mine.ticks()


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symbols", [[], "EURUSD", ["EURUSD", "euro"], ["*", "EURUSD"]])
async def test_symbols_that_are_none_are_refused_at_once(environ: dict[str, str], symbols: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=r"^symbols"):
        PolygonLiveCollector(symbols=symbols)
    with pytest.raises(ConfigurationError, match=r"^symbols"):
        await PolygonLiveCollector().connect_websocket(symbols=symbols)


def test_under_asyncio_it_says_what_to_do(environ: dict[str, str]) -> None:
    for use in (PolygonLiveCollector().connect_websocket, PolygonLiveCollector().__aenter__):
        with pytest.raises(NotUnderTrio, match=r"call trio\.run\(main\) instead of asyncio\.run\(main\)"):
            asyncio.run(use())


# The package ---------------------------------------------------------------------------------------------------------


def test_the_package_loads_next_to_nothing_and_has_both_names() -> None:
    script = (
        "import sys, polygon_live as p; before = set(sys.modules)\n"
        "assert not {'trio', 'attrs', 'httpx', 'quart'} & before, before\n"
        "print(p.PolygonLiveCollector.__name__, p.ConfigClient.__name__, p.__version__)\n"
        "from polygon_live import *\n"
        "assert PolygonLiveCollector is p.PolygonLiveCollector"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.stderr == ""
    assert ended.stdout.split() == ["PolygonLiveCollector", "ConfigClient", polygon_live.__version__]


def test_another_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'polygon_live' has no attribute 'Collector'"):
        polygon_live.Collector  # type: ignore[attr-defined]  # noqa: B018


def test_logging_that_is_set_up_already_is_left_alone(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    monkeypatch.setenv("POLYGON_LIVE_WS_URLS", "ws://127.0.0.1:1/forex")

    async def use() -> None:
        async with PolygonLiveCollector():
            pass

    structlog.configure(logger_factory=structlog.PrintLoggerFactory())
    theirs = structlog.get_config()
    trio.run(use)
    assert structlog.get_config() == theirs
    structlog.reset_defaults()
    trio.run(use)
    ours = structlog.get_config()["processors"]
    trio.run(use)
    assert structlog.get_config()["processors"][-1] is not ours[-1], "the secrets may be others"
