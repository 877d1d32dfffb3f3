"""One run of the retention: partitions ahead, old ones gone, old rejects gone, and a look at what is there then."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import attrs

from polygon_live.engines.postgres.connection import Connection
from polygon_live.engines.postgres.disk import folder_here
from polygon_live.engines.postgres.rejects import expire_rejects
from polygon_live.engines.postgres.schema import set_up
from polygon_live.engines.postgres.storage import KEPT, Kept

AT_MOST: Final = timedelta(hours=74)
"""The oldest row, where no piece of the table is of more than an hour."""


@attrs.frozen
class Upkeep:
    """What a run found and did."""

    kept: Kept
    ahead: timedelta
    """How far the database's clock is ahead of ours."""
    folder: Path | None
    """Where the table's files are, if that is on this machine and can be known."""


def keep_three_days(connection: Connection, now: datetime) -> Upkeep:
    """Raises psycopg.Error, StoreMisconfigured."""
    layout = set_up(connection, now)
    edge, theirs = edge_of(connection, now)
    kept = judged(layout.storage.expire(connection, edge), edge)
    expire_rejects(connection, edge)
    return Upkeep(kept, ahead=theirs - now, folder=folder_here(connection, layout.table))


def edge_of(connection: Connection, now: datetime) -> tuple[datetime, datetime]:
    """What is older than this may go; and the database's clock.

    A clock that was set wrong must not cost three days of ticks: dropped is what is too old by our clock and by the
    database's.
    """
    row = connection.execute("select clock_timestamp()").fetchone()
    theirs: datetime = row[0] if row else now
    return min(now, theirs) - KEPT, theirs


def judged(kept: Kept, edge: datetime) -> Kept:
    """By its effect on the rows too, whatever the pieces' ranges say."""
    if kept.oldest_row is None or kept.oldest_row >= edge - (AT_MOST - KEPT) or kept.wrong or kept.overdue:
        return kept
    if kept.long:
        words = f"{kept.long} {kept.called} of more than an hour keep their first ticks for longer than three days"
        return attrs.evolve(kept, note=f"{kept.note}; {words}" if kept.note else words)
    wrong = (
        f"the oldest row is of {kept.oldest_row:%Y-%m-%d %H:%M} UTC, which is over {AT_MOST // timedelta(hours=1)} h "
        f"ago, though none of the {kept.called} is past: look at polygon-live retention"
    )
    return attrs.evolve(kept, wrong=wrong)
