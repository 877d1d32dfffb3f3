"""The status server: read-only, computed from evidence at each request, with reasons in words.

``/`` is the page for people if a browser asks for it, else the list of the pages for programs. The page's files are
open to all: there is no word of the state in them. What it shows comes over ``/stream``, which asks for the token as
the other pages do.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

import attrs
import msgspec
from quart import Response, request
from quart.wrappers.response import ResponseBody
from quart_trio import QuartTrio

from polygon_live import metrics
from polygon_live.errors import JournalError
from polygon_live.gap import Gap, shown
from polygon_live.health import guarantee, health
from polygon_live.journal import Aside
from polygon_live.page import FILES, MOST_FOLLOWERS, Board, Follower, shell
from polygon_live.status import State
from polygon_live.web.guard import FILES_PAGE, HEADERS, Guard
from polygon_live.web.share import Shared

View = Callable[[State], "Page"]

MOST_GAPS = 500
MOST_ASIDE = 500
LEDGER_SECONDS: Final = 0.25
"""The ledger is read in the journal's thread, where ticks are written: for the pages no more often than this."""
MOST_OF_PATH = 200
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


@attrs.frozen
class Page:
    """What is answered. It may go to many who ask."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"

    def response(self) -> Response:
        """For one of them."""
        return Response(self.body, status=self.status, content_type=self.content_type)


def make_app(read: Callable[[], State], guard: Guard, ledger: Ledger, board: Board) -> QuartTrio:
    """The pages over ``read``, which gathers the present state, the ledger, and ``board``, which renders what the page
    shows.
    """
    app = QuartTrio("polygon_live", static_folder=None)
    app.url_map.merge_slashes = False
    app.before_request(partial(_refuse, guard))
    app.after_request(_harden)
    app.register_error_handler(404, _unknown)
    app.register_error_handler(500, _failed)
    answers: Mapping[str, Callable[..., Awaitable[Response]]] = {
        INDEX: partial(_front, read, token=guard.token is not None),
        STREAM: partial(_stream, board),
        LIVE: _live,
        f"{FILES_PAGE}<name>": _file,
        GAPS_PAGE: partial(_aside, Shared(partial(_gaps, read, ledger), every=LEDGER_SECONDS)),
        QUARANTINE_PAGE: partial(_aside, Shared(partial(_quarantine, read, ledger), every=LEDGER_SECONDS)),
        **{path: partial(_answer, Shared(partial(_made, read, view))) for path, (view, _about) in PAGES.items()},
    }
    for path, answer in answers.items():
        app.add_url_rule(path, endpoint=path, view_func=answer, methods=["GET"], provide_automatic_options=False)
    return app


async def _refuse(guard: Guard) -> Response | None:
    if refusal := guard.refuses(request.path, _scope()["host"], request.headers.get, page=_wants_page()):
        return _json({"error": refusal.why}, refusal.status).response()
    if request.query_string:
        return _json({"error": f"the pages take no parameters: ask for {request.path} alone"}, 400).response()
    return None


async def _harden(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


async def _unknown(_error: Exception | None = None) -> Response:
    path = request.path if len(request.path) <= MOST_OF_PATH else request.path[:MOST_OF_PATH] + " …"
    return _json({"error": f"there is no page {path}", "pages": list(ABOUT)}, 404).response()


async def _failed(_error: Exception) -> Response:
    return _json({"error": "this page failed; the log says how"}, 500).response()


async def _answer(shared: Shared[Page]) -> Response:
    return (await shared.get(_scope()["asked"])).response()


async def _aside(shared: Shared[Page]) -> Response:
    """Who waits for the journal lets the others go on."""
    scope = _scope()
    scope["turn"].give()
    page = await shared.get(scope["asked"])
    await scope["turn"].take()
    return page.response()


def _scope() -> Any:
    """Of the present request, with what ``gate`` adds."""
    return request.scope


async def _made(read: Callable[[], State], view: View) -> Page:
    return view(read())


async def _live() -> Response:
    return _json({"status": "alive"}).response()


def _wants_page() -> bool:
    """A browser names HTML; curl and most programs take anything, and get what they always got."""
    return request.path == INDEX and "text/html" in request.headers.get("Accept", "")


async def _front(read: Callable[[], State], *, token: bool) -> Response:
    answer = _page(read(), token=token) if _wants_page() else _index(read()).response()
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
        return _json({"error": f"{MOST_FOLLOWERS} pages are open already: close one"}, 503).response()
    body = b"" if request.method == "HEAD" else _Stream(follower)
    response = Response(body, content_type="text/event-stream")
    response.timeout = None
    return response


def _index(state: State) -> Page:
    return _json({"service": "polygon-live", "version": state.version, "mode": _mode(state), "pages": ABOUT})


def _health(state: State) -> Page:
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


def _ready(state: State) -> Page:
    if state.stopping:
        return _json({"status": "stopping"}, 503)
    return _json({"status": "ready"})


def _state(state: State) -> Page:
    body = attrs.asdict(state, recurse=False) | {"mode": _mode(state), "health": health(state)}
    body["rejects"] = {"counts": state.rejects.counts, "unkept": state.rejects.unkept}
    body["sinks"] = [attrs.asdict(s, recurse=False) | {"state": s.state} for s in state.sinks]
    return _json(body)


def _symbols(state: State) -> Page:
    symbols = [attrs.asdict(s, recurse=False) | {"market_open": s.market_open} for s in state.validator.symbols]
    return _json({"at_ms": state.at_ms, "mode": _mode(state), "symbols": symbols})


def _rejects(state: State) -> Page:
    return _json(state.rejects)


async def _gaps(read: Callable[[], State], ledger: Ledger) -> Page:
    try:
        found = await ledger.gaps(MOST_GAPS)
    except JournalError as why:
        return _json({"error": str(why)}, 503)
    state = read()
    return _json({"at_ms": state.at_ms, "mode": _mode(state), "gaps": [shown(gap) for gap in found]})


async def _quarantine(read: Callable[[], State], ledger: Ledger) -> Page:
    try:
        found = await ledger.quarantine(MOST_ASIDE)
    except JournalError as why:
        return _json({"error": str(why)}, 503)
    state = read()
    ever = {s.name: s.set_aside_ever for s in state.sinks}
    ticks = [aside.shown() for aside in found]
    return _json({"at_ms": state.at_ms, "mode": _mode(state), "ever": ever, "ticks": ticks})


def _metrics(state: State) -> Page:
    return Page(metrics.render(state), content_type="text/plain; version=0.0.4; charset=utf-8")


PAGES: Mapping[str, tuple[View, str]] = {
    "/health": (_health, "200 if every tick is arriving and delivered, 503 with the reasons if not"),
    "/health/ready": (_ready, "200 once the collector is configured and at work"),
    "/state": (_state, "everything the collector knows about itself"),
    "/symbols": (_symbols, "each symbol: last tick, counts, whether its market is open"),
    "/rejects": (_rejects, "what was refused: counts by reason, and the latest with the raw event"),
    "/metrics": (_metrics, "the same for Prometheus"),
}
INDEX = "/"
LIVE = "/health/live"
STREAM = "/stream"
GAPS_PAGE = "/gaps"
QUARANTINE_PAGE = "/quarantine"
ABOUT: Mapping[str, str] = {
    INDEX: "this list; for a browser, the page for people",
    **{path: sentence for path, (_view, sentence) in PAGES.items()},
    LIVE: "200 while the process answers",
    GAPS_PAGE: "what was not received, or did not reach a store: symbol, time, cause, and what became of it",
    QUARANTINE_PAGE: "the latest ticks that a store refused for their content, in its words, and how many ever were",
}


def _mode(state: State) -> str:
    return "SIMULATED" if state.simulated else "live"


def _json(body: Any, status: int = 200) -> Page:
    return Page(msgspec.json.format(msgspec.json.encode(body), indent=2) + b"\n", status)
