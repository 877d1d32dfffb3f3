"""The connection over which ticks go out.

One hop into the connection's thread and back a batch. One connection is one generation: a PONG on it follows
everything that was published on it, and the pump decides what is sent again when it ends.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from nats import errors
from nats.aio.client import Client

from polygon_live.config import NatsAccess
from polygon_live.engines.nats.errors import translated
from polygon_live.engines.nats.link import SERVER_SECONDS, Link
from polygon_live.engines.nats.modes import JetStream, Knowledge, Mode, add_stream, mode_of
from polygon_live.engines.nats.servers import Server
from polygon_live.engines.nats.speaking import Message, Speaker
from polygon_live.errors import StoreMisconfigured, StoreUnavailable
from polygon_live.sink import StoreFacts

LEAST_PAYLOAD: Final = 4096
"""A tick is some 350 bytes; the servers' own default is 1 MiB."""
SET_UP_SECONDS: Final = 10.0
ASK_AGAIN_SECONDS: Final = 30.0
"""How old the knowledge of a stream may be: streams are made, changed and removed while we are connected."""


class NatsClient(Link[Speaker]):
    """Hands over batches of ticks, and knows what became of each."""

    def __init__(self, access: NatsAccess, name: str, *, connect_seconds: float, publish_seconds: float) -> None:
        super().__init__(access, name, connect_seconds=connect_seconds)
        self._publish_seconds = publish_seconds
        self._mode: Mode | None = None
        self._known = Knowledge()
        self._asked = 0.0
        """When, by the loop's clock, the mode was last looked at."""
        self.facts = StoreFacts()

    @property
    def keeps(self) -> bool:
        """Whether what is acknowledged on this connection is kept by a stream."""
        return self._mode is not None and self._mode.stream is not None

    async def publish(self, messages: Sequence[Message]) -> None:
        """All of them, in order; return when the server, or the stream, has them all. Raises StoreUnavailable,
        StoreMisconfigured.
        """
        at_once = self._mode.at_once if self._mode is not None else len(messages)
        for first in range(0, max(len(messages), 1), at_once or 1):
            part = messages[first : first + at_once]
            await self._run(self._publish, part, seconds=self._publish_seconds + SERVER_SECONDS, doing="publishing")

    async def add_stream(self, name: str) -> None:
        """Unless there is one that keeps the ticks. Raises StoreUnavailable, StoreMisconfigured."""
        await self._run(self._add_stream, name, seconds=SET_UP_SECONDS, doing="making a stream")

    # In the thread --------------------------------------------------------------------------------------------------

    def _made(self, *, only_tls: bool) -> Speaker:
        return Speaker(only_tls=only_tls)

    async def _begin(self, client: Speaker) -> None:
        mode = self._mode = await mode_of(client, SERVER_SECONDS, self._known)
        await mode.listen()
        if client.max_payload < LEAST_PAYLOAD:
            raise StoreMisconfigured(
                f"NATS {self._where()} takes messages of at most {client.max_payload} bytes: raise its max_payload"
            )

    async def _connect_to(self, server: Server) -> None:
        await super()._connect_to(server)
        assert self._client is not None  # noqa: S101  # the two that were just made
        assert self._mode is not None  # noqa: S101
        self._note(self._client, server, self._mode)

    async def _drop(self) -> None:
        self._mode = None
        await super()._drop()

    def _note(self, client: Client, server: Server, mode: Mode) -> None:
        """What is known now, for /state and for the next connection."""
        self._asked = asyncio.get_running_loop().time()
        self._known = Knowledge(asked=True, stream=mode.stream or self._known.stream)
        version = client.connected_server_version
        self.facts = StoreFacts(
            about={
                "server": server.address,
                "version": f"{version.major}.{version.minor}.{version.patch}",
                "servers_known": ", ".join(self._servers.addresses),
                **mode.about,
            },
            complaints=mode.complaints,
        )

    async def _look_again(self, client: Speaker, server: Server, before: Mode) -> Mode:
        """At the stream, and at the servers of the cluster. While nobody answers, what was found before holds, unless
        the server has taken away a subscription, which that may need.
        """
        deaf = bool(client.refusals())
        self._asked = asyncio.get_running_loop().time()
        try:
            mode = await mode_of(client, SERVER_SECONDS, self._known)
        except (StoreUnavailable, errors.Error, TimeoutError):
            if deaf:
                raise
            return before
        self._servers.answered(server, client.discovered_servers)
        if not deaf and (mode.about, mode.complaints) == (before.about, before.complaints):
            mode = before
        else:
            await mode.listen()
        self._mode = mode
        self._note(client, server, mode)
        return mode

    async def _publish(self, messages: Sequence[Message]) -> None:
        client, mode, server = self._client, self._mode, self._server
        if client is None or mode is None or server is None or not client.is_connected:
            raise StoreUnavailable(f"the connection to NATS {self._where()} is gone")
        async with self._saying(client):
            if client.refusals() or asyncio.get_running_loop().time() - self._asked > ASK_AGAIN_SECONDS:
                mode = await self._look_again(client, server, mode)
            await mode.publish(messages, self._publish_seconds)

    async def _add_stream(self, name: str) -> None:
        if self._client is None or isinstance(self._mode, JetStream):
            return
        try:
            await add_stream(self._client, name)
        except errors.Error as why:
            raise translated(why, self._where()) from None


async def create_stream(access: NatsAccess, name: str = "TICKS") -> None:
    """A stream over all ticks, of a bounded size, unless there is one. Raises StoreUnavailable, StoreMisconfigured."""
    client = NatsClient(access, "polygon-live/set-up", connect_seconds=SET_UP_SECONDS, publish_seconds=SET_UP_SECONDS)
    try:
        await client.connect()
        await client.add_stream(name)
    finally:
        client.close()
