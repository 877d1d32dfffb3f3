"""The stand-ins' HTTP: one answer a connection, right or wrong, over any Trio stream.

Built on h11, for the same reason as the WebSocket side is on wsproto: it must also be able to do what no decent server
does.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, ClassVar, Final
from urllib.parse import parse_qs, urlsplit

import attrs
import h11
import msgspec
import trio

from polygon_live.errors import ConfigurationError

RECEIVE_BYTES: Final = 2**16
JSON: Final = (("Content-Type", "application/json"),)


@attrs.frozen
class Asked:
    """One request, as it came."""

    at: float
    """Trio's clock."""
    method: str
    target: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def authorization(self) -> str:
        """The header of that name, or nothing."""
        return self.headers.get("authorization", "")

    @property
    def path(self) -> str:
        """Of the target."""
        return urlsplit(self.target).path

    @property
    def query(self) -> Mapping[str, str]:
        """The parameters."""
        return {name: values[-1] for name, values in parse_qs(urlsplit(self.target).query).items()}


@attrs.frozen
class Answer:
    """What goes back. ``pause`` seconds pass before the body."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = JSON
    pause: float = 0.0
    cut: bool = False
    """Half of the body, and then the line goes dead."""
    gone: bool = False
    """Not a byte: the line goes dead at once."""
    told: bool = True
    """How long it is, in a header. Else it ends with the connection."""


Fault = Callable[[Answer, Asked], Answer]
"""Makes of the right answer a wrong one."""


def instead(status: int, body: Any = b"", *headers: tuple[str, str]) -> Fault:
    """Another answer in its place."""
    return lambda _right, _asked: saying(status, body, *headers)


def saying(status: int, body: Any = b"", *headers: tuple[str, str]) -> Answer:
    """An answer: bytes as they are, everything else as JSON."""
    return Answer(status, body if isinstance(body, bytes) else msgspec.json.encode(body), headers or JSON)


def changed(change: Callable[[dict[str, Any], Asked], None]) -> Fault:
    """The right answer, changed a little."""

    def fault(right: Answer, asked: Asked) -> Answer:
        content = msgspec.json.decode(right.body)
        change(content, asked)
        return attrs.evolve(right, body=msgspec.json.encode(content))

    return fault


class HttpStandIn(ABC):
    """A service. ``faults`` are for the next requests, one each (None: a good answer); ``fault`` is for all after
    them.
    """

    name: ClassVar[str]
    """What it is, for who can't start it."""

    def __init__(self) -> None:
        self.faults: deque[Fault | None] = deque()
        self.fault: Fault | None = None
        self.asked: list[Asked] = []

    @abstractmethod
    async def right(self, asked: Asked) -> Answer:
        """What a decent server would answer."""

    @asynccontextmanager
    async def listening(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
        """Serve on a socket; its address. Raises ConfigurationError if the port can't be had."""
        try:
            listeners = await trio.open_tcp_listeners(port, host=host)
        except OSError as why:
            raise ConfigurationError(
                f"the {self.name} can't listen on {host}:{port} ({why.strerror}): name another port"
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
                asked = await _request(http, stream)
                if asked is not None:
                    self.asked.append(asked)
                    await _send(http, stream, await self._answer(asked))
        finally:
            await trio.aclose_forcefully(stream)

    async def _answer(self, asked: Asked) -> Answer:
        answer = await self.right(asked)
        fault = self.faults.popleft() if self.faults else self.fault
        return answer if fault is None else fault(answer, asked)


async def _request(http: h11.Connection, stream: trio.abc.Stream) -> Asked | None:
    found, body = None, bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(bytes(await stream.receive_some(RECEIVE_BYTES)))
        elif isinstance(event, h11.Request):
            found = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage) and found is not None:
            headers = {name.decode(): value.decode() for name, value in found.headers}
            target = f"http://{headers.get('host', '')}{found.target.decode()}"
            return Asked(trio.current_time(), found.method.decode(), target, headers, bytes(body))
        elif isinstance(event, h11.ConnectionClosed):
            return None


async def _send(http: h11.Connection, stream: trio.abc.Stream, answer: Answer) -> None:
    if answer.gone:
        return
    length = [("Content-Length", str(len(answer.body)))] if answer.told else []
    head = h11.Response(status_code=answer.status, headers=[*answer.headers, *length, ("Connection", "close")])
    await stream.send_all(http.send(head) or b"")
    await trio.sleep(answer.pause)
    sent = answer.body[: len(answer.body) // 2] if answer.cut else answer.body
    await stream.send_all(http.send(h11.Data(data=sent)) or b"")
    if not answer.cut:
        await stream.send_all(http.send(h11.EndOfMessage()) or b"")
