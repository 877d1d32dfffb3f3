"""To hear what is said on some subjects: the messages themselves, for who looks on.

Nothing is asked of a stream and nothing acknowledged, so whoever listens here takes nothing from anybody.
"""

import asyncio
from collections import deque
from typing import Any, Final, NamedTuple

from polygon_live.config import NatsAccess
from polygon_live.engines.nats.link import Connection
from polygon_live.engines.nats.listening import Deaf, Ear

MOST_KEPT: Final = 100_000
"""Messages that nobody has taken yet; of more, the oldest go."""


class Heard(NamedTuple):
    """One message."""

    subject: str
    payload: bytes


class Subscriber(Ear):
    """``connect``, then ``heard`` again and again, then ``close``."""

    def __init__(self, access: NatsAccess, subjects: tuple[str, ...], name: str) -> None:
        """``name`` is what the server's own lists show."""
        super().__init__(access, subjects[0], name)
        self._others = subjects[1:]
        self._kept: deque[Heard] = deque(maxlen=MOST_KEPT)
        self._count = 0
        self.missed = 0
        """Messages that went because nobody took them in time."""

    async def heard(self) -> list[Heard]:
        """Wait for the next messages; all that came meanwhile, in order. Raises StoreUnavailable, StoreMisconfigured
        when the connection ends.
        """
        await self.hears()
        return await self._run(self._take, seconds=float("inf"), doing="listening")

    # In the thread --------------------------------------------------------------------------------------------------

    def _made(self, *, only_tls: bool) -> Connection:
        return _Attentive(self._keep, self._said, only_tls=only_tls)

    async def _begin(self, client: Connection) -> None:
        for subject in self._others:
            await client.subscribe(subject)
        await super()._begin(client)

    def _keep(self, message: Heard) -> None:
        self._count += 1
        self._kept.append(message)

    async def _take(self) -> list[Heard]:
        taken = list(self._kept)
        self.missed += self._count - len(taken)
        self._count = 0
        self._kept.clear()
        return taken


class _Attentive(Deaf):
    """Takes subject and payload as they came, and leaves headers and reply subjects undecoded, as ``Deaf`` does."""

    def __init__(self, keep: Any, said: asyncio.Event, *, only_tls: bool) -> None:
        super().__init__(said, only_tls=only_tls)
        self._keep = keep

    async def _process_msg(self, _sid: int, subject: bytes, _reply: bytes, data: bytes, *_headers: Any) -> None:
        self._keep(Heard(subject.decode("utf-8", "backslashreplace"), bytes(data)))
        self._said.set()
