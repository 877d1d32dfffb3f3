"""NATS users with few rights: their ticks go out wherever that is safe, and what is missing is named at once."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from polygon_live.config import NatsAccess, Secret
from polygon_live.engines.nats import create_stream
from polygon_live.engines.nats.errors import missing_rights
from polygon_live.errors import StoreMisconfigured
from polygon_live.sinks.nats import NatsSink
from tests.engines.nats import Node, node
from tests.reading import listening
from tests.test_nats import NOW_MS, batch, messages_in
from tests.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.engine
AT_ONCE_SECONDS = 1.0
"""Less than any time limit."""
LEAST = 'publish: ["ticks.>"]'
NO_ANSWERS = 'publish: ["ticks.>", "$JS.API.>"], subscribe: {deny: ["_INBOX.>"]}'
NEITHER = 'publish: ["ticks.>"], subscribe: ["config.update.>"]'
ENOUGH = 'publish: ["ticks.>", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.INFO.*"], subscribe: ["_INBOX.>"]'
TO_ASK = "publish on $JS.API.STREAM.NAMES and $JS.API.STREAM.INFO.*"
TO_HEAR = "subscribe on _INBOX.>"


def users(permissions: str) -> str:
    joe = f"{{user: joe, password: p, permissions: {{{permissions}}}}}"
    return f"authorization {{ users: [{joe}, {{user: admin, password: p}}] }}\nno_auth_user: admin\n"


def url(server: Node, user: str = "joe") -> str:
    return f"nats://{user}:p@127.0.0.1:{server.port}"


async def a_stream(server: Node) -> None:
    await create_stream(NatsAccess((Secret(url(server, "admin")),)))


async def give(server: Node, permissions: str) -> None:
    """While it runs; return when it holds to them."""
    log = server.folder / "server.log"
    before = log.read_text().count("Reloaded server configuration")
    server._config.write_text(f"{users(permissions)}server_name: {server._server_name}\n")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGHUP)
    with trio.fail_after(PATIENCE_SECONDS):
        while log.read_text().count("Reloaded server configuration") == before:  # noqa: ASYNC110  # it tells nobody
            await trio.sleep(0.01)


async def take_answers(server: Node, sink: NatsSink, permissions: str) -> None:
    """While connected; return when the connection was told."""
    await give(server, permissions)
    connection = sink._client._client
    assert connection is not None
    while not connection.refusals():  # noqa: ASYNC110  # it lives in another thread
        await trio.sleep(0.01)


@asynccontextmanager
async def opened(server: Node) -> AsyncIterator[NatsSink]:
    """With the time limits of the real one, none of which is waited for."""
    sink = NatsSink(NatsAccess((Secret(url(server)),)), "c1", live_max_age_seconds=10, now_ms=lambda: NOW_MS)
    with trio.fail_after(PATIENCE_SECONDS):
        try:
            with trio.fail_after(AT_ONCE_SECONDS):
                await sink.open()
            yield sink
        finally:
            await sink.aclose()


async def refusal(sink: NatsSink, *, opening: bool) -> str:
    with trio.fail_after(AT_ONCE_SECONDS), pytest.raises(StoreMisconfigured) as raised:
        await (sink.open() if opening else sink.write(batch(1, 10)))
    return str(raised.value)


@pytest.mark.parametrize(
    ("permissions", "missing"),
    [(LEAST, TO_ASK), (NO_ANSWERS, TO_HEAR), (NEITHER, f"{TO_HEAR}, and {TO_ASK}")],
    ids=["least", "no answers", "neither"],
)
@pytest.mark.parametrize("stream", [False, True], ids=["core", "stream"])
async def test_who_may_not_ask_for_a_stream_hands_over_his_ticks_and_is_told_what_to_grant(
    permissions: str, missing: str, *, stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polygon_live.engines.nats.client.ASK_AGAIN_SECONDS", 0.0)
    with node(tmp_path, users(permissions)) as server:
        if stream:
            await a_stream(server)
        async with listening(server.url) as listener, opened(server) as sink:
            connection = sink._client._client
            assert connection is not None
            subscribed = len(connection._subs)
            for first in (1, 11, 21):
                await sink.write(batch(first, 10))
            (complaint,) = sink.facts().complaints
            assert sink.facts().about["mode"] == "core"
            assert "may not ask whether a stream keeps the ticks" in complaint
            assert complaint.endswith(f"grant {missing}")
            while len(listener.heard) < 30:  # noqa: ASYNC110  # the server delivers when it likes
                await trio.sleep(0.01)
            assert sink._client._client is connection, "asking again costs no connection"
            assert len(connection._subs) == subscribed
        if stream:
            assert await messages_in(url(server, "admin")) == 30


@pytest.mark.parametrize("before", [LEAST, NO_ANSWERS, NEITHER], ids=["least", "no answers", "neither"])
async def test_rights_that_are_granted_are_noticed_while_connected(
    before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polygon_live.engines.nats.client.ASK_AGAIN_SECONDS", 0.0)
    with node(tmp_path, users(before)) as server:
        await a_stream(server)
        async with opened(server) as sink:
            connection = sink._client._client
            await give(server, ENOUGH)
            with trio.fail_after(AT_ONCE_SECONDS):
                await sink.write(batch(1, 10))
            assert (sink.facts().about["mode"], sink.facts().complaints) == ("jetstream", ())
            assert sink._client._client is connection


@pytest.mark.parametrize("after", [LEAST, NO_ANSWERS, NEITHER], ids=["least", "no answers", "neither"])
async def test_who_had_a_stream_and_may_not_ask_for_it_any_more_sends_nothing(
    after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with node(tmp_path, users(ENOUGH)) as server:
        await a_stream(server)
        async with opened(server) as sink:
            await sink.write(batch(1, 10))
            monkeypatch.setattr("polygon_live.engines.nats.client.ASK_AGAIN_SECONDS", 0.0 if after == LEAST else 3600)
            await (give(server, after) if after == LEAST else take_answers(server, sink, after))
            for opening in (False, True, True):
                told = await refusal(sink, opening=opening)
                assert f"NATS 127.0.0.1:{server.port} does not let this user ask about stream TICKS, which" in told
                assert (TO_ASK in told) == (after != NO_ANSWERS)
                assert (TO_HEAR in told) == (after != LEAST)
            assert await messages_in(url(server, "admin")) == 10
            await give(server, ENOUGH)
            await sink.open()
            await sink.write(batch(11, 10))
            assert (sink.facts().about["mode"], sink.facts().complaints) == ("jetstream", ())
        assert await messages_in(url(server, "admin")) == 20


async def test_answers_that_are_taken_away_cost_core_no_tick(tmp_path: Path) -> None:
    with node(tmp_path, users(ENOUGH)) as server:
        async with listening(server.url) as listener, opened(server) as sink:
            assert sink.facts().complaints == ()
            connection = sink._client._client
            await take_answers(server, sink, NO_ANSWERS)
            with trio.fail_after(AT_ONCE_SECONDS):
                await sink.write(batch(1, 10))
            assert TO_HEAR in sink.facts().complaints[0]
            while len(listener.heard) < 10:  # noqa: ASYNC110  # the server delivers when it likes
                await trio.sleep(0.01)
            assert sink._client._client is connection


async def test_answers_that_are_taken_away_for_a_moment_are_listened_for_again(tmp_path: Path) -> None:
    with node(tmp_path, users(ENOUGH)) as server:
        await a_stream(server)
        async with opened(server) as sink:
            await sink.write(batch(1, 10))
            connection = sink._client._client
            await take_answers(server, sink, NO_ANSWERS)
            await give(server, ENOUGH)
            with trio.fail_after(AT_ONCE_SECONDS):
                await sink.write(batch(11, 10))
            assert sink._client._client is connection
        assert await messages_in(url(server, "admin")) == 20


async def test_who_may_not_ask_about_the_stream_that_there_is_sends_nothing(tmp_path: Path) -> None:
    with node(tmp_path, users('publish: ["ticks.>", "$JS.API.STREAM.NAMES"]')) as server:
        await a_stream(server)
        with pytest.raises(StoreMisconfigured) as raised:
            async with opened(server):
                pass
        told = "does not let this user ask about stream TICKS, which captures the ticks: grant publish on "
        assert str(raised.value) == f"NATS 127.0.0.1:{server.port} {told}$JS.API.STREAM.INFO.*"


@pytest.mark.parametrize("stream", [False, True], ids=["core", "stream"])
async def test_who_may_not_publish_ticks_is_told_so_at_once(*, stream: bool, tmp_path: Path) -> None:
    nothing, only_asking = 'publish: {deny: [">"]}', 'publish: ["$JS.API.>"]'
    with node(tmp_path, users(only_asking if stream else nothing)) as server:
        if stream:
            await a_stream(server)
        async with opened(server) as sink:
            told = await refusal(sink, opening=False)
            assert told.endswith("; grant the user publish on ticks.>")


def test_rights_are_named_once_and_others_as_the_server_does() -> None:
    said = ['Publish to "other.x"', 'Subscription to "_INBOX.a.*"', 'Subscription to "_INBOX.b" (sid "2")', "Whatever"]
    assert missing_rights([Exception(f"nats: Permissions Violation for {what}") for what in said]) == (
        "publish on other.x, and subscribe on _INBOX.>, and publish on what it names"
    )
