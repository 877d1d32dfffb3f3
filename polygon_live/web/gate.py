"""What a request to the pages can be, and in whose turn it is answered: an ASGI application around theirs."""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, Protocol

import attrs
import msgspec
import structlog
import trio

from polygon_live.web.guard import Refusal
from polygon_live.web.share import Turn

METHODS: Final = ("GET", "HEAD")

App = Callable[[Any, Any, Any], Awaitable[None]]
"""As ASGI has it. The scope of the pages also holds ``asked``: when, by Trio's clock; ``turn``: the turn to answer in;
and ``host``, which stands for nothing among the headers: Werkzeug would look at it, and fails at some that it can't
encode.
"""

log = structlog.get_logger()


class Client(Protocol):
    """Who asks: ``client`` in the scope's state."""

    turn: Turn
    """In which the request was read, and is answered. It is not had if the request came together with another."""
    asked: float
    """When, if it is had."""

    def stays(self) -> None:
        """Its answer has no end."""


class Gate:
    """``headers`` are for the answers that are given without asking ``app``."""

    def __init__(self, app: App, headers: Mapping[str, str]) -> None:
        self._app = app
        self._headers = headers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI, of HTTP alone."""
        client: Client = scope["state"]["client"]
        asked, turn, answer = client.asked, client.turn, _Answer(send, client)
        if not turn.had:
            asked = trio.current_time()
            await turn.take()
        try:
            if _has_body(scope):
                await self._refuse(answer, BODY if scope["method"] in METHODS else METHOD)
                return
            read = _Read(await receive(), receive)  # an answer before that would be the last on its connection
            if refusal := _unfit(scope):
                await self._refuse(answer, refusal)
            else:
                await self._app(_shown(scope, asked, turn), read.receive, answer.send)
        except Exception:
            log.exception("a page failed", page=scope["path"])
            if not answer.begun:
                await self._refuse(answer, Refusal(500, "it failed; the log says how"))
        finally:
            turn.give()

    async def _refuse(self, answer: "_Answer", refusal: Refusal) -> None:
        body = msgspec.json.format(msgspec.json.encode({"error": refusal.why}), indent=2) + b"\n"
        headers = {**self._headers, "Content-Type": "application/json", "Content-Length": str(len(body))}
        if refusal.status == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(METHODS)
        named = [(name.encode(), value.encode()) for name, value in headers.items()]
        await answer.send({"type": "http.response.start", "status": refusal.status, "headers": named})
        await answer.send({"type": "http.response.body", "body": body, "more_body": False})


METHOD: Final = Refusal(405, "the pages are read-only: they answer GET and HEAD")
BODY: Final = Refusal(413, "a request to the pages has no body")


def _has_body(scope: Any) -> bool:
    headers = dict(scope["headers"])
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers


def _unfit(scope: Any) -> Refusal | None:
    if scope["http_version"] not in {"1.0", "1.1"}:
        return Refusal(505, "HTTP/1.1 is spoken here")
    if scope["method"] not in METHODS:
        return METHOD
    if not scope["raw_path"].startswith(b"/"):
        return Refusal(400, "the path of a request begins with /")
    return None


def _shown(scope: Any, asked: float, turn: Turn) -> Mapping[str, Any]:
    """The scope as ``App`` says."""
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
    headers = [(name, b"-" if name == b"host" else value) for name, value in scope["headers"]]
    return {**scope, "headers": headers, "asked": asked, "turn": turn, "host": host}


@attrs.define
class _Read:
    """What was received, once more."""

    _first: Mapping[str, Any] | None
    _receive: Callable[[], Awaitable[Mapping[str, Any]]]

    async def receive(self) -> Mapping[str, Any]:
        first, self._first = self._first, None
        return first if first is not None else await self._receive()


@attrs.define
class _Answer:
    """What is made in a turn is sent outside of it."""

    _send: Callable[[Mapping[str, Any]], Awaitable[None]]
    _client: Client
    begun: bool = False
    _endless: bool = False

    async def send(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            self._endless = all(name.lower() != b"content-length" for name, _ in message["headers"])
            self._client.turn.give()
            await self._send(message)
            if self._endless:
                self._client.stays()
            return
        if self._endless:
            # All who follow wake at once: they go one after the other.
            await self._client.turn.take()
            self._client.turn.give()
        await self._send(message)
