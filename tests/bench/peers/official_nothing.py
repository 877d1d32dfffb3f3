"""The official client as its README shows it, and nothing done with what comes."""

import os

from massive import WebSocketClient
from massive.websocket.models import Market, WebSocketMessage

client = WebSocketClient("key", feed=os.environ["FEED"], market=Market.Forex, secure=False, subscriptions=["C.*"])


def handle_msg(msgs: list[WebSocketMessage]) -> None:
    pass


client.run(handle_msg)
