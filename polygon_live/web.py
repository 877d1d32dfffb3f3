"""The status server: read-only, computed from evidence at each request, with reasons in words.

``/`` is the page for people if a browser asks for it, else the list of the pages for programs. The page's files are
open to all: there is no word of the state in them. What it shows comes over ``/stream``, which asks for the token as
the other pages do.
"""

import errno
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import attrs
import msgspec
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import Response, request
from quart.wrappers.response import ResponseBody
from quart_trio import QuartTrio

from polygon_live import metrics
from polygon_live.config import HttpServer
from polygon_live.errors import ConfigurationError, JournalError
from polygon_live.gap import Gap, shown
from polygon_live.health import guarantee, health
from polygon_live.journal import Aside
from polygon_live.page import FILES, MOST_FOLLOWERS, Board, Follower, shell
from polygon_live.status import State

View = Callable[[State], Response]

BACKLOG = 64
FILES_PAGE = "/page/"
OPEN_TO_ALL = ("/health", "/metrics", FILES_PAGE)
MOST_GAPS = 500
MOST_ASIDE = 500
UNREAD_MS = 5000
"""A client that takes nothing for so long is cut off: Hypercorn would wait for it, at a stop too."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Nothing from elsewhere, nothing inline, and no string may become HTML."""


class Ledger(Protocol):
    """What the pages need of it. Both raise JournalError."""

    async def gaps(self, most: int) -> Sequence[Gap]:
        """Entries: at most so many that are not settled and then so many that are; of each kind the latest last."""

    async def quarantine(self, most: int) -> Sequence[Aside]:
        """As many of the ticks that stores refused, the latest last."""


def listen(server: HttpServer) -> socket.socket:
    """Take the port, before anything else is begun. Raises ConfigurationError if that can't be."""
    try:
        family, *_, address = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)[0]
        sock = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as why:
        # create_server repeats the address in its words; getaddrinfo has its own codes.
        reason = why.strerror if isinstance(why, socket.gaierror) or not why.errno else os.strerror(why.errno)
        another = " Is another collector running?" if why.errno == errno.EADDRINUSE else ""
        msg = (
            f"the status server can't listen on {server.host} port {server.port}: {reason}.{another} "
            f"Set POLYGON_LIVE_HTTP_HOST or POLYGON_LIVE_HTTP_PORT (0 takes a free one)"
        )
        raise ConfigurationError(msg) from why
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS)  # handed on to what is accepted
    return sock


async def serve_status(
    sock: socket.socket, read: Callable[[], State], token: str | None, ledger: Ledger, board: Board
) -> None:
    """Answer on ``sock`` until cancelled. May be called again on the same socket after a fault."""
    config = Config()
    config.bind = [f"fd://{os.dup(sock.fileno())}"]
    config.accesslog = config.errorlog = None
    config.include_server_header = False
    config.keep_alive_timeout = 5
    config.h11_max_incomplete_size = 16 * 1024
    config.backlog = BACKLOG
    await serve(make_app(read, token, ledger, board), config, mode="asgi")


def make_app(read: Callable[[], State], token: str | None, ledger: Ledger, board: Board) -> QuartTrio:
    """The pages over ``read``, which gathers the present state, the ledger, and ``board``, which renders what the page
    shows.
    """
    app = QuartTrio("polygon_live", static_folder=None)
    if token is not None:
        app.before_request(partial(_guard, token))
    app.after_request(_harden)
    app.register_error_handler(404, _unknown)
    app.register_error_handler(405, _not_asked)
    answers: Mapping[str, Callable[..., Awaitable[Response]]] = {
        INDEX: partial(_front, read, token=token is not None),
        STREAM: partial(_stream, board),
        f"{FILES_PAGE}<name>": _file,
        GAPS_PAGE: partial(_gaps, read, ledger),
        QUARANTINE_PAGE: partial(_quarantine, read, ledger),
        **{path: partial(_answer, read, view) for path, (view, _about) in PAGES.items()},
    }
    for path, answer in answers.items():
        app.add_url_rule(path, endpoint=path, view_func=answer, methods=["GET"])
    return app


async def _guard(token: str) -> Response | None:
    if request.path.startswith(OPEN_TO_ALL) or _wants_page():
        return None
    given = request.headers.get("Authorization", "")
    if secrets.compare_digest(given.encode(), f"Bearer {token}".encode()):
        return None
    return _json({"error": "this page asks for the header 'Authorization: Bearer TOKEN'"}, 401)


async def _harden(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


async def _unknown(_error: Exception | None = None) -> Response:
    return _json({"error": f"there is no page {request.path}", "pages": list(ABOUT)}, 404)


async def _not_asked(_error: Exception) -> Response:
    return _json({"error": f"the pages are read-only: {request.path} answers GET"}, 405)


async def _answer(read: Callable[[], State], view: View) -> Response:
    return view(read())


def _wants_page() -> bool:
    """A browser names HTML; curl and most programs take anything, and get what they always got."""
    return request.path == INDEX and "text/html" in request.headers.get("Accept", "")


async def _front(read: Callable[[], State], *, token: bool) -> Response:
    answer = _page(read(), token=token) if _wants_page() else _index(read())
    answer.headers["Vary"] = "Accept"
    return answer


def _page(state: State, *, token: bool) -> Response:
    headers = {"Content-Security-Policy": PAGE_POLICY, "Cross-Origin-Opener-Policy": "same-origin"}
    return Response(shell(state, token=token), headers=headers, content_type="text/html; charset=utf-8")


async def _file(name: str) -> Response:
    file = FILES.get(name)
    if file is None:
        return await _unknown()
    return Response(file.content, content_type=file.content_type)


class _Stream(ResponseBody):
    """The board's events as Quart sends them."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    async def __aenter__(self) -> Follower:
        return await self._follower.__aenter__()

    async def __aexit__(self, *error: object) -> None:
        await self._follower.__aexit__()


async def _stream(board: Board) -> Response:
    follower = board.follow()
    if follower is None:
        return _json({"error": f"{MOST_FOLLOWERS} pages are open already: close one"}, 503)
    body = b"" if request.method == "HEAD" else _Stream(follower)
    response = Response(body, content_type="text/event-stream")
    response.timeout = None
    return response


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
        "configuration": {
            "source": state.configuration.hub.source,
            "generation": state.configuration.generation,
            "digest": state.configuration.digest,
        },
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


async def _gaps(read: Callable[[], State], ledger: Ledger) -> Response:
    try:
        found = await ledger.gaps(MOST_GAPS)
    except JournalError as why:
        return _json({"error": str(why)}, 503)
    state = read()
    return _json({"at_ms": state.at_ms, "mode": _mode(state), "gaps": [shown(gap) for gap in found]})


async def _quarantine(read: Callable[[], State], ledger: Ledger) -> Response:
    try:
        found = await ledger.quarantine(MOST_ASIDE)
    except JournalError as why:
        return _json({"error": str(why)}, 503)
    state = read()
    ever = {s.name: s.set_aside_ever for s in state.sinks}
    ticks = [aside.shown() for aside in found]
    return _json({"at_ms": state.at_ms, "mode": _mode(state), "ever": ever, "ticks": ticks})


def _metrics(state: State) -> Response:
    return Response(metrics.render(state), content_type="text/plain; version=0.0.4; charset=utf-8")


PAGES: Mapping[str, tuple[View, str]] = {
    "/health": (_health, "200 if every tick is arriving and delivered, 503 with the reasons if not"),
    "/health/ready": (_ready, "200 once the collector is configured and at work"),
    "/health/live": (_live, "200 while the process answers"),
    "/state": (_state, "everything the collector knows about itself"),
    "/symbols": (_symbols, "each symbol: last tick, counts, whether its market is open"),
    "/rejects": (_rejects, "what was refused: counts by reason, and the latest with the raw event"),
    "/metrics": (_metrics, "the same for Prometheus"),
}
INDEX = "/"
STREAM = "/stream"
GAPS_PAGE = "/gaps"
QUARANTINE_PAGE = "/quarantine"
ABOUT: Mapping[str, str] = {
    INDEX: "this list; for a browser, the page for people",
    **{path: sentence for path, (_view, sentence) in PAGES.items()},
    GAPS_PAGE: "what was not received, or did not reach a store: symbol, time, cause, and what became of it",
    QUARANTINE_PAGE: "the latest ticks that a store refused for their content, in its words, and how many ever were",
}


def _mode(state: State) -> str:
    return "SIMULATED" if state.simulated else "live"


def _json(body: Any, status: int = 200) -> Response:
    text = msgspec.json.format(msgspec.json.encode(body), indent=2)
    return Response(text + b"\n", status=status, content_type="application/json")
