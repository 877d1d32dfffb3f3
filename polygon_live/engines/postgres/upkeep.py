"""One run of the retention: partitions ahead, old ones gone, old rejects gone, and a look at what is there then."""

from datetime import datetime, timedelta

import attrs

from polygon_live.engines.postgres.connection import Connection
from polygon_live.engines.postgres.rejects import expire_rejects
from polygon_live.engines.postgres.schema import set_up
from polygon_live.engines.postgres.storage import KEPT, Kept


@attrs.frozen
class Upkeep:
    """What a run found and did."""

    kept: Kept
    ahead: timedelta
    """How far the database's clock is ahead of ours."""


def keep_three_days(connection: Connection, now: datetime) -> Upkeep:
    """Raises psycopg.Error, StoreMisconfigured.

    A clock that was set wrong must not cost three days of ticks: dropped is what is too old by our clock and by the
    database's.
    """
    layout = set_up(connection, now)
    row = connection.execute("select clock_timestamp()").fetchone()
    theirs: datetime = row[0] if row else now
    edge = min(now, theirs) - KEPT
    kept = layout.storage.expire(connection, edge)
    expire_rejects(connection, edge)
    return Upkeep(kept, ahead=theirs - now)
