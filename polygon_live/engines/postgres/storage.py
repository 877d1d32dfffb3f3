"""What the ways of keeping three days of ticks have in common: native partitions, or a hypertable of TimescaleDB.

Which of them a table has is decided once for each connection, in ``schema``; everybody else has a ``Storage`` and asks
no further. Both cut the table into hours and drop an hour as a whole.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final, Protocol

import attrs
from psycopg import sql

from polygon_live.engines.postgres.connection import Connection

KEPT: Final = timedelta(hours=72)
"""Three days. What is older is not taken any more, and is dropped as soon as its whole partition is older."""
HOUR: Final = timedelta(hours=1)
SET_UP_LOCK: Final = int.from_bytes(b"polygonl", "big")
"""The advisory lock that whoever sets up or changes the table holds until the end of his transaction."""
DROP_LOCK_TIMEOUT: Final = "250ms"
"""Dropping an hour waits no longer for who is reading it, so that a copy is never held up longer behind the drop."""

About = Mapping[str, str | int | float | bool | None]


@attrs.frozen
class TableName:
    """A table that exists."""

    oid: int
    schema: str
    name: str

    @property
    def quoted(self) -> sql.Identifier:
        """For use in a statement."""
        return sql.Identifier(self.schema, self.name)

    def __str__(self) -> str:
        """For people."""
        return f"{self.schema}.{self.name}"


@attrs.frozen
class Piece:
    """A chunk or a partition, as it is on the disk."""

    name: str
    start: datetime | None
    """Its first instant; None: it has no beginning."""
    end: datetime | None
    """The first instant after it; None: it has no end."""
    bytes: int
    """With its indexes; compressed, if it is."""
    compressed: bool = False
    bytes_before: int | None = None
    """Before it was compressed, if that is known."""


@attrs.frozen
class Kept:
    """What there is after old ticks were dropped."""

    called: str
    """What the pieces of the table are: partitions, chunks."""
    dropped: tuple[str, ...]
    """Those that we dropped ourselves."""
    overdue: tuple[str, ...]
    """Those that should be gone and are not, because somebody is using the table."""
    count: int
    long: int
    """Those of more than an hour, made by others: they keep their first ticks for longer than three days."""
    oldest: datetime | None
    """Where the first one begins; None if there is none, or it has no beginning."""
    oldest_row: datetime | None
    """None if there are no rows."""
    bytes: int
    """Of all together."""
    about: About = attrs.field(factory=dict)
    """How it came to that, in the way's own terms."""
    note: str | None = None
    """What is out of the ordinary, though three days are kept."""
    wrong: str | None = None
    """Why three days are not kept, or can't be relied on, and what to do."""


@attrs.frozen
class Compression:
    """Of pieces, one by one."""

    after: timedelta
    """It is for those whose end is so long ago."""
    compress: Callable[[Connection, str], None]
    """The piece of this name, unless it is already. Raises psycopg.Error."""


class Storage(Protocol):
    """One way of keeping three days."""

    @property
    def called(self) -> str:
        """What the pieces are: partitions, chunks."""

    @property
    def table(self) -> TableName:
        """The table it keeps."""

    @property
    def edition(self) -> str:
        """Of the database, with what is relied on."""

    def about(self, connection: Connection) -> About:
        """What else there is to know of it."""

    def faults(self, connection: Connection) -> list[str]:
        """Why the table can't be kept in this way; empty if it can."""

    def cover(self, connection: Connection, first: datetime, last: datetime) -> None:
        """See to it that ticks of the hours from ``first``'s to ``last``'s have a place, now and at the next ones."""

    def expire(self, connection: Connection, edge: datetime) -> Kept:
        """See to it that nothing whose whole hour is before ``edge`` stays, then look what is there."""

    def pieces(self, connection: Connection) -> list[Piece]:
        """All of them, in the order of time."""

    def rows(self, connection: Connection) -> tuple[datetime | None, datetime | None]:
        """The time of the oldest row and of the newest; None: there are none."""

    def drop(self, connection: Connection, edge: datetime) -> tuple[str, ...]:
        """Drop the pieces whose whole range is before ``edge``; the names of those that are gone. The first one that
        somebody is using ends it.
        """

    def kept_longer(self, connection: Connection) -> str | None:
        """Why nothing may be dropped, and what to do; None: it may."""

    def settings(self, connection: Connection) -> About:
        """Whose business dropping and compressing are, and how that went the last time."""

    def compression(self, connection: Connection) -> Compression | None:
        """None: pieces can't be compressed."""
