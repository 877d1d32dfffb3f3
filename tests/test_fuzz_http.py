"""Requests at random over real sockets, good ones and such as are none: whatever comes, the answer is a proper one.

``HTTP_REQUESTS=5000 ops/just test -k fuzz_http`` looks longer, at other requests each time.
"""

import os
import queue
import socket
import string
import threading
from collections.abc import Iterator
from typing import Final

import attrs
import h11
import msgspec
import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from polygon_live.config import HttpServer, Secret
from polygon_live.model import Reject
from polygon_live.page import Board
from polygon_live.status import RejectsSnapshot
from polygon_live.web import ABOUT, listen, serve_status
from polygon_live.web.guard import HEADERS
from tests.lively import Entries, Lively
from tests.test_status import WELL

TOKEN: Final = "s3cret-t0ken"
PAGES: Final = (*ABOUT, "/stream", "/page/main.js", "/page/page.css", "/page/none", "/page/")
REFUSED: Final = frozenset({400, 401, 403, 404, 405, 413, 421, 431, 505})
NO_HTTP: Final = frozenset({400, 431})
"""Hypercorn's own answers, to what it can't read."""
LONGER: Final = os.environ.get("HTTP_REQUESTS")
bounded = settings(
    max_examples=int(LONGER or 50),
    derandomize=LONGER is None,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@attrs.frozen
class Told:
    status: int
    headers: dict[str, str]
    body: bytes


Started = tuple[int, trio.CancelScope, trio.lowlevel.TrioToken]


async def _serve(token: str | None, ports: "queue.Queue[Started]") -> None:
    odd = Reject("validate", "crossed", "\x00</script>\ud7ff", "\x7f", 5, None)
    lively = Lively()
    lively.base = attrs.evolve(WELL, rejects=RejectsSnapshot({"validate": {"crossed": 1}}, (odd,), 0))
    with listen(HttpServer(port=0)) as sock:
        async with trio.open_nursery() as nursery:
            board = Board(lively.read, Entries().gaps)
            nursery.start_soon(board.run)
            http = HttpServer(token=Secret(token) if token else None)
            nursery.start_soon(serve_status, sock, http, lively.read, Entries(), board)
            ports.put((sock.getsockname()[1], nursery.cancel_scope, trio.lowlevel.current_trio_token()))


@pytest.fixture(scope="module", params=[None, TOKEN], ids=["open", "token"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """One server for all of them: it has to go on answering."""
    ports: queue.Queue[Started] = queue.Queue()
    with capture_logs() as logs:
        thread = threading.Thread(target=trio.run, args=(_serve, request.param, ports))
        thread.start()
        number, scope, token = ports.get(timeout=60)
        lives(number)  # Python 3.11 must not parse in two threads: the pages' routes are, and what Hypothesis tells of
        yield number
        lives(number)
        token.run_sync_soon(scope.cancel)
        thread.join()
    assert not logs


def lives(port: int) -> None:
    (told,) = answers(exchanged(port, b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"), "GET")
    assert told.status == 200


def exchanged(port: int, request: bytes) -> bytes:
    """What is answered until the server has had enough."""
    told = b""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(2**16):
                told += part
        except ConnectionError:
            pass  # it did not want to hear all of it
    return told


def answers(told: bytes, method: str) -> list[Told]:
    """Read with all the strictness of a client. The method is that of all requests."""
    found = []
    while told:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=method, target="/", headers=[("Host", "localhost")]))
        client.send(h11.EndOfMessage())
        client.receive_data(told)
        head = client.next_event()
        if isinstance(head, h11.InformationalResponse):
            assert head.status_code == 100
            head = client.next_event()
        assert isinstance(head, h11.Response), told
        body = b""
        while isinstance(event := client.next_event(), h11.Data):
            body += event.data
        assert isinstance(event, h11.EndOfMessage) or b"text/event-stream" in told, told
        found.append(Told(head.status_code, {n.decode(): v.decode() for n, v in head.headers}, body))
        told = client.trailing_data[0]
        if event is h11.NEED_DATA:
            break
    return found


def judge(told: Told, *, head: bool = False) -> None:
    assert told.status == 200 or told.status in REFUSED, told
    if told.status in NO_HTTP and told.headers["content-length"] == "0":
        assert told.headers["connection"].lower() == "close"
        assert told.body == b""
        return
    for name, value in HEADERS.items():
        if name == "Content-Security-Policy" and told.headers["content-type"].startswith("text/html"):
            assert "script-src 'self'" in told.headers[name.lower()]
        else:
            assert told.headers[name.lower()] == value
    assert TOKEN.encode() not in told.body
    assert b"Traceback" not in told.body
    assert ("allow" in told.headers) == (told.status == 405)
    if head:
        assert told.body == b""
    elif told.headers["content-type"] == "application/json":
        body = msgspec.json.decode(told.body)
        assert told.status == 200 or body["error"]
    else:
        assert told.status == 200
        told.body.decode()


TOKENS: Final = string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~"
visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=60)
encoded = st.lists(st.binary(min_size=1, max_size=4).map(lambda b: "".join(f"%{n:02x}" for n in b)), max_size=5)
paths = st.one_of(
    st.sampled_from(PAGES),
    st.tuples(st.sampled_from(PAGES), visible).map("".join),
    st.tuples(st.sampled_from(PAGES), encoded.map("".join)).map("".join),
    st.sampled_from(PAGES).map(lambda path: "/" + path),
    st.sampled_from(PAGES).map(lambda path: path.replace("/", "/./", 1)),
    st.sampled_from(PAGES).map(lambda path: path.upper()),
    st.sampled_from(PAGES).map(lambda path: "/health/.." + path),
    visible.map(lambda text: "/" + text),
    visible,
)
values = st.one_of(
    visible,
    encoded.map("".join),
    st.sampled_from(["-1", "0", "1e999", "NaN", "null", "true", "[]", "9" * 50, "'--", "%00", "%ff", "+", "%", "%zz"]),
)
names = st.sampled_from(["limit", "symbol", "from", "to", "state", "a", "", "%00"])
queries = st.one_of(
    st.just(""),
    st.just("?"),
    st.lists(st.tuples(names, values).map("=".join), max_size=4).map(lambda pairs: "?" + "&".join(pairs)),
)
hosts = st.one_of(
    st.sampled_from(["localhost", "127.0.0.1:8000", "[::1]", "evil.example", "collector:80", "[", "]", ":", "a" * 500]),
    visible,
)
header = st.tuples(
    st.one_of(
        st.sampled_from(
            [
                "Accept",
                "Authorization",
                "Cookie",
                "Range",
                "If-None-Match",
                "Sec-Fetch-Site",
                "Upgrade",
                "Connection",
                "Expect",
                "Origin",
                "X-Forwarded-Host",
                "Accept-Encoding",
                "Content-Type",
                "X-HTTP-Method-Override",
            ]
        ),
        st.text(TOKENS, min_size=1, max_size=20).filter(
            lambda name: name.lower() not in {"host", "content-length", "transfer-encoding"}
        ),
    ),
    st.one_of(
        st.sampled_from(
            [
                "text/html",
                "*/*",
                "close",
                "Upgrade",
                "websocket",
                "h2c",
                "Bearer",
                "bytes=0-1",
                "cross-site",
                "100-continue",
                "DELETE",
                "gzip",
            ]
        ),
        st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=60).map(
            str.strip
        ),
    ),
)
methods = st.one_of(
    st.just("GET"),
    st.sampled_from(["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "get"]),
    st.text(TOKENS, min_size=1, max_size=12),
)


@bounded
@given(method=methods, path=paths, query=queries, host=hosts, headers=st.lists(header, max_size=6))
@example(method="GET", path="/stream", query="", host="localhost", headers=[])
@example(method="HEAD", path="/stream", query="", host="localhost", headers=[])
@example(method="GET", path="/", query="", host="localhost", headers=[("Accept", "text/html")])
@example(method="GET", path="/health", query="", host="a" * 64, headers=[])  # no name has so long a part
@example(method="GET", path="/rejects", query="", host="localhost", headers=[])
def test_a_well_formed_request_gets_a_proper_answer(
    port: int, method: str, path: str, query: str, host: str, headers: list[tuple[str, str]]
) -> None:
    lines = [f"{method} {path or '/'}{query} HTTP/1.1", f"Host: {host}", *(f"{n}: {v}" for n, v in headers)]
    request = "\r\n".join([*lines, "", ""]).encode("latin-1")
    (told,) = answers(exchanged(port, request), method if method in {"HEAD", "CONNECT"} else "GET")
    judge(told, head=method == "HEAD")
    if told.status == 200:
        assert method in {"GET", "HEAD"}
        assert not query.strip("?")


@bounded
@given(
    page=st.sampled_from(PAGES),
    body=st.binary(max_size=200),
    edits=st.lists(st.tuples(st.integers(0, 250), st.integers(0, 3), st.binary(max_size=8)), min_size=1, max_size=4),
    times=st.integers(1, 3),
)
def test_bytes_that_are_hardly_a_request_get_proper_answers_or_none(
    port: int, page: str, body: bytes, edits: list[tuple[int, int, bytes]], times: int
) -> None:
    request = b"GET %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (page.encode(), len(body)) + body
    request *= times
    for at, removed, inserted in edits:
        place = at % len(request) if request else 0
        request = request[:place] + inserted + request[place + removed :]
    for told in answers(exchanged(port, request), "GET"):
        judge(told)


@bounded
@given(noise=st.one_of(st.binary(max_size=300), st.text(max_size=100).map(lambda text: f"{text}\r\n\r\n".encode())))
@example(noise=b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
@example(noise=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x08" * 50)
@example(noise=b"\r\n" * 500)
def test_noise_gets_proper_answers_or_none(port: int, noise: bytes) -> None:
    for told in answers(exchanged(port, noise), "GET"):
        judge(told)
