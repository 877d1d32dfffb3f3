"""The way to Polygon, as far as the login, and then goodbye: nothing is subscribed to.

Polygon allows one connection an account, and evicts the older one: nobody dials while a collector lives. It lives if
its page answers, if its journal is held, or if it has just given a sign of life in the database, from wherever.
"""

from collections.abc import Sequence
from typing import Final

import attrs
import trio
from trio_websocket import ConnectionClosed

from polygon_live import wire
from polygon_live.check.items import Item, fails, holds, not_applicable, skipped
from polygon_live.config import Secret
from polygon_live.dial import UNREACHED, Dial, address_of, closed_error, dial_error, dial_websocket
from polygon_live.errors import FeedError, FeedSilent, LoginRefused, TooManyConnections
from polygon_live.login import Login, Phase
from polygon_live.subscriptions import Subscriptions
from polygon_live.websocket import WebSocket

LOGIN: Final = "Polygon takes the key"
LOGIN_SECONDS: Final = 15.0
MORE_SECONDS: Final = 1.0
"""After the login: a plan without real-time data is told then."""
ALIVE_SECONDS: Final = 60.0
"""A living collector gives the database a sign of life every ten."""


@attrs.frozen
class Dialled:
    """What came of it. ``refused``: Polygon itself said no."""

    item: Item
    refused: bool = False


async def login(
    urls: Sequence[str], key: Secret, alive: str | None, *, proven: bool, dial: Dial = dial_websocket
) -> Dialled:
    """At each address in turn until one answers. ``alive`` is why nobody may dial, in words; ``proven``: because a
    collector answers, whose own connection is another item.
    """
    if alive is not None and proven:
        why = f"not dialled: {alive}, and a second login would evict it; its own connection is the proof"
        return Dialled(not_applicable(LOGIN, why))
    if alive is not None:
        todo = "while a collector runs, its connection is the proof; dial when none does and the database answers"
        return Dialled(skipped(LOGIN, f"not dialled: {alive}, and a second login would evict it", todo))
    told = []
    for url in urls:
        try:
            await _log_in(url, key, dial)
        except (LoginRefused, TooManyConnections) as why:
            todo = "put a valid key into POLYGON_API_KEY, and see its plan in your account"
            if isinstance(why, TooManyConnections):
                todo = "find the other instance that uses this key, and stop it"
            return Dialled(fails(LOGIN, f"{address_of(url)}: {why}", todo, reason=why.reason), refused=True)
        except FeedError as why:
            told.append(str(why))
        else:
            return Dialled(holds(LOGIN, f"logged in at {address_of(url)}, and left"))
    todo = "check the network, the name server and POLYGON_LIVE_WS_URLS"
    return Dialled(fails(LOGIN, "; ".join(told), todo, reason="unreachable"))


async def _log_in(url: str, key: Secret, dial: Dial) -> None:
    """Raises FeedError."""
    conversation = Login(key, Subscriptions(()))
    try:
        async with dial(url) as ws:
            await _converse(ws, conversation, url)
    except FeedError:
        raise
    except ConnectionClosed as why:
        raise closed_error(why, conversation.hide) from None
    except (*UNREACHED, ExceptionGroup) as why:
        raise dial_error(url, why) from None


async def _converse(ws: WebSocket, login: Login, url: str) -> None:
    with trio.move_on_after(LOGIN_SECONDS) as limit:
        while login.phase is not Phase.LOGGED_IN:
            await _hear(ws, login)
    if limit.cancelled_caught:
        raise FeedSilent(f"{address_of(url)} let {LOGIN_SECONDS:g} s pass while {login.phase.value}{login.said()}")
    with trio.move_on_after(MORE_SECONDS):
        while True:
            await _hear(ws, login)


async def _hear(ws: WebSocket, login: Login) -> None:
    for status in wire.statuses(await ws.get_message()):
        if (answer := login.hear(status)) is not None:
            await ws.send_message(answer)
