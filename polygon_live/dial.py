"""The way to Polygon: TCP, TLS, WebSocket; and what the library's errors on that way mean."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final
from urllib.parse import SplitResult, urlsplit

import trio
from h11 import ProtocolError
from trio_websocket import ConnectionClosed, ConnectionRejected, wrap_client_stream
from wsproto.utilities import ProtocolError as Confused

from polygon_live.errors import DialFailed, FeedDropped, FeedError, TooManyConnections
from polygon_live.websocket import MAX_MESSAGE, Tap, WebSocket

Dial = Callable[[str], AbstractAsyncContextManager[WebSocket]]

UNREACHED: Final = (OSError, trio.TooSlowError, trio.BrokenResourceError, ConnectionRejected, ProtocolError, Confused)
"""What ``dial_error`` understands."""
CONNECT_SECONDS: Final = 10.0
"""For TCP and TLS, and again for the WebSocket."""
CLOSE_SECONDS: Final = 2.0
POLICY_VIOLATION: Final = 1008
ABNORMAL: Final = 1006


@asynccontextmanager
async def dial_websocket(url: str) -> AsyncIterator[WebSocket]:
    """The real way: TCP, TLS if it is ``wss``, WebSocket. Raises whatever ``dial_error`` understands."""
    with trio.fail_after(CONNECT_SECONDS):
        stream = await _open_stream(urlsplit(url))
    async with websocket_over(stream, url) as ws:
        yield ws


async def _open_stream(url: SplitResult) -> trio.abc.Stream:
    host = url.hostname or ""
    if url.scheme == "ws":
        return await trio.open_tcp_stream(host, url.port or 80)
    tls = await trio.open_ssl_over_tcp_stream(
        host, url.port or 443, ssl_context=ssl.create_default_context(), https_compatible=True
    )
    try:
        await tls.do_handshake()  # now, for what is wrong with a certificate would be lost later
    except BaseException:
        await trio.aclose_forcefully(tls)
        raise
    return tls


class _Reading:
    """Stands for the nursery in which trio-websocket reads: when its reader finds the connection closed before the
    handshake is over, nobody tells who waits for the handshake.
    """

    def __init__(self, nursery: trio.Nursery, opening: trio.CancelScope, tap: Tap) -> None:
        self._nursery = nursery
        self._opening = opening
        self._tap = tap

    def start_soon(self, read: Callable[[], Awaitable[None]]) -> None:
        self._nursery.start_soon(self._read, read)

    async def _read(self, read: Callable[[], Awaitable[None]]) -> None:
        try:
            await read()
        finally:
            self._tap.end()
        self._opening.cancel()


@asynccontextmanager
async def websocket_over(stream: trio.abc.Stream, url: str) -> AsyncIterator[WebSocket]:
    """A WebSocket over an open stream. The stream is closed at the end whatever happens: trio-websocket leaves it open
    when it was the other side that ended the conversation.
    """
    parts = urlsplit(url)
    tap = Tap(stream)
    try:
        async with trio.open_nursery() as reading:
            with trio.fail_after(CONNECT_SECONDS), trio.CancelScope() as opening:
                library = await wrap_client_stream(
                    _Reading(reading, opening, tap),  # type: ignore[arg-type]
                    tap,  # type: ignore[arg-type]  # any stream, says its docstring
                    parts.netloc.rpartition("@")[2],
                    f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}",
                    message_queue_size=256,  # while it is full, pings go unanswered
                    max_message_size=MAX_MESSAGE,
                    receive_buffer_size=2**18,
                )
            if opening.cancelled_caught:
                raise trio.BrokenResourceError("the connection was closed before the WebSocket was open")
            ws = WebSocket(library, tap)
            try:
                yield ws
            finally:
                with trio.move_on_after(CLOSE_SECONDS):
                    await ws.aclose()
                reading.cancel_scope.cancel()
    except ExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise
    finally:
        await trio.aclose_forcefully(stream)


def address_of(url: str) -> str:
    """The address without anything that could be a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def dial_error(url: str, why: Exception) -> DialFailed:
    """Why no WebSocket came about at ``url``."""
    if isinstance(why, ConnectionRejected):
        return DialFailed(f"{address_of(url)} refuses the WebSocket with HTTP status {why.status_code}")
    if isinstance(why, trio.TooSlowError):
        return DialFailed(f"{address_of(url)} did not answer within {CONNECT_SECONDS:g} s")
    if isinstance(why, ProtocolError | Confused):  # raised by the libraries' answer to a fault: what it was is lost
        return DialFailed(
            f"what answers at {address_of(url)} does not speak WebSocket, or a proxy in between changes it: "
            "check the address"
        )
    cause = why.__cause__ or why
    if isinstance(cause, ExceptionGroup):  # one for each address that the name has
        cause = cause.exceptions[0]
    return DialFailed(f"{address_of(url)} can't be reached: {cause or type(cause).__name__}")


def closed_error(why: ConnectionClosed, hide: Callable[[str], str]) -> FeedError:
    """What the end of an open connection means. Polygon closes with 1008 whom it evicts; deploys use 1000 and 1001.
    ``hide`` takes the secrets out of what was said.
    """
    code = why.reason.code if why.reason else ABNORMAL
    text = hide(why.reason.reason if why.reason and why.reason.reason else "")
    if code == POLICY_VIOLATION:
        return TooManyConnections(f"Polygon closed with code 1008 {text!r}: another instance holds the connection")
    if code == ABNORMAL:
        return FeedDropped("the connection was cut without a goodbye", reason="cut")
    return FeedDropped(f"the connection was closed with code {code} {text!r}", reason=f"close_{code}")
