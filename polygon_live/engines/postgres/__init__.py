"""PostgreSQL: the only part of the collector that knows psycopg.

``connection`` owns the thread and the time limits, ``errors`` the table of SQLSTATEs, ``schema`` the set-up and the
adoption of a table that is there, ``storage`` how three days are kept: by native ``partitions``, or by a ``hypertable``
where the ``extension`` is TimescaleDB, with its ``policies`` and ``compression``; ``upkeep`` is a run of the
retention, ``survey`` the same by hand, ``disk`` the room for it all; ``columns`` and ``ticks`` the copy, ``unchanged``
whether it still fits, ``cursors`` how far it has come and whose it is, ``rejects`` and ``gaps`` the side tables,
``matching`` the question what the table has, ``counting`` how much of it, ``replay`` the way from the archive,
``looking`` what there is for who may change nothing.
"""

from polygon_live.engines.postgres.compression import COMPRESS_SECONDS
from polygon_live.engines.postgres.connection import Connection, Session, connected
from polygon_live.engines.postgres.counting import Counted, TableNumbers
from polygon_live.engines.postgres.cursors import Cursor, Mark, claim, look, watched
from polygon_live.engines.postgres.gaps import save_gaps
from polygon_live.engines.postgres.looking import BOUND, Looked, Pieces, Row, look_at, rows_after
from polygon_live.engines.postgres.matching import TableHolder
from polygon_live.engines.postgres.rejects import insert_rejects
from polygon_live.engines.postgres.replay import Put, ReplayTable
from polygon_live.engines.postgres.schema import Layout, instant, known_version, set_up
from polygon_live.engines.postgres.storage import KEPT, Piece
from polygon_live.engines.postgres.survey import Survey, compress_by_hand, drop_by_hand, survey
from polygon_live.engines.postgres.ticks import TickTable
from polygon_live.engines.postgres.upkeep import Upkeep, keep_three_days

__all__ = [
    "BOUND",
    "COMPRESS_SECONDS",
    "KEPT",
    "Connection",
    "Counted",
    "Cursor",
    "Layout",
    "Looked",
    "Mark",
    "Piece",
    "Pieces",
    "Put",
    "ReplayTable",
    "Row",
    "Session",
    "Survey",
    "TableHolder",
    "TableNumbers",
    "TickTable",
    "Upkeep",
    "claim",
    "compress_by_hand",
    "connected",
    "drop_by_hand",
    "insert_rejects",
    "instant",
    "keep_three_days",
    "known_version",
    "look",
    "look_at",
    "rows_after",
    "save_gaps",
    "set_up",
    "survey",
    "watched",
]
