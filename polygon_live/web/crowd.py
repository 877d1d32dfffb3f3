"""All who are connected, and who of them makes room.

When there are too many it is one of the address that has the most of them, so whoever comes is heard, be the others as
busy as they like. Of that address, and of all if too much is left untaken, it is the one that the server has been
waiting for longest: who holds on to a connection loses it first.
"""

from collections import Counter
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
        self._addresses: dict[trio.CancelScope, str] = {}
        """Of all of these."""

    def comes(self, one: trio.CancelScope, address: str) -> None:
        """It is connected, and has not asked yet."""
        if len(self._addresses) >= MOST_CONNECTIONS:
            ((crowded, _),) = Counter(self._addresses.values()).most_common(1)
            known = (*self._waiting, *self._owed)
            self._let_go(next(other for other in known if self._addresses[other] == crowded))
        self._waiting[one] = 0
        self._addresses[one] = address

    def asks(self, one: trio.CancelScope) -> None:
        """Something has come of it: now it waits for the server."""
        if self._withdrawn(one):
            self._owed[one] = None

    def waits_for(self, one: trio.CancelScope, untaken: int = 0) -> None:
        """It is its turn to do something."""
        if self._withdrawn(one):
            self._waiting[one] = untaken
            while sum(self._waiting.values()) > UNTAKEN_BYTES:
                self._let_go(next(other for other, bytes_ in self._waiting.items() if bytes_))

    def _let_go(self, one: trio.CancelScope) -> None:
        self.forget(one)
        one.cancel()

    def forget(self, one: trio.CancelScope) -> None:
        """It is gone, or its answer has no end."""
        self._withdrawn(one)
        self._addresses.pop(one, None)

    def _withdrawn(self, one: trio.CancelScope) -> bool:
        """Whether it is known: who was let go has only its end before it."""
        self._waiting.pop(one, None)
        self._owed.pop(one, None)
        return one in self._addresses
