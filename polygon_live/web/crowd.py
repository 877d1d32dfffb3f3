"""All who are connected, and who of them makes room.

When there are too many, or too much is left untaken, it is the one that the server has been waiting for longest:
whoever comes is heard, and who holds on to a connection loses it first.
"""

from typing import Final

import trio

MOST_CONNECTIONS: Final = 96
"""Besides those whose answers have no end: of them the application bounds the number."""
UNTAKEN_BYTES: Final = 32 * 2**20
"""Of all their answers together."""


class Crowd:
    """Each is known by the scope that it is served in, and let go by cancelling that."""

    def __init__(self) -> None:
        self._waiting: dict[trio.CancelScope, int] = {}
        """For whom the server waits: to take so many bytes of an answer, or to ask. The longest comes first."""
        self._owed: dict[trio.CancelScope, None] = {}
        """Who waits for the server: for its turn, or an answer to be made."""

    def comes(self, one: trio.CancelScope) -> None:
        """It is connected, and has not asked yet."""
        if len(self._waiting) + len(self._owed) >= MOST_CONNECTIONS:
            self._let_go(next(iter(self._waiting or self._owed)))
        self._waiting[one] = 0

    def asks(self, one: trio.CancelScope) -> None:
        """Something has come of it: now it waits for the server."""
        if self.forget(one):
            self._owed[one] = None

    def waits_for(self, one: trio.CancelScope, untaken: int = 0) -> None:
        """It is its turn to do something."""
        if self.forget(one):
            self._waiting[one] = untaken
            while sum(self._waiting.values()) > UNTAKEN_BYTES:
                self._let_go(next(other for other, bytes_ in self._waiting.items() if bytes_))

    def _let_go(self, one: trio.CancelScope) -> None:
        self.forget(one)
        one.cancel()

    def forget(self, one: trio.CancelScope) -> bool:
        """It is gone, or its answer has no end. Whether it was known: who was let go has only its end before it."""
        known = one in self._waiting or one in self._owed
        self._waiting.pop(one, None)
        self._owed.pop(one, None)
        return known
