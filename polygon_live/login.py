"""One login on one connection, as the client sees it, without IO: what arrived goes in, what to send comes out.

::

    greeting ──connected|success──► login ──auth_success──► logged in
       │                              │                         │
       └──────── every status that ends a connection ───────────┴──► raises a FeedError

Each status means something else, and the wrong reaction to one of them makes a collector that dials once a second for
ever; see the table in the module's tests. Acknowledgements go to ``Subscriptions``, which counts them per symbol:
Polygon answers an unknown topic with silence and a topic outside the plan with an ``error`` that names no topic.
"""

from collections import deque
from enum import Enum
from typing import Final

from polygon_live import wire
from polygon_live.config import Secret
from polygon_live.errors import FeedDropped, FeedError, LoginRefused, TooManyConnections
from polygon_live.subscriptions import Subscriptions

SAID_LIMIT: Final = 500
"""Characters: what Polygon says is remembered, told and shown, and no frame has a limit."""


class Phase(Enum):
    """How far the login has come."""

    GREETING = "waiting for the greeting"
    LOGIN = "waiting for the answer to the login"
    LOGGED_IN = "logged in"


class Login:
    """Greets, authenticates, and goes on hearing what is said of the connection."""

    def __init__(self, key: Secret, subscriptions: Subscriptions) -> None:
        self._key = key
        self._subscriptions = subscriptions
        self.phase = Phase.GREETING
        self.refusals: deque[str] = deque(maxlen=20)
        self.told: deque[wire.Status] = deque(maxlen=20)
        """Refusals and what is not known, to be told: whoever does takes them out."""

    def hide(self, said: str) -> str:
        """Should Polygon ever repeat the key."""
        return said.replace(self._key.reveal(), "***")

    def hear(self, status: wire.Status) -> str | None:
        """Take in one status; the login to send in answer, if any. Raises the FeedError that ends the connection."""
        status = wire.Status(self.hide(status.status)[:SAID_LIMIT], self.hide(status.message)[:SAID_LIMIT])
        match status.status:
            case "connected" | "success" if self.phase is Phase.GREETING:
                self.phase = Phase.LOGIN
                return wire.authenticate(self._key.reveal())
            case "auth_success" if self.phase is Phase.LOGIN:
                self.phase = Phase.LOGGED_IN
            case "success":
                self._subscriptions.acknowledge(status.message)
            case "error" if "real-time" in status.message.casefold() or "real time" in status.message.casefold():
                msg = f"the key's plan has no real-time forex data; Polygon says: {status.message!r}"
                raise LoginRefused(msg, reason="no_plan")
            case "error":
                self.refusals.append(status.message)
                self.told.append(status)
            case "connected" | "auth_success":
                pass  # said twice; nothing follows from it
            case _:
                self._end(status)
        return None

    def said(self) -> str:
        """The last refusal, as the end of a sentence."""
        return f"; Polygon says: {self.refusals[-1]!r}" if self.refusals else ""

    def _end(self, status: wire.Status) -> None:
        error = ending(status)
        if error is not None:
            raise error
        self.told.append(status)


def ending(status: wire.Status) -> FeedError | None:
    """What a status that ends the connection means; None if it does not end it."""
    said = f"Polygon says: {status.message!r}"
    match status.status:
        case "auth_failed" if "plan" in status.message.casefold():
            return LoginRefused(f"the key's plan has no WebSocket access; {said}", reason="no_plan")
        case "auth_failed":
            return LoginRefused(f"Polygon refuses the key in POLYGON_API_KEY; {said}", reason="wrong_key")
        case "auth_timeout":
            return FeedDropped(f"the login did not reach Polygon in time; {said}", reason="auth_timeout")
        case "auth_required":
            return FeedDropped(f"Polygon does not take this connection as logged in; {said}", reason="auth_required")
        case "max_connections":
            return TooManyConnections(f"another instance holds the account's one connection; {said}")
        case "slow_consumer" | "force_disconnect":
            return FeedDropped(f"Polygon ends the connection ({status.status}); {said}", reason=status.status)
    return None
