"""What a client may have of the status server, over plain sockets."""

import math
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from polygon_live.config import HttpServer
from polygon_live.gap import Gap
from polygon_live.page import Board
from polygon_live.status import State
from polygon_live.web import crowd, listen, serve_status, server, share
from polygon_live.web.guard import HEADERS
from tests.lively import THOUSAND, Entries, Lively
from tests.test_status import WELL
from tests.test_web import Shown
from tests.waiting import PATIENCE_SECONDS

ALIVE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
CLOSE = b"Host: localhost\r\nConnection: close\r\n"
CHUNKED = CLOSE + b"Transfer-Encoding: chunked\r\n\r\n"


@asynccontextmanager
async def served(shown: Shown | None = None, read: Callable[[], State] | None = None) -> AsyncIterator[int]:
    """Its port."""
    shown = shown or Shown()
    read = read or shown.read
    board = Board(read, Entries().gaps)
    with listen(HttpServer(port=0)) as sock, trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(board.run)
            nursery.start_soon(serve_status, sock, HttpServer(), read, shown, board)
            yield sock.getsockname()[1]
            nursery.cancel_scope.cancel()


async def dial(port: int, room: int | None = None, address: str = "127.0.0.1") -> trio.SocketStream:
    sock = trio.socket.socket()
    await sock.bind((address, 0))
    if room is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    await sock.connect(("127.0.0.1", port))
    return trio.SocketStream(sock)


async def until_closed(stream: trio.SocketStream) -> bytes:
    told = b""
    with suppress(trio.BrokenResourceError):
        while part := await stream.receive_some():
            told += part
    return told


async def until_dead(stream: trio.SocketStream) -> None:
    """Send until nobody takes it any more."""
    while True:
        await stream.send_all(b"a")
        await trio.sleep(0.01)


async def until(stream: trio.SocketStream, words: bytes) -> bytes:
    told = b""
    while words not in told:
        part = await stream.receive_some()
        assert part, told
        told += part
    return told


async def said(port: int, request: bytes) -> bytes:
    """Everything that is answered, until the server closes."""
    async with await dial(port) as stream:
        await stream.send_all(request)
        return await until_closed(stream)


@pytest.mark.parametrize(
    ("request_bytes", "status", "words"),
    [
        (b"GET / HTTP/1.1\r\n" + CLOSE + b"Content-Length: 5\r\n\r\nhello", 413, b"has no body"),
        (b"GET / HTTP/1.1\r\n" + CLOSE + b"Content-Length: 5000000\r\n\r\n" + b"x" * 200_000, 413, b"has no body"),
        (b"GET / HTTP/1.1\r\n" + CHUNKED + b"5\r\nhello\r\n", 413, b"has no body"),
        (b"GET / HTTP/1.1\r\n" + CHUNKED + b"1\r\na\r\n" * 20_000, 413, b"has no body"),
        (b"POST /state HTTP/1.1\r\n" + CLOSE + b"Content-Length: 9\r\nExpect: 100-continue\r\n\r\n", 405, b"read-only"),
        (b"OPTIONS * HTTP/1.1\r\n" + CLOSE + b"\r\n", 405, b"read-only"),
        (b"head / HTTP/1.1\r\n" + CLOSE + b"\r\n", 405, b"read-only"),
        (b"M-SEARCH / HTTP/1.1\r\n" + CLOSE + b"\r\n", 405, b"read-only"),
        (b"TRACE / HTTP/1.1\r\n" + CLOSE + b"\r\n", 405, b"read-only"),
        (b"CONNECT evil.example:443 HTTP/1.1\r\n" + CLOSE + b"\r\n", 405, b"read-only"),
        (b"GET http://evil.example/state HTTP/1.1\r\n" + CLOSE + b"\r\n", 400, b"begins with /"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 505, b"HTTP/1.1 is spoken"),
        (b"GET /state?limit=5 HTTP/1.1\r\n" + CLOSE + b"\r\n", 400, b"take no parameters: ask for /state alone"),
        (b"GET /state HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", 421, b"'evil.example'"),
        (b"GET /%00%ff%2e%2e/..%2fstate HTTP/1.1\r\n" + CLOSE + b"\r\n", 404, b"there is no page"),
        (b"GET /health/../state HTTP/1.1\r\n" + CLOSE + b"\r\n", 404, b"there is no page"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_is_no_request_for_a_page_is_refused_in_words_and_the_connection_closed(
    request_bytes: bytes, status: int, words: bytes
) -> None:
    async with served() as port:
        told = await said(port, request_bytes)
        head, _, body = told.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        for name, value in HEADERS.items():
            assert f"{name}: {value}\r\n".lower() in head.decode().lower()
        assert b"content-type: application/json" in head.lower()
        assert (b"allow: get, head" in head.lower()) == (status == 405)
        assert words in body
        assert told.count(b"HTTP/1.1 200 ") == 0  # nothing that follows is answered
        assert b" 200 " in await said(port, ALIVE.replace(b"Host", b"Connection: close\r\nHost"))


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\x00\x16\x03\x01\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + CLOSE + b"Host: localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + CLOSE + b"Content-Length: -1\r\n\r\n", 400),
        (b"HEAD / HTTP/1.1\r\n" + CHUNKED + b"ZZ\r\n", 400),
        (b"GET /" + b"a" * 30_000 + b" HTTP/1.1\r\n" + CLOSE + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 9000 + CLOSE + b"\r\n", 431),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_is_no_http_is_answered_by_a_status_alone_and_the_connection_closed(
    request_bytes: bytes, status: int
) -> None:
    with capture_logs() as logs:
        async with served() as port:
            told = await said(port, request_bytes)
            head, _, body = told.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %d " % status)
            assert b"content-length: 0" in head
            assert body == b""
            assert b"alive" in await said(port, ALIVE.replace(b"Host", b"Connection: close\r\nHost"))
    assert not logs


@pytest.mark.parametrize(
    "headers",
    [
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AA==\r\nSec-WebSocket-Version: 13\r\n",
    ],
)
async def test_an_upgrade_is_not_made_and_the_page_is_answered(headers: bytes) -> None:
    async with served() as port, await dial(port) as stream:
        await stream.send_all(ALIVE.replace(b"Host", headers + b"Host"))
        told = await until(stream, b"alive")
        assert told.startswith(b"HTTP/1.1 200 ")


async def test_requests_may_come_all_at_once_or_byte_by_byte_and_without_a_host_in_http_1_0() -> None:
    async with served() as port:
        async with await dial(port) as stream:
            await stream.send_all(ALIVE * 3)
            for byte in ALIVE:
                await stream.send_all(bytes([byte]))
            told = b""
            while told.count(b"alive") < 4:
                told += await stream.receive_some()
            assert told.count(b"HTTP/1.1 200 ") == 4
        old = await said(port, b"GET /health/live HTTP/1.0\r\n\r\n")
        assert old.startswith(b"HTTP/1.1 200 ")
        async with await dial(port) as half:
            await half.send_all(ALIVE)
            await half.send_eof()
            assert b"alive" in await until_closed(half)
        async with await dial(port) as stream:
            await stream.send_all(ALIVE.replace(b"GET", b"HEAD") + b"nonsense\r\n\r\n")
            told = await until_closed(stream)
            assert told.count(b"\r\n\r\n") == 2  # no body for a HEAD
            assert told.count(b"HTTP/1.1 400 ") == 1


@pytest.mark.parametrize("beginning", [b"", b"GET / HT", ALIVE + b"GET /"])
async def test_a_request_that_does_not_come_is_not_waited_for(
    beginning: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.2)
    async with served() as port, await dial(port) as stream:
        await stream.send_all(beginning)
        told = await until_closed(stream)
        assert (b"alive" in told) == beginning.startswith(ALIVE)


async def test_a_request_that_is_dribbled_is_not_waited_for_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.3)
    async with served() as port, await dial(port) as stream:
        with pytest.raises(trio.BrokenResourceError):
            await until_dead(stream)


async def test_when_all_connections_are_taken_who_has_waited_longest_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(crowd, "MOST_CONNECTIONS", 4)
    async with served() as port, AsyncExitStack() as stack:

        async def another() -> trio.SocketStream:
            return await stack.enter_async_context(await dial(port))

        follower = await another()
        await follower.send_all(ALIVE.replace(b"/health/live", b"/stream"))
        await until(follower, b"event: full\n")
        idle = []
        for _ in range(4):
            idle.append(await another())
            await idle[-1].send_all(ALIVE)
            await until(idle[-1], b"alive")
        await idle[0].send_all(ALIVE)  # so it is the second that has waited longest
        await until(idle[0], b"alive")
        latest = await another()
        await latest.send_all(ALIVE)
        await until(latest, b"alive")
        assert await until_closed(idle[1]) == b""
        for stream in (idle[0], idle[2], idle[3], latest):
            await stream.send_all(ALIVE)
            await until(stream, b"alive")
        await until(follower, b"event: change\n")


async def test_who_waits_for_the_server_makes_no_room_while_there_is_one_it_waits_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(crowd, "MOST_CONNECTIONS", 3)
    async with served() as port, AsyncExitStack() as stack:
        assert b"alive" in await said(port, ALIVE.replace(b"Host", b"Connection: close\r\nHost"))
        monkeypatch.setattr(share, "REST", math.inf)
        monkeypatch.setattr(share, "MOST_REST_SECONDS", math.inf)
        assert b"alive" in await said(port, ALIVE.replace(b"Host", b"Connection: close\r\nHost"))
        # From now on nobody gets a turn.
        for _ in range(2):
            asking = await stack.enter_async_context(await dial(port))
            await asking.send_all(ALIVE)
            await trio.testing.wait_all_tasks_blocked(0.05)
        for _ in range(2):
            idle = await stack.enter_async_context(await dial(port))
            await trio.testing.wait_all_tasks_blocked(0.05)
            await stack.enter_async_context(await dial(port))
            assert await until_closed(idle) == b""


async def test_an_address_that_asks_and_comes_again_takes_no_connection_from_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Slow(Shown):
        async def gaps(self, most: int) -> Sequence[Gap]:
            await goes_on.wait()
            return ()

    goes_on = trio.Event()
    monkeypatch.setattr(crowd, "MOST_CONNECTIONS", 4)
    async with served(Slow()) as port, AsyncExitStack() as stack:

        async def asking(address: str) -> trio.SocketStream:
            stream = await stack.enter_async_context(await dial(port, address=address))
            await stream.send_all(ALIVE.replace(b"/health/live", b"/gaps"))
            await trio.testing.wait_all_tasks_blocked(0.05)
            return stream

        probe = await asking("127.0.0.1")
        many = [await asking("127.0.0.2") for _ in range(8)]
        for who in many[:5]:
            assert await until_closed(who) == b""
        goes_on.set()
        for who in (probe, *many[5:]):
            await until(who, b'"gaps"')


async def test_a_flood_of_connections_keeps_nobody_from_being_heard() -> None:
    async with served() as port, AsyncExitStack() as stack:
        for _ in range(3 * crowd.MOST_CONNECTIONS):
            await stack.enter_async_context(await dial(port))
        async with await dial(port) as stream:
            await stream.send_all(ALIVE)
            await until(stream, b"alive")


async def test_who_does_not_take_a_large_answer_holds_up_nobody_and_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "ANSWER_SECONDS", 0.5)
    many = Lively(THOUSAND, share=1).read()
    ask = ALIVE.replace(b"/health/live", b"/symbols") * 30
    async with served(Shown(many)) as port, AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(await dial(port, 4096)) for _ in range(10)]
        for stream in slow:
            await stream.send_all(ask)
        assert b"alive" in await said(port, ALIVE.replace(b"Host", b"Connection: close\r\nHost"))
        for stream in slow:
            with pytest.raises(trio.BrokenResourceError):
                await until_dead(stream)


@pytest.mark.parametrize(
    "asks", [ALIVE.replace(b"Host", b"Expect: 100-continue\r\nHost"), b"\x00\r\n\r\n"], ids=["expects", "no HTTP"]
)
async def test_nobody_waits_while_one_does_not_take_what_is_no_page(
    asks: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "ANSWER_SECONDS", math.inf)
    sent, full, send_all = b"", trio.Event(), trio.SocketStream.send_all
    async with served() as port, await dial(port) as slow:
        slows = slow.socket.getsockname()

        async def to_a_full_socket(stream: trio.SocketStream, data: bytes) -> None:
            nonlocal sent
            if stream.socket.getpeername() == slows:
                sent += data
                full.set()
                await trio.sleep_forever()
            await send_all(stream, data)

        await slow.send_all(asks)
        monkeypatch.setattr(trio.SocketStream, "send_all", to_a_full_socket)
        await full.wait()
        assert b"alive" in await said(port, ALIVE.replace(b"Host", b"Connection: close\r\nHost"))
        assert not sent.startswith(b"HTTP/1.1 100 ")


async def test_a_stop_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("REQUEST_SECONDS", "ANSWER_SECONDS", "EVENT_SECONDS", "PARTING_SECONDS"):
        monkeypatch.setattr(server, limit, 1e9)
    many = Lively(THOUSAND, share=1).read()
    beginnings = (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: loc", ALIVE.replace(b"/health/live", b"/symbols") * 30)
    async with AsyncExitStack() as left_open, served(Shown(many)) as port:
        for n in range(50):
            stream = await left_open.enter_async_context(await dial(port, 4096))
            await stream.send_all(beginnings[n % 4])
        await trio.testing.wait_all_tasks_blocked(0.5)  # the sends to those who take nothing among them


async def test_what_is_left_untaken_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "UNTAKEN_BYTES", 3_000_000)
    monkeypatch.setattr(server, "ANSWER_SECONDS", math.inf)
    many = Lively(THOUSAND, share=1).read()
    async with served(Shown(many)) as port, AsyncExitStack() as stack:
        idle = await stack.enter_async_context(await dial(port))
        slow = []
        for _ in range(10):
            slow.append(await stack.enter_async_context(await dial(port, 4096)))
            await slow[-1].send_all(ALIVE.replace(b"/health/live", b"/symbols") * 30)
        with pytest.raises(trio.BrokenResourceError):
            await until_dead(slow[0])
        assert b"symbols" in await until(slow[-1], b"symbols")
        await idle.send_all(ALIVE)
        await until(idle, b"alive")


async def test_the_first_event_may_take_as_long_as_any_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "EVENT_SECONDS", 0)
    async with served() as port, await dial(port) as stream:
        await stream.send_all(ALIVE.replace(b"/health/live", b"/stream"))
        told = await until_closed(stream)
        assert told.count(b"event: ") == told.count(b"event: full\n") == 1


async def test_followers_who_leave_or_speak_are_let_go_without_a_word() -> None:
    with capture_logs() as logs:
        async with served() as port:
            for last_words in (None, b"", ALIVE):
                async with await dial(port) as stream:
                    await stream.send_all(ALIVE.replace(b"/health/live", b"/stream"))
                    await until(stream, b"event: full\n")
                    if last_words == b"":
                        await stream.send_eof()
                    if last_words:
                        await stream.send_all(last_words)
                    if last_words is not None:
                        await until_closed(stream)
            assert b"alive" in await said(port, ALIVE.replace(b"Host", b"Connection: close\r\nHost"))
    assert not logs


async def test_a_ledger_that_hangs_holds_up_no_other_page() -> None:
    class Hanging(Shown):
        async def gaps(self, most: int) -> list[object]:  # type: ignore[override]
            hangs.set()
            await trio.sleep_forever()
            return []

    hangs = trio.Event()
    async with served(Hanging()) as port, AsyncExitStack() as stack:
        for _ in range(5):
            stream = await stack.enter_async_context(await dial(port))
            await stream.send_all(ALIVE.replace(b"/health/live", b"/gaps"))
        await hangs.wait()
        assert b"alive" in await said(port, ALIVE.replace(b"Host", b"Connection: close\r\nHost"))


async def test_a_page_that_fails_says_so_and_nothing_else() -> None:
    def broken() -> State:
        raise ZeroDivisionError("s3cret")

    async with trio.open_nursery() as nursery:
        with listen(HttpServer(port=0)) as sock:
            shown = Shown(WELL)
            board = Board(broken, shown.gaps)
            nursery.start_soon(serve_status, sock, HttpServer(), broken, shown, board)
            told = await said(sock.getsockname()[1], ALIVE.replace(b"/live HTTP/1.1", b" HTTP/1.0"))
            nursery.cancel_scope.cancel()
    assert told.startswith(b"HTTP/1.1 500 ")
    assert b"nosniff" in told
    assert b"the log says how" in told
    assert b"s3cret" not in told
    assert b"Traceback" not in told
