"""Whether the columns of the table still have the types that the connection found.

Binary COPY sends what was right for the types found when the connection was made. The server takes it for what they
are now, and where the width is the same it stores something else without a word. So whoever moves the cursor is told
the types by the same statement, and nothing is written if they are others: the next connection judges the table anew.

The types come with the description of the result, not from pg_attribute: so they are those by which the server will
read the COPY, at every level of isolation, and those below a domain.
"""

from collections.abc import Mapping

import attrs
from psycopg import sql
from psycopg.pq.abc import PGresult

from polygon_live.engines.postgres.adoption import FoundColumn
from polygon_live.engines.postgres.storage import TableName
from polygon_live.errors import StoreUnavailable


@attrs.frozen
class Unchanged:
    """The columns that are written, as they were found, by name."""

    table: TableName
    columns: Mapping[str, FoundColumn]

    def seen(self, statement: str) -> bytes:
        """The statement, which returns nothing by itself, with a row of the table's columns as its result."""
        return sql.SQL("{} returning (null::{}).*").format(sql.SQL(statement), self.table.quoted).as_bytes(None)

    def held(self, statement: str) -> bytes:
        """The same, and nobody can change them until the transaction ends.

        A query that nothing refers to is never planned, but its table is locked, before the types are looked up.
        """
        lock = sql.SQL("with held as (select from only {}) ").format(self.table.quoted)
        return lock.as_bytes(None) + self.seen(statement)

    def verify(self, result: PGresult | None) -> None:
        """Of one of these statements. Raises StoreUnavailable if a column was changed."""
        types = {result.fname(n): (result.ftype(n), result.fmod(n)) for n in range(result.nfields)} if result else {}
        changed = [
            f"{name} (was {column.spelled})"
            for name, column in self.columns.items()
            if types.get(name.encode()) != (column.oid, column.modifier)
        ]
        if changed:
            message = f"columns of {self.table} were changed under the open connection: {', '.join(changed)}"
            raise StoreUnavailable(f"{message}; nothing was written, and the next connection judges the table anew")
