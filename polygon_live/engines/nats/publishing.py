"""One message at a time, to whoever listens."""

from typing import Final

import trio

from polygon_live.config import NatsAccess
from polygon_live.engines.nats.link import SERVER_SECONDS, Connection, Link
from polygon_live.engines.nats.modes import ping

CONNECT_SECONDS: Final = 5.0


class Publisher(Link[Connection]):
    """Connects when there is something to say, and keeps the connection for the next time."""

    def __init__(self, access: NatsAccess, name: str) -> None:
        """``name`` is what the server's own lists show."""
        super().__init__(access, name, connect_seconds=CONNECT_SECONDS)
        self._one = trio.Lock()

    async def publish(self, subject: str, payload: bytes) -> None:
        """Return when the server has it, which is no word about who listens. Raises StoreUnavailable,
        StoreMisconfigured; the next one is then said on a new connection.
        """
        seconds = CONNECT_SECONDS + 2 * SERVER_SECONDS
        async with self._one:
            await self._run(self._publish, subject, payload, seconds=seconds, doing="publishing")

    def _made(self, *, only_tls: bool) -> Connection:
        return Connection(only_tls=only_tls)

    async def _publish(self, subject: str, payload: bytes) -> None:
        if self._client is None or not self._client.is_connected:
            await self._connect()
        client = self._client
        assert client is not None  # noqa: S101  # it was just made
        async with self._saying(client):
            with client.lasting():
                await client.publish(subject, payload)
                await ping(client, SERVER_SECONDS)
