"""The disk that the table is on, where it can be seen from here.

PostgreSQL tells nobody how much space is left. But where its server runs on this machine, and lets us know in which
folder its files are (the role is a superuser's, or has been granted ``pg_read_all_settings``), the disk can be asked.
That it is the same machine is proven, not guessed from the address, which may be a forwarded port: the server's own
process is here, and the folder belongs to its owner, as PostgreSQL demands.
"""

from pathlib import Path
from typing import Final

from polygon_live.engines.postgres.connection import Connection
from polygon_live.engines.postgres.storage import TableName

_PROCESSES: Final = Path("/proc")


def folder_here(connection: Connection, table: TableName) -> Path | None:
    """The folder on this machine that the table's new rows go to; None: on another one, or it does not tell.

    In the worker thread. Raises psycopg.Error.
    """
    asked = """
        select pg_backend_pid(), coalesce(
            nullif(pg_tablespace_location(coalesce(nullif(c.reltablespace, 0), d.dattablespace)), ''),
            (select setting from pg_settings where name = 'data_directory'))
        from pg_class c, pg_database d where c.oid = %s and d.datname = current_database()"""
    for pid, told in connection.execute(asked, [table.oid]):
        return _seen_from_here(pid, told) if told else None
    return None


def _seen_from_here(pid: int, told: str) -> Path | None:
    """``told`` is the folder by the server process's own words. Some name it by ``/proc/self``, to have it short."""
    process = _PROCESSES / str(pid)
    try:
        folder = Path(told.replace(f"{_PROCESSES}/self/", f"{process}/")).resolve(strict=True)
        named = (process / "cmdline").read_bytes().startswith(b"postgres")
        return folder if named and folder.stat().st_uid == process.stat().st_uid else None
    except OSError:
        return None
