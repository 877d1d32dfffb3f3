"""The extension ``timescaledb``: whether it is in the database or can be added, and what this edition of it can do.

Two licences come as one program. The community edition has policies, which jobs in the background carry out, and
compression; the Apache edition (``timescaledb.license = apache``, and the packages that are built without the rest) has
hypertables and ``drop_chunks``. What the setting says is what the functions go by.
"""

from typing import Final

import attrs
import psycopg
from psycopg import sql

from polygon_live.engines.postgres.connection import Connection

OLDEST: Final = (2, 16)
"""From here on COPY finds doubles in compressed chunks, and without unpacking what is no double."""


@attrs.frozen
class Extension:
    """TimescaleDB, in this database."""

    version: str
    schema: str
    """Where its functions are: not always on the search path."""
    community: bool

    @property
    def edition(self) -> str:
        """For people."""
        return f"TimescaleDB {self.version}, {'community' if self.community else 'Apache'} edition"

    @property
    def too_old(self) -> bool:
        """Older than what this program was written for."""
        return tuple(int(part) for part in self.version.split(".")[:2]) < OLDEST

    def function(self, name: str) -> sql.Identifier:
        """One of its functions, for use in a statement."""
        return sql.Identifier(self.schema, name)


def installed(connection: Connection) -> Extension | None:
    """The one in this database."""
    asked = """
        select e.extversion, n.nspname, current_setting('timescaledb.license', true)
        from pg_extension e join pg_namespace n on n.oid = e.extnamespace
        where e.extname = 'timescaledb'"""
    row = connection.execute(asked).fetchone()
    return Extension(row[0], row[1], community=row[2] == "timescale") if row else None


def add(connection: Connection) -> str | None:
    """Add it to this database; why not, if that can't be done."""
    # Without its library preloaded, CREATE EXTENSION does not fail but ends the connection: asked first, by a setting
    # of the library's loader that everybody may read.
    asked = """
        select current_setting('timescaledb.max_background_workers', true)
        from pg_available_extensions where name = 'timescaledb'"""
    row = connection.execute(asked).fetchone()
    if row is None:
        return "not on this server"
    if row == (None,):
        return "on this server, but not loaded: add timescaledb to shared_preload_libraries, and restart it"
    try:
        with connection.transaction():
            connection.execute("create extension timescaledb")
    except psycopg.Error as why:
        if connection.broken:
            raise
        said = " ".join(str(why).split())
        return f"on this server, but it can't be added to this database, and now plain partitions are used: {said}"
    return None
