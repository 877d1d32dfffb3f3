"""The stand-in's REST service: past quotes in pages, with everything that Polygon's can do wrong.

Built on h11 over any Trio stream, for the same reason as the WebSocket side is on wsproto: it must also be able to do
what no decent server does. One answer a connection.
"""

import base64
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit

import attrs
import h11
import msgspec
import trio

from polygon_live.errors import ConfigurationError
from polygon_live.standin.history import History, PastQuote

RECEIVE_BYTES: Final = 2**16
DEFAULT_LIMIT: Final = 1000
MOST: Final = 50_000
FAR_FUTURE_NS: Final = 2**63
_PATH: Final = "/v3/quotes/"


@attrs.frozen
class Asked:
    """One request, as it came."""

    at: float
    """Trio's clock."""
    target: str
    authorization: str

    @property
    def query(self) -> Mapping[str, str]:
        """The parameters, those of a cursor included."""
        found = {name: values[-1] for name, values in parse_qs(urlsplit(self.target).query).items()}
        if cursor := found.pop("cursor", None):
            inner = base64.urlsafe_b64decode(cursor).decode()
            found |= {name: values[-1] for name, values in parse_qs(inner).items()}
        return found


@attrs.frozen
class Answer:
    """What goes back. ``pause`` seconds pass before the body; ``cut``: half of it, and then the line goes dead."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
    pause: float = 0.0
    cut: bool = False


Fault = Callable[[Answer, Asked], Answer]
"""Makes of the right answer a wrong one."""


def _instead(status: int, body: Any = b"", *headers: tuple[str, str]) -> Fault:
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return lambda _right, _asked: Answer(status, data, headers)


def _changed(change: Callable[[dict[str, Any], Asked], None]) -> Fault:
    def fault(right: Answer, asked: Asked) -> Answer:
        content = msgspec.json.decode(right.body)
        change(content, asked)
        return attrs.evolve(right, body=msgspec.json.encode(content))

    return fault


def _absent(content: dict[str, Any], _asked: Asked) -> None:
    content.pop("results", None)
    content.pop("next_url", None)


def _foreign(content: dict[str, Any], _asked: Asked) -> None:
    content["next_url"] = "https://api.polygon.example/v3/quotes/C:EUR-USD?cursor=YWN0"


def _to_itself(content: dict[str, Any], asked: Asked) -> None:
    content["next_url"] = asked.target


def _endless(content: dict[str, Any], asked: Asked) -> None:
    content["next_url"] = f"{asked.target}&more={asked.at}"


def _bad_elements(content: dict[str, Any], _asked: Asked) -> None:
    content["results"][:0] = [42, {"ask_price": 1.1, "bid_price": "low", "participant_timestamp": 1}, {}]


def _not_asked_for(content: dict[str, Any], _asked: Asked) -> None:
    content["results"][:0] = [
        {"ask_exchange": 48, "ask_price": 1.2, "bid_exchange": 48, "bid_price": 1.1, "participant_timestamp": at}
        for at in (1_625_097_600_000, 1_625_097_600_000_000_000)
    ]


FAULTS: Final[Mapping[str, Fault]] = {
    "unknown-key": _instead(401, {"status": "ERROR", "request_id": "a47d1beb", "error": "Unknown API Key"}),
    "not-authorized": _instead(
        403, {"status": "NOT_AUTHORIZED", "message": "You are not entitled to this data. Please upgrade your plan"}
    ),
    "not-authorized-200": _instead(
        200, {"status": "NOT_AUTHORIZED", "message": "You are not entitled to this data. Please upgrade your plan"}
    ),
    "too-many": _instead(429),
    "too-many-retry-after": _instead(429, {"status": "ERROR", "error": "exceeded the maximum"}, ("Retry-After", "7")),
    "server-error": _instead(500, {"status": "ERROR", "error": "internal error"}),
    "bad-gateway": _instead(502, b"<html>502 Bad Gateway</html>", ("Content-Type", "text/html")),
    "unavailable": _instead(503, b"", ("Retry-After", "3")),
    "redirect": _instead(301, b"", ("Location", "https://api.polygon.example/")),
    "no-such-ticker": _instead(404, {"status": "NOT_FOUND", "message": "Ticker not found."}),
    "garbage": _instead(200, b"<html>maintenance</html>", ("Content-Type", "text/html")),
    "nan": lambda right, _: attrs.evolve(right, body=right.body.replace(b'"ask_price":', b'"ask_price":NaN,"was":', 1)),
    "slow": lambda right, _: attrs.evolve(right, pause=3600.0),
    "cut": lambda right, _: attrs.evolve(right, cut=True),
    "absent": _changed(_absent),
    "foreign-next": _changed(_foreign),
    "next-to-itself": _changed(_to_itself),
    "endless-next": _changed(_endless),
    "bad-elements": _changed(_bad_elements),
    "not-asked-for": _changed(_not_asked_for),
    "descending": _changed(lambda content, _asked: content["results"].reverse()),
}
"""By name, as it is said in tests and to ``simulate``."""


class RestStandIn:
    """The account's other door. ``faults`` are for the next requests, one each (None: a good answer); ``fault`` is for
    all after them.
    """

    def __init__(self, history: History, *, key: str, empty_as_list: bool = True, largest_page: int = MOST) -> None:
        self._history = history
        self._key = key
        self._empty_as_list = empty_as_list
        self._largest_page = largest_page
        self.faults: deque[Fault | None] = deque()
        self.fault: Fault | None = None
        self.asked: list[Asked] = []

    @asynccontextmanager
    async def listening(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
        """Serve on a socket; its address. Raises ConfigurationError if the port can't be had."""
        try:
            listeners = await trio.open_tcp_listeners(port, host=host)
        except OSError as why:
            raise ConfigurationError(
                f"the simulated REST service can't listen on {host}:{port} ({why.strerror}): name another port"
            ) from None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio.serve_listeners, self.converse, listeners))
            shown = f"[{host}]" if ":" in host else host
            yield f"http://{shown}:{listeners[0].socket.getsockname()[1]}"
            nursery.cancel_scope.cancel()

    async def converse(self, stream: trio.abc.Stream) -> None:
        """One connection."""
        http = h11.Connection(h11.SERVER)
        try:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
                request = await _request(http, stream)
                if request is not None:
                    await self._answer(http, stream, request)
        finally:
            await trio.aclose_forcefully(stream)

    async def _answer(self, http: h11.Connection, stream: trio.abc.Stream, request: h11.Request) -> None:
        headers = {name.decode(): value.decode() for name, value in request.headers}
        target = f"http://{headers.get('host', '')}{request.target.decode()}"
        asked = Asked(trio.current_time(), target, headers.get("authorization", ""))
        self.asked.append(asked)
        answer = self._right(asked)
        fault = self.faults.popleft() if self.faults else self.fault
        if fault is not None:
            answer = fault(answer, asked)
        length = ("Content-Length", str(len(answer.body)))
        head = h11.Response(status_code=answer.status, headers=[*answer.headers, length, ("Connection", "close")])
        await stream.send_all(http.send(head) or b"")
        await trio.sleep(answer.pause)
        sent = answer.body[: len(answer.body) // 2] if answer.cut else answer.body
        await stream.send_all(http.send(h11.Data(data=sent)) or b"")

    def _right(self, asked: Asked) -> Answer:
        if asked.authorization != f"Bearer {self._key}":
            return FAULTS["unknown-key"](Answer(200, b""), asked)
        parts = urlsplit(asked.target)
        pair = _pair(parts.path.removeprefix(_PATH)) if parts.path.startswith(_PATH) else None
        if pair is None:
            return _instead(404, {"status": "NOT_FOUND", "message": "Not found."})(Answer(200, b""), asked)
        return self._page(pair, asked.query, f"{parts.scheme}://{parts.netloc}{parts.path}")

    def _page(self, pair: str, query: Mapping[str, str], here: str) -> Answer:
        from_ns = max(int(query.get("timestamp.gte", 0)), int(query.get("timestamp.gt", -1)) + 1)
        until_ns = min(
            int(query.get("timestamp.lt", FAR_FUTURE_NS)), int(query.get("timestamp.lte", FAR_FUTURE_NS)) + 1
        )
        found = self._history.of(pair, from_ns, until_ns)
        if query.get("order", "desc") == "desc":
            found.reverse()
        limit = min(int(query.get("limit", DEFAULT_LIMIT)), MOST, self._largest_page)
        begins = int(query.get("offset", 0))
        page = found[begins : begins + limit]
        content: dict[str, str | list[PastQuote]] = {"status": "OK", "request_id": "a47d1beb"}
        if page or self._empty_as_list:
            content["results"] = page
        if begins + limit < len(found):
            cursor = urlencode({**query, "offset": begins + limit})
            content["next_url"] = f"{here}?cursor={base64.urlsafe_b64encode(cursor.encode()).decode()}"
        return Answer(200, msgspec.json.encode(content))


def _pair(ticker: str) -> str | None:
    """``EUR/USD`` from ``C:EUR-USD`` or ``C:EURUSD``."""
    name = ticker.replace("-", "")
    return f"{name[2:5]}/{name[5:]}" if name.startswith("C:") and len(name) == 8 else None


async def _request(http: h11.Connection, stream: trio.abc.Stream) -> h11.Request | None:
    found = None
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(bytes(await stream.receive_some(RECEIVE_BYTES)))
        elif isinstance(event, h11.Request):
            found = event
        elif isinstance(event, h11.EndOfMessage):
            return found
        elif isinstance(event, h11.ConnectionClosed):
            return None
