"""The official client, and one statement and one transaction for what one frame carried: kinder to the database."""

import os
from datetime import UTC, datetime

import psycopg
from massive import WebSocketClient
from massive.websocket.models import Market, WebSocketMessage

client = WebSocketClient("key", feed=os.environ["FEED"], market=Market.Forex, secure=False, subscriptions=["C.*"])
connection = psycopg.connect(os.environ["DSN"])


def handle_msg(msgs: list[WebSocketMessage]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO quotes (time, symbol, bid, ask, exchange) VALUES (%s, %s, %s, %s, %s)",
            [
                (
                    datetime.fromtimestamp(m.timestamp / 1000, UTC),
                    m.pair.replace("/", ""),
                    m.bid_price,
                    m.ask_price,
                    m.exchange_id,
                )
                for m in msgs
            ],
        )
    connection.commit()


client.run(handle_msg)
connection.close()
