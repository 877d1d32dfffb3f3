"""Hearing that something was said, over real servers: who may publish there must not be able to do more than that."""

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from polygon_live.config import NatsAccess, Secret
from polygon_live.embedded import Nats
from polygon_live.engines.nats import Publisher, listen, listening
from polygon_live.errors import StoreError, StoreMisconfigured, StoreUnavailable
from tests.engines.nats import node
from tests.servers import running
from tests.waiting import PATIENCE_SECONDS, in_thread

pytestmark = pytest.mark.engine
SUBJECT = "config.update.polygon-live-collector"


def access(*urls: str) -> NatsAccess:
    return NatsAccess(tuple(Secret(url) for url in urls))


class Ear:
    """Counts the calls."""

    def __init__(self) -> None:
        self.calls = 0
        self._changed = trio.Event()

    def heard(self) -> None:
        self.calls += 1
        self._changed.set()
        self._changed = trio.Event()

    async def until(self, calls: int) -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            while self.calls < calls:
                await self._changed.wait()


@asynccontextmanager
async def hearing(*urls: str) -> AsyncIterator[Ear]:
    """Subscribed."""
    ear = Ear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listening_at, ear, *urls)
        await ear.until(1)
        yield ear
        nursery.cancel_scope.cancel()


async def listening_at(ear: Ear, *urls: str) -> None:
    await listen(access(*urls), SUBJECT, ear.heard, name="test")


@asynccontextmanager
async def dying(*urls: str) -> AsyncIterator[Callable[[], Awaitable[StoreError]]]:
    """Subscribed; and to wait for the end of it."""
    ear, ended, told = Ear(), trio.Event(), list[StoreError]()

    async def listens() -> None:
        try:
            await listening_at(ear, *urls)
        except StoreError as why:
            told.append(why)
            ended.set()

    async def end() -> StoreError:
        with trio.fail_after(PATIENCE_SECONDS):
            await ended.wait()
        return told[0]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listens)
        await ear.until(1)
        yield end
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def publishing(url: str) -> AsyncIterator[Publisher]:
    publisher = Publisher(access(url), "test")
    try:
        yield publisher
    finally:
        publisher.close()


async def refused(*urls: str) -> str:
    ear = Ear()
    with trio.fail_after(PATIENCE_SECONDS), pytest.raises(StoreMisconfigured) as raised:
        await listening_at(ear, *urls)
    assert ear.calls == 0
    return str(raised.value)


async def test_who_listens_is_called_once_subscribed_and_for_what_is_said(nats_server: Nats) -> None:
    async with hearing(nats_server.url) as ear, publishing(nats_server.url) as publisher:
        for n in range(5):
            await publisher.publish(SUBJECT, b"{}")
            await ear.until(2 + n)
        await publisher.publish("config.update.another", b"{}")
        await publisher.publish(SUBJECT, b"{}")
        await ear.until(7)
    assert ear.calls == 7


async def test_what_is_said_from_everywhere_at_once_is_heard_to_the_last_word(nats_server: Nats) -> None:
    async with hearing(nats_server.url) as ear, publishing(nats_server.url) as publisher:
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(publisher.publish, SUBJECT, b"{}")
        await ear.until(2)
        before = ear.calls
        await publisher.publish(SUBJECT, b"the last")
        await ear.until(before + 1)


async def test_a_node_that_is_killed_ends_it_and_after_its_return_it_can_be_had_again(
    own_nats: Callable[..., Nats],
) -> None:
    server = own_nats()
    ear = Ear()
    failures: list[str] = []

    async def again() -> None:
        while True:
            try:
                await listening_at(ear, server.url)
            except StoreUnavailable as why:
                failures.append(str(why))
                await trio.sleep(0.05)

    async with trio.open_nursery() as nursery, publishing(server.url) as publisher:
        nursery.start_soon(again)
        await ear.until(1)
        await publisher.publish(SUBJECT, b"{}")
        await ear.until(2)
        await in_thread(server.kill)
        with trio.fail_after(PATIENCE_SECONDS):
            while len(failures) < 2:  # noqa: ASYNC110  # nobody tells
                await trio.sleep(0.01)
        with pytest.raises(StoreUnavailable):
            await publisher.publish(SUBJECT, b"{}")
        await in_thread(server.start)
        await ear.until(3)
        await publisher.publish(SUBJECT, b"{}")
        await ear.until(4)
        nursery.cancel_scope.cancel()
    assert f"127.0.0.1:{server.port}" in failures[0]
    assert "ended" in failures[0] or "EOF" in failures[0], failures
    assert "can't be reached" in failures[1]


async def test_what_is_forged_does_nothing_but_call(nats_server: Nats) -> None:
    """nats-py alone stops reading for good at the first reply subject, or header, that is no text."""
    forged = [
        (SUBJECT.encode(), b"", b"", b"\xff\xfe not json"),
        (SUBJECT.encode(), b"\xff\xfe", b"", b"{}"),
        (SUBJECT.encode(), b"", b"NATS/1.0\r\n\xff\xfe: \xff\r\n\r\n", b"{}"),
        (SUBJECT.encode(), b"", b"NATS/1.0 503\r\n\r\n", b""),
        (SUBJECT.encode(), b"", b"nonsense\r\n", b"{}"),
        (SUBJECT.encode(), b"$JS.FC.x", b"NATS/1.0 100 FlowControl Request\r\n\r\n", b""),
        (SUBJECT.encode(), b"", b"", b"-ERR 'Permissions Violation for Subscription to \"x\"'\r\nMSG x 1 99999999\r\n"),
    ]
    async with hearing(nats_server.url) as ear:
        stream = await trio.open_tcp_stream("127.0.0.1", nats_server.port)
        await stream.send_all(b'CONNECT {"verbose":false,"pedantic":false,"headers":true}\r\n')
        for n, (subject, reply, header, payload) in enumerate(forged):
            sizes = f"{len(header)} {len(header) + len(payload)}" if header else f"{len(payload)}"
            verb = b"HPUB" if header else b"PUB"
            line = b" ".join(part for part in (verb, subject, reply, sizes.encode()) if part)
            await stream.send_all(line + b"\r\n" + header + payload + b"\r\n")
            await ear.until(2 + n)
        await stream.aclose()
    assert ear.calls == 1 + len(forged)


async def test_huge_messages_are_heard_and_kept_nowhere(tmp_path: Path) -> None:
    """A server gives up who has more than 64 MB to read: then it is one more connection that ends."""
    with node(tmp_path, "max_payload: 8MB") as server:
        async with hearing(server.url) as ear, publishing(server.url) as publisher:
            await publisher.publish(SUBJECT, bytes(8 * 2**20))
            await ear.until(2)
            for _ in range(40):
                await publisher.publish(SUBJECT, bytes(2**20))
            await publisher.publish(SUBJECT, b"")
            before = ear.calls
            await publisher.publish(SUBJECT, b"the last")
            await ear.until(before + 1)
    assert ear.calls <= 44


async def test_a_storm_of_messages_is_a_few_calls(nats_server: Nats) -> None:
    count = 100_000
    async with hearing(nats_server.url) as ear, publishing(nats_server.url) as publisher:
        stream = await trio.open_tcp_stream("127.0.0.1", nats_server.port)
        await stream.send_all(b'CONNECT {"verbose":false,"pedantic":false}\r\n')
        await stream.send_all(f"PUB {SUBJECT} 2\r\n{{}}\r\n".encode() * count + b"PING\r\n")
        with trio.fail_after(PATIENCE_SECONDS):
            while b"PONG" not in await stream.receive_some():
                pass
        await stream.aclose()
        before = ear.calls
        await publisher.publish(SUBJECT, b"the last")
        await ear.until(before + 1)
    assert ear.calls < count


async def test_a_server_that_hangs_is_given_up(own_nats: Callable[..., Nats], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "CHECK_SECONDS", 0.2)
    server = own_nats()
    async with dying(server.url) as ended:
        await in_thread(server.pause)
        assert str(await ended()) == f"NATS 127.0.0.1:{server.port} does not answer"


async def test_a_quiet_subject_is_no_fault(nats_server: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "CHECK_SECONDS", 0.02)
    async with hearing(nats_server.url) as ear, publishing(nats_server.url) as publisher:
        await trio.sleep(0.5)  # some twenty signs of life
        assert ear.calls == 1
        await publisher.publish(SUBJECT, b"{}")
        await ear.until(2)


async def test_a_cancellation_does_not_wait_for_a_server_that_hangs(own_nats: Callable[..., Nats]) -> None:
    server = own_nats()
    async with hearing(server.url):
        await in_thread(server.pause)
        began = trio.current_time()
    assert trio.current_time() - began < listening.CHECK_SECONDS, "its limits did not end it"


async def test_what_the_listener_raises_ends_it(nats_server: Nats) -> None:
    def fails() -> None:
        raise ZeroDivisionError

    with trio.fail_after(PATIENCE_SECONDS), pytest.raises(ZeroDivisionError):
        await listen(access(nats_server.url), SUBJECT, fails, name="test")


async def test_a_refused_login_and_a_missing_permission_are_told_without_a_secret(tmp_path: Path) -> None:
    users = (
        "authorization { users: ["
        '{user: joe, password: sesame-77, permissions: {publish: ["_INBOX.>"], subscribe: ["_INBOX.>"]}} ] }'
    )
    with node(tmp_path, users) as server:
        at = f"127.0.0.1:{server.port}"
        told = await refused(f"nats://joe:wrong-77@{at}")
        assert f"NATS {at} refuses the login: check user and password in POLYGON_LIVE_NATS_URLS" in told
        assert "77" not in told.replace(str(server.port), "")
        told = await refused(f"nats://joe:sesame-77@{at}")
        assert told == f"NATS {at} does not let this user listen: grant subscribe on {SUBJECT}"
        async with publishing(f"nats://joe:sesame-77@{at}") as publisher:
            with pytest.raises(StoreMisconfigured, match=f"publish to .{SUBJECT}.; grant the user publish"):
                await publisher.publish(SUBJECT, b"{}")


async def test_a_permission_that_is_taken_away_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "CHECK_SECONDS", 0.05)

    def users(subjects: str) -> str:
        return f'authorization {{ users: [{{user: joe, password: p, permissions: {{subscribe: ["{subjects}"]}}}}] }}'

    with node(tmp_path, users(">")) as server:
        async with dying(f"nats://joe:p@127.0.0.1:{server.port}") as ended:
            server._config.write_text(users("_INBOX.>") + f"\nserver_name: {server._server_name}\n")
            assert server.pid is not None
            os.kill(server.pid, signal.SIGHUP)
            assert isinstance(await ended(), StoreMisconfigured)


async def test_another_node_is_taken_when_one_is_away(own_nats: Callable[..., Nats]) -> None:
    away, here = own_nats(start=False), own_nats()
    async with hearing(away.url, here.url) as ear, publishing(here.url) as publisher:
        await publisher.publish(SUBJECT, b"{}")
        await ear.until(2)


async def test_a_publisher_keeps_its_connection_and_makes_a_new_one_after_a_fault(
    own_nats: Callable[..., Nats],
) -> None:
    server = own_nats()
    async with publishing(server.url) as publisher:
        await publisher.publish(SUBJECT, b"1")
        kept = publisher._client
        await publisher.publish(SUBJECT, b"2")
        assert publisher._client is kept
        await in_thread(server.pause)
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await publisher.publish(SUBJECT, b"3")
        await in_thread(server.kill)
        await in_thread(lambda: running(server))
        async with hearing(server.url) as ear:
            await publisher.publish(SUBJECT, b"4")
            await ear.until(2)
        with pytest.raises(StoreMisconfigured, match="raise its max_payload"):
            await publisher.publish(SUBJECT, bytes(2**21))
