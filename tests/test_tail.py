"""``polygon-live tail``: what is said on NATS, as it is said."""

import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest
import trio

from polygon_live.config import NatsAccess, Secret
from polygon_live.embedded import Nats
from polygon_live.engines.nats import Publisher, Subscriber
from polygon_live.engines.nats import hearing as hearing_module
from polygon_live.errors import StoreUnavailable
from polygon_live.model import encode
from tests.checking import Done, command
from tests.collecting import ROOT
from tests.hypertables import a_tick, wall_ms
from tests.waiting import PATIENCE_SECONDS, in_thread, until

pytestmark = pytest.mark.engine


@pytest.fixture
def access(nats_server: Nats) -> NatsAccess:
    return NatsAccess((Secret(nats_server.url),))


@pytest.fixture
def env(nats_server: Nats, clean_environment: Mapping[str, str]) -> dict[str, str]:
    return {**clean_environment, "POLYGON_LIVE_NATS_URLS": nats_server.url}


@asynccontextmanager
async def saying(access: NatsAccess, symbols: Sequence[str]) -> AsyncIterator[None]:
    """Ticks of these symbols in turn, live and late, and things that are no ticks, for ever."""
    publisher = Publisher(access, "collector")

    async def say() -> None:
        seq = 0
        while True:
            for symbol in symbols:
                seq += 1
                tick = encode(a_tick(seq, wall_ms(), symbol))
                await publisher.publish(f"ticks.{symbol}", tick)
                await publisher.publish(f"ticks.{symbol}.late", encode(a_tick(seq, 0, symbol, late=True)))
                await publisher.publish(f"ticks.{symbol}", b"\x1b[31mno tick")
                await publisher.publish(f"ticks.{symbol}", tick.replace(symbol.encode(), b"\xff"))
                await publisher.publish(f"ticks.{symbol}", encode(a_tick(seq, 10**18, symbol)))
            await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(say)
        yield
        nursery.cancel_scope.cancel()
    publisher.close()


async def tail(env: Mapping[str, str], *arguments: str) -> Done:
    done = await command(env, "tail", *arguments)
    assert (done.code, done.err) == (0, ""), done
    return done


async def test_ticks_of_all_symbols_or_of_these(env: Mapping[str, str], access: NatsAccess) -> None:
    async with saying(access, ("EURUSD", "XAUUSD", "USDJPY")):
        done = await tail(env, "--count", "9")
        lines = [re.split(" {1,}", line) for line in done.out.splitlines()]
        assert len(lines) == 9
        assert {line[2] for line in lines} == {"EURUSD", "XAUUSD", "USDJPY"}
        assert lines[0][3:6] == ["1.1212", "1.1213", "0.0001"]
        assert "late" not in done.out
        done = await tail(env, "eur/usd", "XAUUSD", "EURUSD", "--json", "--count", "6")
        told = [json.loads(line) for line in done.out.splitlines()]
        assert [tick["symbol"] for tick in told if tick["symbol"] == "USDJPY"] == []
        assert len({(tick["symbol"], tick["seq"]) for tick in told}) == 6
        done = await tail(env, "EURUSD", "--late", "--count", "6")
        assert done.out.count(" late\n") == 3


async def test_it_ends_with_a_signal_and_with_its_reader(env: Mapping[str, str], access: NatsAccess) -> None:
    line = [sys.executable, "-m", "polygon_live", "tail"]
    async with saying(access, ("EURUSD",)):
        for closes in (False, True):
            process = await trio.lowlevel.open_process(
                line, env={**env, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            assert process.stdout is not None
            with trio.fail_after(PATIENCE_SECONDS):
                assert b"EURUSD" in await process.stdout.receive_some()
                if closes:
                    await process.stdout.aclose()
                else:
                    process.terminate()
                assert await process.wait() == 0
            assert process.stderr is not None
            assert await process.stderr.receive_some() == b""


async def test_a_server_that_goes_is_waited_for(env: Mapping[str, str], access: NatsAccess, nats_server: Nats) -> None:
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "polygon_live", "tail", "--count", "1"],
        env={**env, "PYTHONPATH": str(ROOT), "POLYGON_LIVE_NATS_URLS": nats_server.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    await in_thread(nats_server.stop)
    assert process.stderr is not None
    assert process.stdout is not None
    with trio.fail_after(PATIENCE_SECONDS):
        assert b"trying again" in await process.stderr.receive_some()
        await in_thread(nats_server.start)
        async with saying(access, ("EURUSD",)):
            assert b"EURUSD" in await process.stdout.receive_some()
        assert await process.wait() == 0


async def test_what_nobody_takes_is_bounded_and_counted(access: NatsAccess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing_module, "MOST_KEPT", 3)
    subscriber, publisher = Subscriber(access, ("ticks.a", "ticks.b"), "test"), Publisher(access, "test")
    await subscriber.connect()
    for n in range(5):
        await publisher.publish("ticks.a" if n % 2 else "ticks.b", str(n).encode())
    await until(lambda: subscriber._count == 5)
    assert [message.payload for message in await subscriber.heard()] == [b"2", b"3", b"4"]
    assert subscriber.missed == 2
    subscriber.close()
    publisher.close()


async def test_the_end_of_the_connection_is_an_error(access: NatsAccess, nats_server: Nats) -> None:
    subscriber = Subscriber(access, ("ticks.>",), "test")
    await subscriber.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_thread, nats_server.stop)
        with pytest.raises(StoreUnavailable):
            await subscriber.heard()
    subscriber.close()
