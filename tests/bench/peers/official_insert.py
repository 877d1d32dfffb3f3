"""The official client, and each quote inserted and committed as it comes: how its users' programs do it."""

import os
from datetime import UTC, datetime

import psycopg
from massive import WebSocketClient
from massive.websocket.models import Market, WebSocketMessage

client = WebSocketClient("key", feed=os.environ["FEED"], market=Market.Forex, secure=False, subscriptions=["C.*"])
connection = psycopg.connect(os.environ["DSN"])


def handle_msg(msgs: list[WebSocketMessage]) -> None:
    for m in msgs:
        time = datetime.fromtimestamp(m.timestamp / 1000, UTC)
        connection.execute(
            "INSERT INTO quotes (time, symbol, bid, ask, exchange) VALUES (%s, %s, %s, %s, %s)",
            (time, m.pair.replace("/", ""), m.bid_price, m.ask_price, m.exchange_id),
        )
        connection.commit()


client.run(handle_msg)
connection.close()
