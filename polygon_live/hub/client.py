"""``ConfigClient``: asks the Hub, and tells whoever wants to know when what is in force has changed.

Change is seen by content, never by version: the Hub does not count.
"""

import inspect
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Never, Self

import anyio
import anyio.abc
import anyio.lowlevel
import attrs
import httpx
import structlog

from polygon_live import values
from polygon_live.backoff import backoff
from polygon_live.config import Secret, settings_from
from polygon_live.errors import HubError
from polygon_live.hub.discovery import Registration, stay_registered
from polygon_live.hub.door import Door
from polygon_live.hub.lastgood import LastGood
from polygon_live.hub.merging import copied
from polygon_live.hub.standing import Judge, Standing, place_of
from polygon_live.inforce import HubSnapshot

TRIES: Final = 3
"""At the start; after them it goes on without the Hub."""
START_SECONDS: Final = 10.0
"""For all of them."""
COPY_START_SECONDS: Final = 2.0
"""The same where there is a last good copy: it is in force at once, and what the Hub says later is carried out."""
FIRST_WAIT_SECONDS: Final = 0.5
APART_SECONDS: Final = 0.1
"""Between two questions, however often somebody nudges."""

log = structlog.get_logger()

Callback = Callable[[dict[str, Any]], Awaitable[object] | object]


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _all_of_it(document: Mapping[str, Any]) -> Mapping[str, Any]:
    return document


class ConfigClient:
    """The configuration of one service, from Central Hub. Works under Trio and asyncio.

    ``url`` and ``api_key``, if not given, are those of ``POLYGON_LIVE_HUB_URL`` and ``POLYGON_LIVE_HUB_API_KEY`` (or
    ``…_FILE``); without a URL there is no Hub. ``copy`` is the file of the last good configuration, if not given
    ``hub/<service_name>.json`` in the data folder. ``judge`` gets the merged document and gives back what is to be in
    force and kept, or raises ConfigurationRefused; without it everything is taken. ``now_ms`` gives Unix milliseconds.

    Raises ConfigurationError for settings that can't be used, ValueError for a service name that can't be one, and
    whatever ``judge`` raises for the safe defaults.
    """

    def __init__(
        self,
        service_name: str,
        safe_defaults: Mapping[str, Any],
        *,
        url: str | None = None,
        api_key: str | Secret | None = None,
        copy: Path | None = None,
        judge: Judge | None = None,
        poll_seconds: float = 30.0,
        registration: Registration | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        now_ms: Callable[[], int] = _wall_ms,
    ) -> None:
        self._service = values.identifier(service_name)
        if url is None or api_key is None or copy is None:
            settings = settings_from(os.environ, needed=())
            url = url or settings.hub.url
            api_key = api_key or settings.hub.api_key
            copy = copy or settings.data_dir / "hub" / f"{service_name}.json"
        self._url = url
        self._door = Door(url, Secret(api_key) if isinstance(api_key, str) else api_key, transport) if url else None
        self._standing = Standing(safe_defaults, judge or _all_of_it, LastGood(copy, service_name), now_ms)
        self._poll_seconds = poll_seconds
        self._registration = registration
        self._now_ms = now_ms

        self._callbacks: list[Callback] = []
        self._told = self._standing.now.digest
        self._telling = False
        self._asking = anyio.Lock()
        self._nudged = anyio.Event()
        self._background: anyio.abc.TaskGroup | None = None
        self._watching: anyio.CancelScope | None = None
        """Of the task in the background, not of who opened it."""

        self._begun = False
        self._asked_at = -float("inf")
        """On the event loop's clock."""
        self._fetched_ms: int | None = None
        self._fetches = 0
        self._failures = 0
        self._error: str | None = None

    # For everybody --------------------------------------------------------------------------------------------------

    async def init_async(self) -> None:
        """Find out what is in force: a few tries, at most 10 s (2 s if there is a last good copy), then the last
        good copy, then the safe defaults.
        """
        async with self._asking:
            if self._begun:
                return
            if self._door:
                await self._standing.load()
                await self._ask_a_few_times()
            self._begun = True
        await self._tell()

    async def get_config(self, force_refresh: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002  # as the platform calls it
        """What is in force, as a copy. Asks the Hub if that was last done more than ``poll_seconds`` ago.

        A Hub that does not answer is no error: see ``snapshot``.
        """
        if not self._begun:
            await self.init_async()
        elif force_refresh or anyio.current_time() - self._asked_at > self._poll_seconds:
            await self._refresh()
        found: dict[str, Any] = copied(self._standing.now.document)
        return found

    def get_value(self, path: str, default: Any = None) -> Any:
        """What is in force at a dotted name, like ``operational.symbols``; ``default`` if there is nothing."""
        found: Any = self._standing.now.document
        for name in path.split("."):
            if not isinstance(found, dict) or name not in found:
                return default
            found = found[name]
        return copied(found)

    @property
    def named(self) -> frozenset[str]:
        """Dotted names that the source of what is in force has; all else in it is from the safe defaults."""
        return self._standing.now.named

    def on_config_update(self, callback: Callback) -> None:
        """Call it, be it sync or async, with what is in force whenever that has changed in content.

        One that fails is told in the log, and called again for the next change. While one runs, the Hub is not asked.
        """
        self._callbacks.append(callback)

    async def watch(self) -> Never:
        """Ask every ``poll_seconds`` and whenever nudged; sooner, with growing waits, while the Hub does not answer."""
        await self.init_async()
        async with anyio.create_task_group() as beside:
            if self._door and self._registration:
                beside.start_soon(stay_registered, self._door, self._service, self._registration, self._now_ms)
            await self._poll()
        raise AssertionError("polling ended by itself")

    def nudge(self) -> None:
        """Something may have changed: ask at once. Costs nothing, and does no harm if it is not so."""
        self._nudged.set()

    async def __aenter__(self) -> Self:
        """Begin, and ``watch`` in the background."""
        await self.init_async()
        self._background = anyio.create_task_group()
        await self._background.__aenter__()
        self._watching = anyio.CancelScope()
        self._background.start_soon(self._watch_until_closed, self._watching)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, why: BaseException | None, where: TracebackType | None
    ) -> None:
        """End watching. What went wrong inside goes out as it is, not in a group."""
        if self._background and self._watching:
            self._watching.cancel()
            await self._background.__aexit__(None, None, None)
            self._background = None

    async def aclose(self) -> None:
        """End watching in the background; what is in force stays to be asked for. May be called twice."""
        if self._watching:
            self._watching.cancel()
        await anyio.lowlevel.checkpoint()

    def snapshot(self) -> HubSnapshot:
        """As of now."""
        return HubSnapshot(
            url=self._url,
            source=self._standing.now.source,
            version=self._standing.now.version,
            updated_by=self._standing.now.updated_by,
            copied_ms=self._standing.now.copied_ms,
            fetched_ms=self._fetched_ms,
            fetches=self._fetches,
            failures=self._failures,
            last_error=self._error,
            refused=self._standing.refused,
            last_refusal=self._standing.refusal,
        )

    # Asking ---------------------------------------------------------------------------------------------------------

    async def _watch_until_closed(self, closed: anyio.CancelScope) -> None:
        with closed:
            await self.watch()

    async def _poll(self) -> Never:
        waits = self._waits()
        while True:
            if self._error is None:
                waits = self._waits()
            pause = self._poll_seconds if self._error is None else next(waits)
            await anyio.sleep(APART_SECONDS)
            with anyio.move_on_after(pause - APART_SECONDS):
                await self._nudged.wait()
            self._nudged = anyio.Event()  # before asking: what changes from now on nudges again
            await self._refresh()

    async def _ask_a_few_times(self) -> None:
        waits = self._waits()
        seconds = START_SECONDS if self._standing.now.copied_ms is None else COPY_START_SECONDS
        with anyio.move_on_after(seconds) as limit:
            for tried in range(1, TRIES + 1):
                if await self._ask():
                    return
                if tried < TRIES:
                    await anyio.sleep(next(waits))
        if limit.cancelled_caught and self._error is None:
            self._failures += 1
            self._error = f"{self._url}: no answer within {seconds:g} s"
        log.warning(
            "starting without Central Hub",
            source=self._standing.now.source,
            copied_seconds_ago=self._standing.now.copied_ms and (self._now_ms() - self._standing.now.copied_ms) // 1000,
        )

    def _waits(self) -> Iterator[float]:
        return backoff(FIRST_WAIT_SECONDS, self._poll_seconds, random.Random())

    async def _refresh(self) -> None:
        called = anyio.current_time()
        async with self._asking:
            if self._door and self._asked_at <= called:  # else somebody asked while this one waited
                await self._ask()
        await self._tell()

    async def _ask(self) -> bool:
        """Whether the Hub answered."""
        if self._door is None:
            return False
        self._asked_at = anyio.current_time()
        self._fetches += 1
        try:
            posted = await self._door.posted(self._service)
        except HubError as why:
            self._failures += 1
            if str(why) != self._error:
                log.warning("no configuration from Central Hub", why=str(why), in_force=self._standing.now.source)
            self._error = str(why)
            return False
        if self._error is not None:
            log.info("Central Hub answers again")
        self._error = None
        self._fetched_ms = self._now_ms()
        if posted is None:
            await self._standing.nothing_is_posted()
            return True
        if posted.updated_by is None and self._standing.is_new(posted):
            posted = attrs.evolve(posted, updated_by=await self._door.author(self._service, posted.digest))
        await self._standing.consider(posted, self._fetched_ms)
        return True

    async def _tell(self) -> None:
        """Call the callbacks until they know what is in force; whoever tells already goes on until it is so."""
        if self._telling:
            return
        self._telling = True
        try:
            while (now := self._standing.now).digest != self._told:
                for callback in tuple(self._callbacks):
                    await _call(callback, copied(now.document))
                self._told = now.digest
        finally:
            self._telling = False


async def _call(callback: Callback, document: dict[str, Any]) -> None:
    try:
        done = callback(document)
        if inspect.isawaitable(done):
            await done
    except Exception as why:  # noqa: BLE001  # theirs, not ours: the others are told all the same
        log.error("a callback for configuration changes failed", callback=repr(callback), why=place_of(why))  # noqa: TRY400
