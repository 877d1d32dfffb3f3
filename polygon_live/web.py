"""The status server: read-only, computed from evidence at each request, with reasons in words."""

import errno
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import msgspec
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import Response, request
from quart_trio import QuartTrio

from polygon_live import metrics
from polygon_live.config import HttpServer
from polygon_live.errors import ConfigurationError, JournalError
from polygon_live.gap import Gap, shown
from polygon_live.health import guarantee, health
from polygon_live.status import State

View = Callable[[State], Response]
Gaps = Callable[[int], Awaitable[Sequence[Gap]]]
"""The latest entries of the ledger, at most so many that are not settled and then so many that are; of each kind the
latest last. Raises JournalError.
"""

BACKLOG = 64
OPEN_TO_ALL = ("/health", "/metrics")
MOST_GAPS = 500
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def listen(server: HttpServer) -> socket.socket:
    """Take the port, before anything else is begun. Raises ConfigurationError if that can't be."""
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


async def serve_status(sock: socket.socket, read: Callable[[], State], token: str | None, gaps: Gaps) -> None:
    """Answer on ``sock`` until cancelled. May be called again on the same socket after a fault."""
    config = Config()
    config.bind = [f"fd://{os.dup(sock.fileno())}"]
    config.accesslog = config.errorlog = None
    config.include_server_header = False
    config.keep_alive_timeout = 5
    config.h11_max_incomplete_size = 16 * 1024
    config.backlog = BACKLOG
    await serve(make_app(read, token, gaps), config, mode="asgi")


def make_app(read: Callable[[], State], token: str | None, gaps: Gaps) -> QuartTrio:
    """The pages over ``read``, which gathers the present state, and ``gaps``, which reads the ledger."""
    app = QuartTrio("polygon_live", static_folder=None)

    @app.before_request
    async def guard() -> Response | None:
        if token is None or request.path.startswith(OPEN_TO_ALL):
            return None
        given = request.headers.get("Authorization", "")
        if secrets.compare_digest(given.encode(), f"Bearer {token}".encode()):
            return None
        return _json({"error": "this page asks for the header 'Authorization: Bearer TOKEN'"}, 401)

    @app.after_request
    async def harden(response: Response) -> Response:
        response.headers.update(HEADERS)
        return response

    @app.errorhandler(404)
    async def unknown(_error: Exception) -> Response:
        return _json({"error": f"there is no page {request.path}", "pages": list(ABOUT)}, 404)

    @app.errorhandler(405)
    async def not_asked(_error: Exception) -> Response:
        return _json({"error": f"the pages are read-only: {request.path} answers GET"}, 405)

    def register(path: str, view: View) -> None:
        async def answer() -> Response:
            return view(read())

        app.add_url_rule(path, endpoint=path, view_func=answer, methods=["GET"])

    for path, (view, _about) in PAGES.items():
        register(path, view)
    app.add_url_rule(GAPS_PAGE, endpoint=GAPS_PAGE, view_func=partial(_gaps, read, gaps), methods=["GET"])
    return app


def _index(state: State) -> Response:
    return _json({"service": "polygon-live", "version": state.version, "mode": _mode(state), "pages": ABOUT})


def _health(state: State) -> Response:
    verdict = health(state)
    body = {
        "status": "healthy" if verdict.healthy else "unhealthy",
        "mode": _mode(state),
        "reasons": verdict.reasons,
        "notes": verdict.notes,
        "guarantee": guarantee(state),
        "feed": state.feed.state,
        "stores": {s.name: s.state if s.connected else f"{s.state}, not connected" for s in state.sinks},
    }
    return _json(body, 200 if verdict.healthy else 503)


def _ready(state: State) -> Response:
    if state.stopping:
        return _json({"status": "stopping"}, 503)
    return _json({"status": "ready"})


def _live(_state: State) -> Response:
    return _json({"status": "alive"})


def _state(state: State) -> Response:
    body = attrs.asdict(state, recurse=False) | {"mode": _mode(state), "health": health(state)}
    body["rejects"] = {"counts": state.rejects.counts, "unkept": state.rejects.unkept}
    body["sinks"] = [attrs.asdict(s, recurse=False) | {"state": s.state} for s in state.sinks]
    return _json(body)


def _symbols(state: State) -> Response:
    symbols = [attrs.asdict(s, recurse=False) | {"market_open": s.market_open} for s in state.validator.symbols]
    return _json({"at_ms": state.at_ms, "mode": _mode(state), "symbols": symbols})


def _rejects(state: State) -> Response:
    return _json(state.rejects)


async def _gaps(read: Callable[[], State], gaps: Gaps) -> Response:
    try:
        found = await gaps(MOST_GAPS)
    except JournalError as why:
        return _json({"error": str(why)}, 503)
    state = read()
    return _json({"at_ms": state.at_ms, "mode": _mode(state), "gaps": [shown(gap) for gap in found]})


def _metrics(state: State) -> Response:
    return Response(metrics.render(state), content_type="text/plain; version=0.0.4; charset=utf-8")


PAGES: Mapping[str, tuple[View, str]] = {
    "/": (_index, "this list"),
    "/health": (_health, "200 if every tick is arriving and delivered, 503 with the reasons if not"),
    "/health/ready": (_ready, "200 once the collector is configured and at work"),
    "/health/live": (_live, "200 while the process answers"),
    "/state": (_state, "everything the collector knows about itself"),
    "/symbols": (_symbols, "each symbol: last tick, counts, whether its market is open"),
    "/rejects": (_rejects, "what was refused: counts by reason, and the latest with the raw event"),
    "/metrics": (_metrics, "the same for Prometheus"),
}
GAPS_PAGE = "/gaps"
ABOUT: Mapping[str, str] = {
    **{path: sentence for path, (_view, sentence) in PAGES.items()},
    GAPS_PAGE: "what was not received, or did not reach a store: symbol, time, cause, and what became of it",
}


def _mode(state: State) -> str:
    return "SIMULATED" if state.simulated else "live"


def _json(body: Any, status: int = 200) -> Response:
    text = msgspec.json.format(msgspec.json.encode(body), indent=2)
    return Response(text + b"\n", status=status, content_type="application/json")
