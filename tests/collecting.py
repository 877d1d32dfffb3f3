"""The whole collector as its users run it: a process, configured by its environment, asked over HTTP."""

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import trio

from tests.waiting import PATIENCE_SECONDS, until

ROOT: Final = Path(__file__).parents[1]
KEY: Final = "test-key-8d1f"


class Running:
    """A collector process, its log lines and its status pages."""

    def __init__(self, process: trio.Process, log_path: Path, begins: int) -> None:
        self.process = process
        self._log_path = log_path
        self._begins = begins
        self._client: httpx.AsyncClient | None = None

    @property
    def said(self) -> str:
        """Everything on standard error so far."""
        return self._log_path.read_bytes()[self._begins :].decode()

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log lines with this event."""
        lines = [json.loads(line) for line in self.said.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    async def get(self, path: str) -> httpx.Response:
        """One of its pages."""
        if self._client is None:
            await until(lambda: self.events("collector started") or self.process.poll() is not None)
            assert self.process.poll() is None, self.said
            address = self.events("collector started")[0]["status"]
            self._client = httpx.AsyncClient(base_url=address, timeout=30, trust_env=False)
        return await self._client.get(path)

    async def state(self) -> dict[str, Any]:
        """/state."""
        return dict((await self.get("/state")).json())

    async def sink(self, name: str) -> dict[str, Any]:
        """One store's part of /state."""
        return next(s for s in (await self.state())["sinks"] if s["name"] == name)

    async def until_state(
        self, told: Callable[[dict[str, Any]], object], seconds: float = PATIENCE_SECONDS
    ) -> dict[str, Any]:
        """Ask for /state until it satisfies."""
        state: dict[str, Any] = {}
        with trio.move_on_after(seconds):
            while True:
                state = await self.state()
                if told(state):
                    return state
                await trio.sleep(0.05)
        raise AssertionError(
            f"it never came to that; the last state: {json.dumps(state, indent=1)}\n{self.said[-4000:]}"
        )

    async def until_delivered(self, count: int, *names: str) -> dict[str, Any]:
        """Wait until these stores (all, if none is named) have acknowledged so many ticks."""
        return await self.until_state(
            lambda state: all(s["delivered"] >= count for s in state["sinks"] if not names or s["name"] in names)
        )

    async def until_health(self, status: int, *words: str) -> dict[str, Any]:
        """Wait until /health answers with this code and these words among its reasons."""
        body: dict[str, Any] = {}
        with trio.move_on_after(PATIENCE_SECONDS):
            while True:
                answer = await self.get("/health")
                body = answer.json()
                if answer.status_code == status and all(w in "\n".join(body["reasons"]) for w in words):
                    return body
                await trio.sleep(0.05)
        raise AssertionError(f"/health never was {status} with {words}: {body}\n{self.said[-4000:]}")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Its exit code, when it has ended."""
        with trio.fail_after(PATIENCE_SECONDS):
            return await self.process.wait()

    async def close(self) -> None:
        """Let go of the HTTP connection."""
        if self._client is not None:
            await self._client.aclose()


def environment(base: Mapping[str, str], *, ws_url: str, dsn: str, nats_url: str, broker: str) -> dict[str, str]:
    """The settings of a collector on these servers, on any free port. The archive is nowhere: what a test misses is not
    asked for at Polygon's.
    """
    return {
        "POLYGON_LIVE_REST_URL": "http://127.0.0.1:1",
        **base,
        "POLYGON_API_KEY": KEY,
        "POLYGON_LIVE_WS_URLS": ws_url,
        "POLYGON_LIVE_TIMESCALE_DSN": dsn,
        "POLYGON_LIVE_NATS_URLS": nats_url,
        "POLYGON_LIVE_KAFKA_BROKERS": broker,
        "POLYGON_LIVE_HTTP_PORT": "0",
        "POLYGON_LIVE_LOG_FORMAT": "json",
        "POLYGON_LIVE_DATA_DIR": str(Path(base["HOME"]) / "data"),
    }


@asynccontextmanager
async def collector(
    env: Mapping[str, str], log_path: Path, *command: str, module: str = "polygon_live"
) -> AsyncIterator[Running]:
    """``polygon-live run``, or another command, in a process of its own; killed at the end of the block if it still
    runs.
    """
    with log_path.open("ab") as log:
        begins = log.tell()
        process = await trio.lowlevel.open_process(
            [sys.executable, "-W", "error::ResourceWarning", "-m", module, *(command or ("run",))],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=log_path.parent,
        )
    running = Running(process, log_path, begins)
    try:
        yield running
    finally:
        with trio.CancelScope(shield=True):
            await running.close()
            if process.poll() is None:
                process.kill()
                await process.wait()


def never_closing(env: Mapping[str, str], log_path: Path) -> AbstractAsyncContextManager[Running]:
    """``polygon-live run`` in a market that is always open, and with a feed that comes back soon."""
    return collector({**env, "PYTHONPATH": str(ROOT)}, log_path, module="tests.never_closing")
