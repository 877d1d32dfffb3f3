"""The way to Polygon over real TLS, and what is said when it fails."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trustme
from trio.testing import MockClock, memory_stream_pair
from trio_websocket import CloseReason, ConnectionClosed

from polygon_live import dial, wire
from polygon_live.config import Secret
from polygon_live.dial import UNREACHED, address_of, closed_error, dial_error, dial_websocket
from polygon_live.login import Login
from polygon_live.standin import StandIn
from polygon_live.subscriptions import Subscriptions

PATIENCE_SECONDS = 60


@pytest.fixture
def authority(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> trustme.CA:
    """A certificate authority that this process trusts."""
    authority = trustme.CA()
    file = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    return authority


@asynccontextmanager
async def listening(standin: StandIn, certificate: trustme.LeafCert | None) -> AsyncIterator[str]:
    """A stand-in behind TLS; without a certificate, somebody who takes connections and says nothing."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)

    async def answer(stream: trio.SocketStream) -> None:
        if certificate is None:
            await trio.sleep_forever()
        tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        await standin._converse(tls)

    if certificate is not None:
        certificate.configure_cert(context)
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
            yield f"wss://localhost:{listeners[0].socket.getsockname()[1]}/forex"
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("wss://user:pa55@h.example/forex?apiKey=k#k", "wss://h.example/forex"),
        ("ws://[::1]:8765/forex", "ws://[::1]:8765/forex"),
    ],
)
def test_an_address_shows_no_secret(url: str, shown: str) -> None:
    assert address_of(url) == shown


async def test_over_tls_it_greets_and_says_goodbye(authority: trustme.CA) -> None:
    standin = StandIn(key="k")
    async with listening(standin, authority.issue_cert("localhost")) as url:
        async with dial_websocket(url) as ws:
            assert wire.statuses(await ws.get_message())[0].status == "connected"
        await standin.until(lambda: not standin.latest.open)
        assert standin.latest.goodbye == 1000


async def test_over_tls_a_cut_is_a_cut(authority: trustme.CA) -> None:
    standin = StandIn(key="k")
    async with listening(standin, authority.issue_cert("localhost")) as url, dial_websocket(url) as ws:
        await ws.get_message()
        standin.latest.reset()
        with pytest.raises(ConnectionClosed) as raised:
            await ws.get_message()
        assert closed_error(raised.value, str).reason == "cut"


@pytest.mark.parametrize("code", [1008, 4001])
def test_a_close_that_repeats_the_key_is_told_without_it(code: int) -> None:
    login = Login(Secret("sesame-1"), Subscriptions(()))
    told = str(closed_error(ConnectionClosed(CloseReason(code, "no place for sesame-1")), login.hide))
    assert "no place for ***" in told


async def refusal(url: str) -> str:
    with pytest.raises((trio.BrokenResourceError, trio.TooSlowError)) as raised:
        async with dial_websocket(url):
            pytest.fail("it was let in")
    return str(dial_error(url, raised.value))


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 101 Yes\r\n\r\n",
        b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: wrong\r\n\r\n",
        b"HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n",
    ],
)
async def test_what_does_not_speak_websocket_is_told_so(answer: bytes) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        await stream.receive_some()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        url = f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}/forex"
        with pytest.raises(UNREACHED) as raised:
            async with dial_websocket(url):
                pytest.fail("it was let in")
        assert f"what answers at {url} does not speak WebSocket" in str(dial_error(url, raised.value))
        nursery.cancel_scope.cancel()


async def test_a_certificate_that_nobody_vouches_for_is_refused_and_told(authority: trustme.CA) -> None:
    async with listening(StandIn(key="k"), trustme.CA().issue_cert("localhost")) as url:
        told = await refusal(url)
    assert told.startswith(f"{url} can't be reached: ")
    assert "certificate verify failed" in told


async def test_a_certificate_for_another_name_is_refused_and_told(authority: trustme.CA) -> None:
    async with listening(StandIn(key="k"), authority.issue_cert("other.example")) as url:
        assert "not valid for 'localhost'" in await refusal(url)


async def test_who_closes_before_the_websocket_is_open_is_not_waited_for(autojump_clock: MockClock) -> None:
    near, far = memory_stream_pair()
    await far.aclose()
    began = trio.current_time()
    with pytest.raises(trio.BrokenResourceError) as raised:
        async with dial.websocket_over(near, "ws://h.example/forex"):
            pytest.fail("it was let in")
    assert trio.current_time() == began
    told = dial_error("ws://h.example/forex", raised.value)
    assert str(told).endswith("can't be reached: the connection was closed before the WebSocket was open")


async def test_who_takes_the_connection_and_says_nothing_is_given_ten_seconds(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dial.CONNECT_SECONDS == 10
    monkeypatch.setattr(dial, "CONNECT_SECONDS", 0.5)
    async with listening(StandIn(key="k"), None) as url:
        assert await refusal(url) == f"{url} did not answer within 0.5 s"
