"""Steered from Central Hub: which configuration is in force, and that the collector runs by it.

::

     announcement ─► nudge ─► ConfigClient ─► judged ─► in force ─► apply: the pipeline, the feed, the rate
                              (asks by HTTP)     └────► refused as a whole: what was in force stays

HTTP is the only source. An announcement is only a reason to ask now: lost, doubled, reordered and forged ones do no
harm. Whoever started this run may have named its symbols; then the Hub's symbols are not for it, and all else is.
"""

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import structlog
import trio

from polygon_live.backoff import backoff
from polygon_live.config import HubAccess
from polygon_live.document import SYMBOLS, digest, document, flat
from polygon_live.errors import StoreError
from polygon_live.hub import ConfigClient
from polygon_live.inforce import NO_HUB, ConfigurationSnapshot
from polygon_live.operational import Operational
from polygon_live.plan import plan
from polygon_live.reading import read

SERVICE: Final = "polygon-live-collector"
"""Under this name the Hub keeps our configuration."""
ANNOUNCED_AT: Final = f"config.update.{SERVICE}"
"""The NATS subject on which the Hub says that there is a new one."""
FIRST_WAIT_SECONDS: Final = 1.0
MOST_WAIT_SECONDS: Final = 60.0
NOT_YET: Final = "not connected yet"

Apply = Callable[[Operational], Awaitable[None]]
Listen = Callable[[Callable[[], None]], Awaitable[None]]
"""Calls back when it has begun to listen and at each announcement. Raises StoreError when it no longer can."""

log = structlog.get_logger()


class Steering:
    """One run's configuration: ``begin`` first, then ``operational`` is what to start with, then ``run``.

    Without a Hub the defaults hold. ``copy`` is the file of the last good configuration; ``symbols``, if given, are
    those of this run, whatever the Hub says.
    """

    def __init__(
        self,
        hub: HubAccess,
        *,
        copy: Path,
        wall_ms: Callable[[], int],
        rng: random.Random,
        defaults: Operational | None = None,
        symbols: Sequence[str] | None = None,
    ) -> None:
        defaults = defaults or Operational()
        self._symbols = None if symbols is None else tuple(symbols)
        self._wall_ms = wall_ms
        self._rng = rng
        self._ignored: tuple[str, ...] = ()
        self._client: ConfigClient | None = None
        if hub.url is not None:
            self._client = ConfigClient(
                SERVICE,
                document(defaults),
                url=hub.url,
                api_key=hub.api_key,
                copy=copy,
                judge=self._judged,
                poll_seconds=hub.poll_seconds,
                now_ms=wall_ms,
            )
        self.operational = self._for_this_run(defaults)
        """What is in force."""
        self._generation = 1
        self._since_ms = wall_ms()
        self._unheard: str | None = None if self._client is None else NOT_YET

    async def begin(self) -> None:
        """Find out what is in force; a Hub that does not answer costs some seconds, and is no error."""
        if self._client is not None:
            await self._client.init_async()
            self.operational = self._taken(await self._client.get_config())
        self._since_ms = self._wall_ms()
        self._announce()

    async def run(self, apply: Apply, listen: Listen) -> None:
        """For ever: what the Hub says is carried out by ``apply``; ``listen`` hears it say that there is news."""
        if self._client is None:
            await trio.sleep_forever()
            return

        async def changed(config: Mapping[str, Any]) -> None:
            await self._change(self._taken(config), apply)

        self._client.on_config_update(changed)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._client.watch)
            nursery.start_soon(self._hear, listen, self._client)

    async def _hear(self, listen: Listen, client: ConfigClient) -> None:
        def heard() -> None:
            self._unheard = None
            client.nudge()

        waits = self._waits()
        while True:
            try:
                await listen(heard)
            except StoreError as why:
                if self._unheard is None:
                    waits = self._waits()
                    log.warning("the Hub's announcements can't be heard: changes are seen by asking", why=str(why))
                self._unheard = str(why)
            await trio.sleep(next(waits))

    def _waits(self) -> Any:
        return backoff(FIRST_WAIT_SECONDS, MOST_WAIT_SECONDS, self._rng)

    def _judged(self, merged: Mapping[str, Any]) -> Mapping[str, Any]:
        """Raises ConfigurationRefused."""
        reading = read(merged)
        taken = reading.taken()
        if reading.ignored and reading.ignored != self._ignored:
            log.warning("addresses and secrets do not come from Central Hub: ignored", names=reading.ignored)
        self._ignored = reading.ignored
        return document(taken)

    def _taken(self, config: Mapping[str, Any]) -> Operational:
        return self._for_this_run(read(config).taken())

    def _for_this_run(self, operational: Operational) -> Operational:
        return operational if self._symbols is None else attrs.evolve(operational, symbols=self._symbols)

    async def _change(self, new: Operational, apply: Apply) -> None:
        steps = plan(self.operational, new)
        if not (steps.subscribe or steps.unsubscribe or steps.changed):
            return
        self.operational = new
        self._generation += 1
        self._since_ms = self._wall_ms()
        if steps.going:
            log.warning("symbols go away", symbols=steps.going)
        await apply(new)
        self._announce(added=steps.subscribe, removed=steps.unsubscribe, changed=steps.changed)

    def _announce(self, **what: object) -> None:
        hub = NO_HUB if self._client is None else self._client.snapshot()
        log.info(
            "configuration in force",
            generation=self._generation,
            digest=digest(self.operational),
            source=hub.source,
            version=hub.version,
            updated_by=hub.updated_by,
            symbols=len(self.operational.symbols),
            **what,
        )

    def snapshot(self) -> ConfigurationSnapshot:
        """As of now."""
        hub = NO_HUB if self._client is None else self._client.snapshot()
        values = flat(document(self.operational))
        named = frozenset[str]() if self._client is None else self._client.named
        origins = {name: hub.source if name in named else NO_HUB.source for name in values}
        if self._symbols is not None:
            origins[SYMBOLS] = "caller"
        return ConfigurationSnapshot(
            generation=self._generation,
            digest=digest(self.operational),
            since_ms=self._since_ms,
            values=values,
            origins=origins,
            ignored=self._ignored if hub.source != NO_HUB.source else (),
            hub=hub,
            unheard=self._unheard,
        )
