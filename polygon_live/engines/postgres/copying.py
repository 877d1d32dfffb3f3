"""Ticks into a table by binary COPY."""

from collections.abc import Sequence

from psycopg import sql

from polygon_live.engines.postgres.columns import ColumnWriter
from polygon_live.engines.postgres.connection import Connection
from polygon_live.errors import RowsRefused
from polygon_live.model import Tick


def copy_in(connection: Connection, copy: sql.Composed, columns: Sequence[ColumnWriter], ticks: Sequence[Tick]) -> int:
    """How many of these ticks the database says it took. ``copy`` names the same columns in the same order.

    Raises RowsRefused, psycopg.Error.
    """
    # The constant columns have no end: the others end the rows.
    rows = zip(*(column.values(ticks) for column in columns), strict=False)
    with connection.cursor() as cursor:
        try:
            with cursor.copy(copy) as copying:
                copying.set_types([column.wire for column in columns])
                write_row = copying.write_row
                for row in rows:
                    write_row(row)
        except (OverflowError, UnicodeError) as why:
            message = f"a value can't be sent: {why}"
            raise RowsRefused(message) from None
        return cursor.rowcount
