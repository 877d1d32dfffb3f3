"""How the stand-in treats one connection. The default is Polygon on a good day."""

from typing import Literal

import attrs

Login = Literal["accept", "refuse", "no_plan", "time_out", "ignore"]
Acks = Literal["together", "singly", "reversed", "none"]


@attrs.frozen
class Script:
    """Decided when a client connects. Pairs are in slash form."""

    http_status: int | None = None
    """Refuse the WebSocket itself with this status."""
    ping_first: bool = False
    """Send a ping before the greeting."""
    pongs: bool = True
    """Answer pings."""
    greeting: str | None = "connected"
    """The greeting's status: ``connected`` was seen live, ``success`` is in the specification. None: never greets."""
    login: Login = "accept"
    """``refuse`` and ``no_plan`` are told apart by their message only; ``time_out`` says so as soon as it is asked;
    ``ignore`` never answers."""
    realtime: bool = True
    """False: the login succeeds, then the plan turns out to have no real-time data."""
    acks: Acks = "together"
    """How subscriptions are acknowledged."""
    unauthorized: frozenset[str] = frozenset()
    """Outside the plan: one ``error`` each, without a name, before the acknowledgements of the others."""
    unacknowledged: frozenset[str] = frozenset()
    """No answer for these, the first time or again, and no ticks."""
    mute: frozenset[str] = frozenset()
    """Acknowledged, and never a tick: what happens to an unknown ticker."""
    exchange_as_text: bool = False
    """``x`` as a string, as in the specification's example."""
    buffer_bytes: int = 4 * 2**20
    """So much may wait for a client that reads slowly; who lets more wait is a slow consumer."""
