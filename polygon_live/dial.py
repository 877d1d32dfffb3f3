"""The way to Polygon: TCP, TLS, WebSocket; and what the library's errors on that way mean."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final
from urllib.parse import urlsplit

from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    ConnectionTimeout,
    HandshakeError,
    WebSocketConnection,
    open_websocket_url,
)

from polygon_live.errors import DialFailed, FeedDropped, FeedError, TooManyConnections

Dial = Callable[[str], AbstractAsyncContextManager[WebSocketConnection]]

CONNECT_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 2.0
MAX_MESSAGE: Final = 16 * 2**20
POLICY_VIOLATION: Final = 1008
ABNORMAL: Final = 1006


def dial_websocket(url: str) -> AbstractAsyncContextManager[WebSocketConnection]:
    """The real way: TCP, TLS, WebSocket."""
    return open_websocket_url(
        url,
        message_queue_size=256,  # while it is full, pings go unanswered
        max_message_size=MAX_MESSAGE,
        receive_buffer_size=2**18,
        connect_timeout=CONNECT_SECONDS,
        disconnect_timeout=CLOSE_SECONDS,
    )


def address_of(url: str) -> str:
    """The address without anything that could be a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"


def dial_error(url: str, why: Exception) -> DialFailed:
    """Why no WebSocket came about at ``url``."""
    if isinstance(why, ConnectionRejected):
        return DialFailed(f"{address_of(url)} refuses the WebSocket with HTTP status {why.status_code}")
    if isinstance(why, ConnectionTimeout):
        return DialFailed(f"{address_of(url)} did not answer within {CONNECT_SECONDS:g} s")
    cause = why.__cause__ if isinstance(why, HandshakeError) and why.__cause__ else why
    return DialFailed(f"{address_of(url)} can't be reached: {cause or type(cause).__name__}")


def closed_error(why: ConnectionClosed) -> FeedError:
    """What the end of an open connection means. Polygon closes with 1008 whom it evicts; deploys use 1000 and 1001."""
    code = why.reason.code if why.reason else ABNORMAL
    text = why.reason.reason if why.reason and why.reason.reason else ""
    if code == POLICY_VIOLATION:
        return TooManyConnections(f"Polygon closed with code 1008 {text!r}: another instance holds the connection")
    if code == ABNORMAL:
        return FeedDropped("the connection was cut without a goodbye", reason="cut")
    return FeedDropped(f"the connection was closed with code {code} {text!r}", reason=f"close_{code}")
