"""The status server put together, on a socket that is taken before anything else is begun."""

import errno
import os
import socket
from collections.abc import Callable

import trio

from polygon_live.config import HttpServer
from polygon_live.errors import ConfigurationError
from polygon_live.page import Board
from polygon_live.status import State
from polygon_live.web.gate import Gate
from polygon_live.web.guard import HEADERS, Guard
from polygon_live.web.pages import Ledger, make_app
from polygon_live.web.server import Server
from polygon_live.web.share import Share

BACKLOG = 64


def listen(server: HttpServer) -> socket.socket:
    """Take the port. Raises ConfigurationError if that can't be."""
    try:
        family, *_, address = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as why:
        # create_server repeats the address in its words; getaddrinfo has its own codes.
        reason = why.strerror if isinstance(why, socket.gaierror) or not why.errno else os.strerror(why.errno)
        another = " Is another collector running?" if why.errno == errno.EADDRINUSE else ""
        msg = (
            f"the status server can't listen on {server.host} port {server.port}: {reason}.{another} "
            f"Set POLYGON_LIVE_HTTP_HOST or POLYGON_LIVE_HTTP_PORT (0 takes a free one)"
        )
        raise ConfigurationError(msg) from why


async def serve_status(
    sock: socket.socket, settings: HttpServer, read: Callable[[], State], ledger: Ledger, board: Board
) -> None:
    """Answer on ``sock`` until cancelled. May be called again on the same socket after a fault."""
    guard = Guard(settings.token.reveal() if settings.token else None, settings.host)
    server = Server(Gate(make_app(read, guard, ledger, board), HEADERS), Share())
    async with trio.SocketListener(trio.socket.from_stdlib_socket(sock.dup())) as listener:
        await server.run(listener)
