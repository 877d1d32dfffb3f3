"""PostgreSQL: the only part of the collector that knows psycopg.

``connection`` owns the thread and the time limits, ``errors`` the table of SQLSTATEs, ``schema`` the set-up and the
adoption of a table that is there, ``storage`` how three days are kept: by native ``partitions``, or by a ``hypertable``
where the ``extension`` is TimescaleDB, with its ``policies``; ``columns`` and ``ticks`` the copy, ``rejects`` the side
table.
"""

from polygon_live.engines.postgres.connection import Session, connected
from polygon_live.engines.postgres.rejects import insert_rejects
from polygon_live.engines.postgres.schema import Layout, instant, set_up
from polygon_live.engines.postgres.storage import KEPT
from polygon_live.engines.postgres.ticks import TickTable
from polygon_live.engines.postgres.upkeep import Upkeep, keep_three_days

__all__ = [
    "KEPT",
    "Layout",
    "Session",
    "TickTable",
    "Upkeep",
    "connected",
    "insert_rejects",
    "instant",
    "keep_three_days",
    "set_up",
]
