"""A collector as a service manager keeps it: whenever it has ended, it is started again."""

import json
import signal
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import trio

from tests.collecting import Running, never_closing

RESTART_SECONDS: Final = 0.2


class Service:
    """In a market that never closes, until ``stop``."""

    def __init__(self, env: Mapping[str, str], log_path: Path) -> None:
        self._env = env
        self._log_path = log_path
        self._running: Running | None = None
        self._started = trio.Event()
        self._stopping = False
        self.ended = trio.Event()
        self.codes: Counter[int] = Counter()
        """How its processes ended."""

    async def run(self) -> None:
        """Until it was stopped and has ended."""
        while not self._stopping:
            async with never_closing(self._env, self._log_path) as running:
                self._running = running
                self._started.set()
                self.codes[await running.process.wait()] += 1
                self._running, self._started = None, trio.Event()
            if not self._stopping:
                await trio.sleep(RESTART_SECONDS)
        self.ended.set()

    async def process(self) -> Running:
        """The present one, or the next one."""
        await self._started.wait()
        assert self._running is not None
        return self._running

    async def kill(self) -> str:
        """SIGKILL; how far its start had come, as its log says."""
        running = await self.process()
        running.signal(signal.SIGKILL)
        stage = "streaming" if running.events("Connected to Polygon.io") else "connecting"
        stage = stage if running.events("collector started") else "starting"
        await running.process.wait()
        return stage

    async def hold(self, seconds: float) -> None:
        """SIGSTOP for so long, if it is not killed meanwhile."""
        running = await self.process()
        with suppress(ProcessLookupError):
            running.signal(signal.SIGSTOP)
            await trio.sleep(seconds)
            running.signal(signal.SIGCONT)

    async def stop(self) -> None:
        """In order."""
        self._stopping = True
        (await self.process()).signal(signal.SIGTERM)

    def told(self) -> list[dict[str, Any]]:
        """What all of them logged."""
        lines = self._log_path.read_text(errors="replace").splitlines()
        found = []
        for line in lines:
            with suppress(json.JSONDecodeError):  # what a killed one could not finish, and what is no line of the log
                found.append(json.loads(line))
        return found
