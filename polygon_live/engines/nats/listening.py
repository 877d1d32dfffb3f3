"""To hear that something was said on a subject, and nothing of what was said.

An announcement can be lost, doubled or forged, so it only says *look now*. Whoever may publish on the subject must not
be able to do more than that: no message is decoded, kept or counted, and a storm of them is one.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Any, Final, NoReturn

import anyio

from polygon_live.config import NatsAccess
from polygon_live.engines.nats.errors import translated
from polygon_live.engines.nats.link import SERVER_SECONDS, Connection, Link
from polygon_live.engines.nats.modes import ping
from polygon_live.errors import StoreMisconfigured, StoreUnavailable

CONNECT_SECONDS: Final = 10.0
CHECK_SECONDS: Final = 5.0
"""Without a message: ask for a sign of life. A server that hangs closes nothing."""


async def listen(access: NatsAccess, subject: str, heard: Callable[[], None], *, name: str) -> NoReturn:
    """Call ``heard`` once subscribed, and again whenever something was said since; over a connection for this alone.

    ``name`` is what the server's own lists show. Several messages may be one call, and none is missed while the
    connection lasts. Whatever ``heard`` raises ends it. Raises StoreUnavailable and StoreMisconfigured when no
    connection comes about, or when it ends; what was said meanwhile is not known, so ask before listening again.
    """
    ear = Ear(access, subject, name)
    try:
        await ear.connect()
        while True:
            heard()
            await ear.hears()
    finally:
        ear.close()


class Deaf(Connection):
    """Takes messages unread. The library decodes subject, reply subject and headers of each, and where one of them
    is no text it stops reading for good, without a word.
    """

    def __init__(self, said: asyncio.Event, *, only_tls: bool) -> None:
        super().__init__(only_tls=only_tls)
        self._said = said

    async def _process_msg(self, *_message: Any) -> None:
        self._said.set()


class Ear(Link[Connection]):
    """Subscribed to one subject, and woken by what is said there."""

    def __init__(self, access: NatsAccess, subject: str, name: str) -> None:
        super().__init__(access, name, connect_seconds=CONNECT_SECONDS)
        self._subject = subject
        self._said = asyncio.Event()

    async def hears(self) -> None:
        """Wait until something was said. Raises StoreUnavailable, StoreMisconfigured."""
        await self._run(self._wait, seconds=math.inf, doing="listening")

    # In the thread --------------------------------------------------------------------------------------------------

    def _made(self, *, only_tls: bool) -> Connection:
        return Deaf(self._said, only_tls=only_tls)

    async def _begin(self, client: Connection) -> None:
        await client.subscribe(self._subject)
        await ping(client, SERVER_SECONDS)
        self._check(client)

    def _check(self, client: Connection) -> None:
        """The server takes a subscription away with a word and leaves the connection open."""
        if client.refusals():
            raise StoreMisconfigured(
                f"NATS {self._where()} does not let this user listen: grant subscribe on {self._subject}"
            )

    async def _wait(self) -> None:
        client = self._client
        try:
            while not self._said.is_set():
                if client is None or not client.is_connected:
                    raise StoreUnavailable(f"the connection to NATS {self._where()} ended")  # noqa: TRY301
                self._check(client)
                with client.lasting():
                    with anyio.move_on_after(CHECK_SECONDS) as silence:
                        await self._said.wait()
                    if silence.cancelled_caught:
                        await ping(client, SERVER_SECONDS)
        except Exception as why:  # noqa: BLE001  # everything is translated
            raise translated(why, self._where()) from None
        self._said.clear()
