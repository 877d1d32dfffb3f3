"""Debian's Chromium without a window, driven over its DevTools protocol."""

import base64
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from tests.waiting import PATIENCE_SECONDS

PROGRAMS: Final = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
MOST_BYTES: Final = 64 * 2**20


def program() -> str:
    """Where it is; the test is skipped if there is none, and fails where CI is set."""
    for name in PROGRAMS:
        if found := shutil.which(name):
            return found
    why = "there is no Chromium: apt install chromium-headless-shell"
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


class Tab:
    """One page, what it said on its console, and what went wrong in it."""

    def __init__(self, socket: WebSocketConnection, session: str) -> None:
        self._socket = socket
        self._session = session
        self._numbers = count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self._answered: dict[int, trio.Event] = {}
        self._loaded = trio.Event()
        self.complaints: list[str] = []
        """Errors and warnings, uncaught exceptions, what the content security policy refused, failed requests."""
        self.requests: list[str] = []

    async def listen(self) -> None:
        """Take what the browser says."""
        with suppress(ConnectionClosed):
            while True:
                told = json.loads(await self._socket.get_message())
                if told.get("id") in self._answered:
                    self._answers[told["id"]] = told
                    self._answered[told["id"]].set()
                elif told.get("sessionId") == self._session:
                    self._hear(told["method"], told["params"])

    def _hear(self, method: str, params: dict[str, Any]) -> None:
        match method:
            case "Runtime.consoleAPICalled" if params["type"] in {"error", "warning", "assert"}:
                self.complaints.append(str(params["args"]))
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(params["exceptionDetails"]))
            case "Log.entryAdded" if params["entry"]["level"] in {"error", "warning"}:
                self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Page.loadEventFired":
                self._loaded.set()
            case _:
                pass

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """One command, and its answer."""
        number = next(self._numbers)
        answered = self._answered[number] = trio.Event()
        request = {"id": number, "method": method, "params": params, "sessionId": self._session}
        await self._socket.send_message(json.dumps(request))
        with trio.fail_after(PATIENCE_SECONDS):
            await answered.wait()
        answer = self._answers.pop(number)
        del self._answered[number]
        assert "error" not in answer, (method, answer["error"])
        return dict(answer["result"])

    async def open(self, url: str) -> None:
        """Go there, and wait until it is loaded."""
        self._loaded = trio.Event()
        await self.ask("Page.navigate", url=url)
        with trio.fail_after(PATIENCE_SECONDS):
            await self._loaded.wait()

    async def run(self, script: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        answer = await self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, script: str) -> Any:
        """Evaluate until it is true."""
        value = None
        with trio.move_on_after(PATIENCE_SECONDS):
            while True:
                if value := await self.run(script):
                    return value
                await trio.sleep(0.05)
        shown = await self.run("document.body.innerText")
        raise AssertionError(f"it never was so: {script}\n{shown}\n{self.complaints}")

    async def text(self, selector: str) -> str:
        """What is to be read there."""
        return str(await self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    async def look(self, width: int, height: int, *, scheme: str = "light", mobile: bool = False) -> None:
        """As on such a screen."""
        await self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if mobile else 1,
            mobile=mobile,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.ask("Emulation.setEmulatedMedia", features=features)

    async def picture(self, path: Path, *, whole: bool = False) -> None:
        """As PNG: what is in sight, or the whole page."""
        answer = await self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        await trio.Path(path).write_bytes(base64.b64decode(answer["data"]))


@asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Tab]:
    """A Chromium of its own with one empty tab; gone at the end of the block."""
    command = [
        program(),
        "--headless",
        "--remote-debugging-port=0",
        f"--user-data-dir={folder}",
        "--no-sandbox",  # the tests may run as root, and all that is opened is our own page
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-dev-shm-usage",
        "about:blank",
    ]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stderr is not None
    try:
        async with process.stderr, trio.open_nursery() as nursery:
            address = await _address(process.stderr)
            nursery.start_soon(_drain, process.stderr)
            async with open_websocket_url(
                address, max_message_size=MOST_BYTES, message_queue_size=1000, disconnect_timeout=1
            ) as socket:
                tab = await _tab(socket)
                nursery.start_soon(tab.listen)
                for domain in ("Page", "Runtime", "Log", "Network"):
                    await tab.ask(f"{domain}.enable")
                yield tab
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _address(stderr: trio.abc.ReceiveStream) -> str:
    said = b""
    with trio.fail_after(PATIENCE_SECONDS):
        async for some in stderr:
            said += some
            for line in said.decode(errors="replace").splitlines(keepends=True):
                if line.startswith("DevTools listening on ") and line.endswith("\n"):
                    return line.removeprefix("DevTools listening on ").strip()
    raise AssertionError(f"Chromium did not start: {said.decode(errors='replace')}")


async def _drain(stderr: trio.abc.ReceiveStream) -> None:
    async for _some in stderr:
        pass


async def _tab(socket: WebSocketConnection) -> Tab:
    async def ask(number: int, method: str, **params: Any) -> dict[str, Any]:
        await socket.send_message(json.dumps({"id": number, "method": method, "params": params}))
        while (answer := json.loads(await socket.get_message())).get("id") != number:
            pass
        return dict(answer["result"])

    target = await ask(-1, "Target.createTarget", url="about:blank")
    attached = await ask(-2, "Target.attachToTarget", targetId=target["targetId"], flatten=True)
    return Tab(socket, attached["sessionId"])
