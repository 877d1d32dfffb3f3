"""A Hub on a real socket, in a thread of its own, and clients of it under either event loop."""

import inspect
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
import trio

from polygon_live.hub import ConfigClient, client, door
from polygon_live.standin import StandInHub

BACKENDS: Final = ("trio", "asyncio")
SERVICE: Final = "polygon-live-collector"
SAFE: Final = {
    "operational": {"symbols": ["EURUSD", "XAUUSD"], "websocket_reconnect_delay": 5, "rate_limit_per_second": 5}
}
KEY: Final = "hub-key-7d1c"


def having(**operational: Any) -> dict[str, Any]:
    """The safe defaults, with these values."""
    return {"operational": SAFE["operational"] | operational}


@contextmanager
def serving(hub: StandInHub, port: int = 0) -> Iterator[str]:
    """Its address; afterwards nobody listens there."""
    began: Future[tuple[str, trio.lowlevel.TrioToken]] = Future()
    ended = trio.Event()

    async def serve() -> None:
        async with hub.listening(port=port) as url:
            began.set_result((url, trio.lowlevel.current_trio_token()))
            await ended.wait()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    url, token = began.result(10)
    try:
        yield url
    finally:
        token.run_sync_soon(ended.set)
        thread.join()


class HubWorld:
    """The Hub, its line and what a client keeps."""

    def __init__(self, folder: Path) -> None:
        self.hub = StandInHub()
        self.copy = folder / "state" / "hub.json"
        self._line: Any = None
        self.url = ""

    def come(self) -> None:
        """Listen, where it did before."""
        self._line = serving(self.hub, int(self.url.rpartition(":")[2] or 0))
        self.url = self._line.__enter__()

    def go(self) -> None:
        """Nobody listens."""
        line, self._line = self._line, None
        if line:
            line.__exit__(None, None, None)

    def client(self, safe: Any = SAFE, **settings: Any) -> ConfigClient:
        """It asks only when it is made to, unless another ``poll_seconds`` is given."""
        chosen: dict[str, Any] = {"url": self.url, "api_key": KEY, "copy": self.copy, "poll_seconds": 3600.0}
        return ConfigClient(SERVICE, safe, **chosen | settings)

    def post(self, config: Any, **said: str) -> None:
        self.hub.post(SERVICE, config, **said)


class Told:
    """A callback that remembers, and can be waited for."""

    def __init__(self) -> None:
        self.documents: list[dict[str, Any]] = []
        self._more = anyio.Event()

    def __call__(self, document: dict[str, Any]) -> None:
        self.documents.append(document)
        self._more.set()

    async def times(self, count: int) -> dict[str, Any]:
        """The newest, once there were so many."""
        while len(self.documents) < count:
            self._more = anyio.Event()
            await self._more.wait()
        return self.documents[-1]


def on_both(story: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test of ``story(world, …)`` under Trio and under asyncio; its other arguments are pytest's to give."""
    asked = [p for name, p in inspect.signature(story).parameters.items() if name != "world"]

    def test(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **others: Any) -> None:
        monkeypatch.setattr(client, "FIRST_WAIT_SECONDS", 0.01)
        monkeypatch.setattr(client, "APART_SECONDS", 0.01)
        monkeypatch.setattr(door, "ANSWER_SECONDS", 2.0)
        had = {"tmp_path": tmp_path, "monkeypatch": monkeypatch, **others}
        world = HubWorld(tmp_path)
        world.come()
        try:
            anyio.run(partial(story, world, **{p.name: had[p.name] for p in asked}), backend=backend)
        finally:
            world.go()

    ours = [p for p in inspect.signature(test).parameters.values() if p.kind is not p.VAR_KEYWORD]
    every = {p.name: p.replace(kind=p.KEYWORD_ONLY) for p in (*ours, *asked)}
    test.__signature__ = inspect.Signature(list(every.values()))  # type: ignore[attr-defined]
    test.__name__ = test.__qualname__ = story.__name__
    test.__module__ = story.__module__
    both = pytest.mark.parametrize("backend", BACKENDS)
    test.pytestmark = [both.mark, *getattr(story, "pytestmark", [])]  # type: ignore[attr-defined]
    return test
