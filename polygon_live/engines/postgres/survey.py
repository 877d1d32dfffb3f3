"""The table as somebody on call looks at it, and what is due done by hand, beside whoever else is at work.

To look changes nothing, and the server sees to that: the connection can only read meanwhile. What is dropped by hand is
what the collector drops, no more: pieces whose whole range is three days old by this machine's clock and by the
database's. Where somebody has a policy that keeps longer, nothing is dropped by hand either.
"""

import contextlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import attrs
import psycopg

from polygon_live.engines.postgres.connection import Connection, whereabouts
from polygon_live.engines.postgres.disk import folder_here
from polygon_live.engines.postgres.schema import storage_of_ticks
from polygon_live.engines.postgres.storage import About, Piece, Storage
from polygon_live.engines.postgres.upkeep import edge_of
from polygon_live.errors import StoreMisconfigured


@attrs.frozen
class Survey:
    """What was found."""

    table: str
    edition: str
    whereabouts: About
    called: str
    """What the pieces are: chunks, partitions."""
    edge: datetime
    """Three days ago."""
    ahead: timedelta
    """How far the database's clock is ahead of ours."""
    pieces: tuple[Piece, ...]
    oldest_row: datetime | None
    newest_row: datetime | None
    due: tuple[str, ...]
    """The pieces that are past."""
    to_compress: tuple[str, ...]
    """Those that could be compressed by now, and are not."""
    kept_longer: str | None
    """Why nothing is dropped though it is past, and what to do."""
    settings: About
    """Of dropping and compressing, and how that went the last time."""
    folder: Path | None
    """Where the table's files are, if that is on this machine and can be known."""


def survey(connection: Connection, now: datetime) -> Survey:
    """Changes nothing. In the worker thread. Raises psycopg.Error, and StoreMisconfigured if there is no such table."""
    with _only_reading(connection):
        storage = _storage(connection)
        edge, theirs = edge_of(connection, now)
        pieces = tuple(storage.pieces(connection))
        oldest, newest = storage.rows(connection)
        due = tuple(piece.name for piece in pieces if piece.end and piece.end <= edge)
        compression = storage.compression(connection)
        grown = min(now, theirs) - compression.after if compression else None
        return Survey(
            table=str(storage.table),
            edition=storage.edition,
            whereabouts=whereabouts(connection),
            called=storage.called,
            edge=edge,
            ahead=theirs - now,
            pieces=pieces,
            oldest_row=oldest,
            newest_row=newest,
            due=due,
            to_compress=tuple(
                piece.name
                for piece in pieces
                if grown and piece.end and piece.end <= grown and not piece.compressed and piece.name not in due
            ),
            kept_longer=storage.kept_longer(connection),
            settings=storage.settings(connection),
            folder=folder_here(connection, storage.table),
        )


def drop_by_hand(connection: Connection, now: datetime) -> tuple[str, ...]:
    """The names of the pieces that were past and are gone; one that somebody is using, and what comes after it, stays.

    In the worker thread. Raises psycopg.Error, StoreMisconfigured.
    """
    storage = _storage(connection)
    if why := storage.kept_longer(connection):
        raise StoreMisconfigured(why)
    edge, _ = edge_of(connection, now)
    return storage.drop(connection, edge)


def compress_by_hand(connection: Connection, name: str) -> None:
    """The piece of this name. In the worker thread. Raises psycopg.Error, StoreMisconfigured."""
    compression = _storage(connection).compression(connection)
    if compression:
        compression.compress(connection, name)


def _storage(connection: Connection) -> Storage:
    storage = storage_of_ticks(connection)
    if storage is None:
        where = whereabouts(connection)
        message = f"there is no table market_ticks in the database {where['database']} at {where['address']}"
        raise StoreMisconfigured(f"{message}: polygon-live run makes it")
    if faults := storage.faults(connection):
        raise StoreMisconfigured("; ".join(faults))
    return storage


@contextlib.contextmanager
def _only_reading(connection: Connection) -> Iterator[None]:
    connection.execute("set default_transaction_read_only = on")
    try:
        yield
    finally:
        with contextlib.suppress(psycopg.OperationalError):  # then the connection is gone, and the setting with it
            connection.execute("set default_transaction_read_only = off")
