"""The side table ``tick_rejects``: what was refused, with its reason and its evidence. Bounded, and best effort."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from polygon_live.config import Secret
from polygon_live.engines.postgres.connection import Connection, connected
from polygon_live.engines.postgres.schema import instant
from polygon_live.model import Reject, evidence

MOST: Final = 100_000
"""Rows kept, of all collectors together: a feed gone mad must not fill the disk with evidence."""
INSERT_SECONDS: Final = 10.0


async def insert_rejects(dsn: Secret, collector: str, rejects: Sequence[Reject]) -> None:
    """Add these, over a connection of its own: rejects must not hold up ticks.

    Raises StoreError if none of them could be added.
    """
    async with connected(dsn, f"polygon-live/{collector}/rejects") as session:
        await session.run(INSERT_SECONDS, "insert rejects", lambda connection: _insert(connection, collector, rejects))


def _insert(connection: Connection, collector: str, rejects: Sequence[Reject]) -> None:
    rows = [
        (
            instant(r.received_ms),
            r.stage,
            r.reason,
            evidence(r.detail),
            evidence(r.raw),
            None if r.symbol is None else evidence(r.symbol),
            r.seq,
            collector,
        )
        for r in rejects
    ]
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            "insert into tick_rejects (received_at, stage, reason, detail, raw, symbol, seq, collector) "
            "values (%s, %s, %s, %s, %s, %s, %s, %s)",
            rows,
        )
        cursor.execute("delete from tick_rejects where id <= (select max(id) from tick_rejects) - %s", [MOST])


def expire_rejects(connection: Connection, edge: datetime) -> None:
    """Forget those received before ``edge``."""
    connection.execute("delete from tick_rejects where received_at < %s", [edge])
