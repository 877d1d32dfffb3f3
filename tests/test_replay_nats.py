"""Replay onto NATS: every tick of the span, in order, under its late subject and its own key."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import nats
import pytest

from polygon_live.commands.times import spelled
from polygon_live.config import NatsAccess, Secret
from polygon_live.embedded import Broker, Nats
from polygon_live.engines.nats import create_stream
from polygon_live.model import Tick, encode
from tests.hypertables import HOUR_MS, a_tick, wall_ms
from tests.reading import listening
from tests.replaying import (
    COLLECTORS,
    Days,
    environment,
    fill,
    middle,
    numbered,
    replay,
    replayed,
    replaying,
    span,
    two_days,
)
from tests.waiting import in_thread, until

pytestmark = pytest.mark.engine
FIRST, SECOND = COLLECTORS


@pytest.fixture
def days(real_ticks: tuple[Path, ...]) -> Days:
    return two_days(real_ticks, every=6)


async def archived(days: Days, broker: Broker, server: Nats, base: dict[str, str]) -> dict[str, str]:
    await fill(days, brokers=broker.address)
    return environment(base, KAFKA_BROKERS=broker.address, NATS_URLS=server.url)


def kept(url: str) -> list[tuple[str, bytes, str]]:
    """Subject, bytes and key of what the stream holds, in its order."""

    async def read() -> list[tuple[str, bytes, str]]:
        client = await nats.connect(url)
        subscription = await client.jetstream().subscribe("ticks.>", ordered_consumer=True)
        found, pending = [], 1
        while pending:
            message = await subscription.next_msg(timeout=30)
            pending = message.metadata.num_pending
            found.append((message.subject, message.data, (message.headers or {})["Nats-Msg-Id"]))
        await client.close()
        return found

    return asyncio.run(read())


def expected(days: Days, from_ms: int, to_ms: int, *symbols: str) -> set[tuple[str, bytes, str]]:
    return {
        (f"ticks.{tick.symbol}.late", encode(tick), f"{collector}:{tick.seq}")
        for collector, tick in days.all
        if from_ms <= tick.timestamp_ms < to_ms and (not symbols or tick.symbol in symbols)
    }


async def test_a_stream_has_every_tick_once_however_often_it_is_replayed(
    days: Days, broker: Broker, nats_server: Nats, clean_environment: dict[str, str]
) -> None:
    env = await archived(days, broker, nats_server, clean_environment)
    await create_stream(NatsAccess((Secret(nats_server.url),)), "TICKS")
    from_ms, to_ms = middle(days)
    asked = [*span(from_ms, to_ms), "--into", "nats"]
    rehearsed = await replayed(env, *asked, "--dry-run")
    done = await replay(env, *asked)
    assert done.returncode == 0, done.stderr
    assert f"{rehearsed['written']} written" in done.stdout.decode()
    assert "stream TICKS keeps what was published, but for ticks that it was given in the 120" in done.stderr.decode()
    messages = await in_thread(lambda: kept(nats_server.url))
    assert len(messages) == rehearsed["written"] == len(set(messages))
    assert set(messages) == expected(days, from_ms, to_ms)
    again = await replayed(env, *asked, "--speed", "max")
    assert again["written"] == len(messages)
    assert await in_thread(lambda: kept(nats_server.url)) == messages


async def test_who_listens_gets_them_in_the_order_of_time(
    days: Days, broker: Broker, nats_server: Nats, clean_environment: dict[str, str]
) -> None:
    env = await archived(days, broker, nats_server, clean_environment)
    from_ms, to_ms = middle(days)
    async with listening(nats_server.url) as listener:
        summary = await replayed(env, *span(from_ms, to_ms), "--into", "nats", "--symbol", "EURUSD")
        await until(lambda: len(listener.heard) == summary["written"])
    assert {subject for subject, _ in listener.heard} == {"ticks.EURUSD.late"}
    assert {tick["event_type"] for _, tick in listener.heard} == {"quote", "quote_backfill"}
    stamps = [tick["timestamp_ms"] for _, tick in listener.heard]
    assert stamps == sorted(stamps)
    assert len(stamps) == len(expected(days, from_ms, to_ms, "EURUSD"))


async def test_stopped_it_says_from_where_to_go_on(
    broker: Broker, nats_server: Nats, clean_environment: dict[str, str]
) -> None:
    """At the ticks' own pace, with a minute between the third and the fourth."""
    begin = wall_ms() - HOUR_MS
    stamps = [0, 10, 20, 60_000, 120_000]
    ticks: list[Tick] = numbered([a_tick(0, begin + at) for at in stamps])
    await fill(Days({FIRST: ticks}, wall_ms()), brokers=broker.address)
    env = environment(clean_environment, KAFKA_BROKERS=broker.address, NATS_URLS=nats_server.url)
    asked = ["--to", spelled(begin + HOUR_MS), "--into", "nats"]
    async with listening(nats_server.url) as listener:
        async with replaying(env, "--from", spelled(begin), *asked, "--speed", "1x") as running:
            await until(lambda: len(listener.heard) == 3)
            running.process.send_signal(signal.SIGTERM)
            await running.end()
        assert running.code == 1
        assert "3 written" in running.told
        assert f"everything before {spelled(begin + 20)} was published" in running.noted
        go_on = spelled(begin + 20 - 60_000)
        assert f"go on with --from {go_on}, which repeats up to 60 s" in running.noted
        await replayed(env, "--from", go_on, *asked)
        await until(lambda: len(listener.heard) == 8)
    assert [tick["seq"] for _, tick in listener.heard] == [t.seq for t in [*ticks[:3], *ticks]]


async def test_a_server_that_is_killed_and_comes_back_is_waited_for(
    days: Days, broker: Broker, own_nats: Callable[..., Nats], clean_environment: dict[str, str]
) -> None:
    server = own_nats()
    env = await archived(days, broker, server, clean_environment)
    await create_stream(NatsAccess((Secret(server.url),)), "TICKS")
    from_ms, to_ms = middle(days)
    # The second block waits for the word.
    held = """
import pathlib, trio
replay.MESSAGES_AT_ONCE = 1000
put, blocks = replay.Subjects.put, []
async def held(self, ticks):
    blocks.append(ticks)
    while len(blocks) == 2 and not pathlib.Path("WORD").exists():
        pathlib.Path("WAITING").touch()
        await trio.sleep(0.01)
    await put(self, ticks)
replay.Subjects.put = held"""
    folder = Path(clean_environment["HOME"])
    patch = held.replace("WORD", str(folder / "word")).replace("WAITING", str(folder / "waiting"))
    async with replaying(env, *span(from_ms, to_ms), "--into", "nats", patch=patch) as running:
        await until((folder / "waiting").exists)
        server.kill()
        (folder / "word").touch()
        await in_thread(server.start)
        await running.end()
    assert running.code == 0, running.noted
    messages = await in_thread(lambda: kept(server.url))
    assert set(messages) == expected(days, from_ms, to_ms)


async def test_nobody_there(
    days: Days, broker: Broker, own_nats: Callable[..., Nats], clean_environment: dict[str, str]
) -> None:
    server = own_nats(start=False)
    env = await archived(days, broker, server, clean_environment)
    patch = "replay.WAITS_SECONDS = (0.1,)"
    done = await replay(env, *span(*middle(days)), "--into", "nats", patch=patch)
    assert done.returncode == 1
    assert "; nothing was published" in done.stderr.decode()
