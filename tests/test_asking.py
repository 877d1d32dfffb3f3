"""Asking the running collector, over real sockets."""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
from trio.testing import MockClock

from polygon_live import asking
from polygon_live.asking import address_of, ask
from polygon_live.config import HttpServer, Secret
from polygon_live.errors import CollectorAway, CollectorError
from tests.pages import Pages, collector, serving

STATE = b'{"version": "1", "configuration": {"generation": 3}}'


@contextmanager
def listening(pages: Pages, token: str | None = None) -> Iterator[HttpServer]:
    with serving(pages) as port:
        yield HttpServer(port=port, token=Secret(token) if token else None)


async def failing(server: HttpServer) -> str:
    with pytest.raises(CollectorError) as why:
        await ask(server, "/state", having="configuration")
    assert not isinstance(why.value, CollectorAway)
    return str(why.value)


async def test_it_gives_what_the_page_says() -> None:
    with listening(collector(STATE)) as server:
        assert (await ask(server, "/state", having="configuration"))["configuration"] == {"generation": 3}
    with listening(lambda _path, _headers: (503, b'{"status": "unhealthy"}')) as server:
        assert await ask(server, "/health", having="status") == {"status": "unhealthy"}


async def test_a_proxy_has_no_part_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with listening(collector(STATE)) as server:
        assert await ask(server, "/state", having="configuration")


async def test_a_name_that_the_collector_does_not_take_is_told_from_a_stranger() -> None:
    with listening(lambda _path, _headers: (421, b'{"error": "not known as a name of this collector"}')) as server:
        assert "does not take this name" in await failing(server)


async def test_an_answer_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "ANSWER_BYTES", 1000)
    with listening(collector(STATE + b" " * 2000)) as server:
        assert "does not answer as polygon-live does" in await failing(server)


async def test_the_token_goes_along_and_its_lack_is_told_from_a_wrong_one() -> None:
    pages = collector(STATE, "s3cret-token")
    with listening(pages, "s3cret-token") as server:
        assert await ask(server, "/state", having="configuration")
    with listening(pages) as server:
        assert "asks for a token: set POLYGON_LIVE_HTTP_TOKEN" in await failing(server)
    for wrong in ("wr0ng-token", "schlüssel"):
        with listening(pages, wrong) as server:
            said = await failing(server)
            assert "does not take the token in POLYGON_LIVE_HTTP_TOKEN" in said
            assert wrong not in said


async def test_nobody_there_is_told_apart() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens on it
        server = HttpServer(port=taken.getsockname()[1])
        with pytest.raises(CollectorAway, match=re.escape(f"no collector answers at {address_of(server)}; ")):
            await ask(server, "/state", having="configuration")
    with pytest.raises(CollectorAway):
        await ask(HttpServer(host="nowhere.invalid"), "/state", having="configuration")


@pytest.mark.parametrize(
    ("code", "body"),
    [
        (200, b"<html>hello</html>"),
        (200, b"[]"),
        (200, b"{}"),
        (200, b"\xff"),
        (404, STATE),
        (500, b""),
        (302, STATE),
        (200, b"[" * 100_000),
    ],
)
async def test_another_program_is_not_taken_for_a_collector(code: int, body: bytes) -> None:
    with listening(lambda _path, _headers: (code, body)) as server:
        said = await failing(server)
    assert "does not answer as polygon-live does" in said
    assert "POLYGON_LIVE_HTTP_PORT" in said


async def test_what_is_no_http_is_not_either() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def greet(stream: trio.SocketStream) -> None:
        await stream.send_all(b"SSH-2.0-OpenSSH_9.2\r\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, greet, listeners)
        said = await failing(HttpServer(port=listeners[0].socket.getsockname()[1]))
        nursery.cancel_scope.cancel()
    assert "does not answer as polygon-live does" in said


async def test_who_listens_and_says_nothing_is_left(autojump_clock: MockClock) -> None:
    """Nothing is in flight: the clock jumps when everybody waits for the silent one."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = HttpServer(port=silent.getsockname()[1])
        assert await failing(server) == f"{address_of(server)} is open, but gave no answer within 10 s"


def test_where_a_collector_is_asked() -> None:
    assert address_of(HttpServer()) == "http://127.0.0.1:8000"
    assert address_of(HttpServer("0.0.0.0", 9000)) == "http://127.0.0.1:9000"
    assert address_of(HttpServer("::", 9000)) == "http://[::1]:9000"
    assert address_of(HttpServer("fd00::5", 9000)) == "http://[fd00::5]:9000"
    assert address_of(HttpServer("collector.example")) == "http://collector.example:8000"
    with pytest.raises(CollectorError, match="POLYGON_LIVE_HTTP_PORT is 0, so the collector took a free port"):
        address_of(HttpServer(port=0))
