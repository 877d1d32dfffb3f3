"""What a competent user writes in a day: websockets, json, asyncpg, nats-py and aiokafka; for each store a bounded
queue and a task that writes in one go whatever has gathered there.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import asyncpg
import nats
import websockets
from aiokafka import AIOKafkaProducer

INSERT = "INSERT INTO quotes (time, symbol, bid, ask, exchange) VALUES ($1, $2, $3, $4, $5)"
Ticks = list[tuple[dict[str, Any], bytes]]
"""And the JSON of each."""


async def write_all(queue: asyncio.Queue[Any], write: Callable[[Ticks], Awaitable[None]]) -> None:
    while True:
        batch = [await queue.get()]
        while not queue.empty() and len(batch) < 1000:
            batch.append(queue.get_nowait())
        await write(batch)
        for _ in batch:
            queue.task_done()


async def main() -> None:
    database = await asyncpg.connect(os.environ["DSN"])
    bus = await nats.connect(os.environ["NATS"])
    archive = AIOKafkaProducer(bootstrap_servers=os.environ["KAFKA"], acks="all", enable_idempotence=True)
    await archive.start()

    async def to_database(ticks: Ticks) -> None:
        rows = [
            (datetime.fromtimestamp(t["timestamp_ms"] / 1000, UTC), t["symbol"], t["bid"], t["ask"], t["exchange"])
            for t, _ in ticks
        ]
        await database.executemany(INSERT, rows)

    async def to_bus(ticks: Ticks) -> None:
        for tick, payload in ticks:
            await bus.publish(f"quotes.{tick['symbol']}", payload)
        await bus.flush()

    async def to_archive(ticks: Ticks) -> None:
        topic = os.environ["TOPIC"]
        sent = [await archive.send(topic, payload, key=tick["symbol"].encode()) for tick, payload in ticks]
        await asyncio.gather(*sent)

    queues: list[asyncio.Queue[Any]] = []
    tasks = []
    for write in (to_database, to_bus, to_archive):
        queues.append(asyncio.Queue(10_000))
        tasks.append(asyncio.create_task(write_all(queues[-1], write)))

    async with websockets.connect(f"ws://{os.environ['FEED']}/forex") as feed:
        await feed.send(json.dumps({"action": "auth", "params": "key"}))
        await feed.send(json.dumps({"action": "subscribe", "params": "C.*"}))
        async for frame in feed:
            for event in json.loads(frame):
                if event["ev"] != "C":
                    continue
                bid, ask = event["b"], event["a"]
                tick = {
                    "symbol": event["p"].replace("/", ""),
                    "bid": bid,
                    "ask": ask,
                    "mid": round((bid + ask) / 2, 9),
                    "spread": round(ask - bid, 9),
                    "timestamp_ms": event["t"],
                    "exchange": event["x"],
                }
                payload = json.dumps(tick).encode()
                for queue in queues:
                    await queue.put((tick, payload))

    await asyncio.gather(*(queue.join() for queue in queues))
    for task in tasks:
        task.cancel()
    await archive.stop()
    await bus.close()
    await database.close()


asyncio.run(main())
