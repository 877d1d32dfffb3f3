"""cryptofeed's backends for PostgreSQL and Kafka; it has none for NATS.

cryptofeed knows no feed of currencies and dials nothing but wss, so the feed is dialled here, with the options that it
uses itself, and each quote becomes its Ticker and goes to its callbacks as its own feeds do that.
"""

import asyncio
import os
import time
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import uvloop
from cryptofeed.backends.kafka import TickerKafka
from cryptofeed.backends.postgres import TickerPostgres
from cryptofeed.types import Ticker
from websockets.asyncio.client import connect
from yapic import json


class OneTopic(TickerKafka):  # type: ignore[misc]
    """Its way to say where records go."""

    def topic(self, data: dict[str, Any]) -> str:
        return os.environ["TOPIC"]


async def main() -> None:
    dsn = urlsplit(os.environ["DSN"])
    backends = (
        TickerPostgres(host=dsn.hostname, port=dsn.port, user=dsn.username, db=dsn.path[1:]),
        OneTopic(bootstrap_servers=os.environ["KAFKA"]),
    )
    for backend in backends:
        backend.start(asyncio.get_running_loop())
    address = f"ws://{os.environ['FEED']}/forex"
    async with connect(address, ping_interval=10, ping_timeout=None, max_size=None, max_queue=None) as feed:
        await feed.send(json.dumps({"action": "auth", "params": "key"}))
        await feed.send(json.dumps({"action": "subscribe", "params": "C.*"}))
        async for frame in feed:
            received = time.time()
            for event in json.loads(frame, parse_float=Decimal):
                if event["ev"] == "C":
                    symbol, at = event["p"].replace("/", "-"), event["t"] / 1000
                    quote = Ticker("POLYGON", symbol, Decimal(event["b"]), Decimal(event["a"]), at, raw=event)
                    for backend in backends:
                        await backend(quote, received)
    for backend in backends:
        await backend.queue.join()  # its own stop() drops what still waits
        await backend.stop()
        await backend.worker


uvloop.run(main())
