"""A connection to PostgreSQL for Trio: psycopg's synchronous one, in a worker thread, to be dropped at any moment.

psycopg 3 knows asyncio, not Trio. So each operation is a plain function of a connection that runs in a thread, within
its own time limit. Whoever stops waiting, because of the limit or because he was cancelled, abandons the thread, and
the rules of this file see to it that the thread then ends by itself, whatever the server does:

- Only the thread that uses a connection closes it. Closing it from outside frees memory that libpq is using, and its
  descriptor's number may be taken by another socket that the thread would then wait for.
- From outside the socket is only shut down, through a descriptor of our own. The thread's wait ends at once, with an
  error.
- One thread at a time: the next operation waits (within its limit) until an abandoned thread is gone.
- After a connection is lost, its server process may still hold a transaction, which is in the way and may commit later,
  unseen. Whoever comes next, be it another process, ends it first: ``cursors`` remembers in the database whom to end.
"""

import contextlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from typing import Any, Final, TypeAlias, TypeVar

import attrs
import psycopg
import structlog
import trio
from psycopg.conninfo import conninfo_to_dict

from polygon_live.calling import InThread
from polygon_live.config import Secret
from polygon_live.engines.postgres.errors import VARIABLE, store_error
from polygon_live.errors import ConfigurationError, RowsRefused, StoreMisconfigured, StoreUnavailable

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]
T = TypeVar("T")

log = structlog.get_logger()

ADDRESS_SECONDS: Final = 5
"""For one address to answer: a packet and two repeats. The DSN may name several hosts, and a host several addresses."""
CONNECT_SECONDS: Final = 20.0
"""For all of them together."""
OLDEST_SERVER: Final = 140000
"""The oldest release that its makers maintained when this was written; 13 can't wait for a process that it ends."""

_CLIENT: Final[Mapping[str, str]] = {
    "connect_timeout": str(ADDRESS_SECONDS),
    # A host that vanished is noticed in about 11 s, idle or in the middle of a write.
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "11000",
}
_OURS: Final[Mapping[str, Any]] = {
    # What the DSN can't change, because this package counts on it.
    "client_encoding": "UTF8",
    "autocommit": True,
    "prepare_threshold": None,
}
_SERVER: Final[Mapping[str, str]] = {
    # The other way round: the server's process must not outlive us for long with a transaction open.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "statement_timeout": "25s",  # below every limit of ours, so that it is the server that gives up first, and says why
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "30s",
    # How instants are written and read.
    "TimeZone": "UTC",
    "DateStyle": "ISO",
}


@attrs.frozen
class Backend:
    """One server process, exactly: the number alone may be used again."""

    pid: int
    started: datetime


class Session:
    """At most one connection at a time. ``application`` is how the server's ``pg_stat_activity`` names us."""

    def __init__(self, dsn: Secret, application: str) -> None:
        """Raises ConfigurationError: the DSN can't be read."""
        _address(dsn)
        self._dsn = dsn
        self._application = application
        self._line = _Line()
        self._one_thread = InThread(StoreUnavailable)
        self.backend: Backend | None = None
        """The server's process of the connection. None where the server does not tell."""
        self.ended = 0
        """Server processes of lost connections that had to be ended."""

    async def connect(self) -> None:
        """Drop what is left of the last connection, and make a new one.

        Raises StoreUnavailable, StoreMisconfigured.
        """
        self.drop()
        address = _address(self._dsn)
        line = self._line = _Line()
        await self._in_thread(CONNECT_SECONDS, "connect", lambda: self._introduce(line, address))

    async def run(self, seconds: float, doing: str, work: Callable[[Connection], T]) -> T:
        """Call ``work`` with the connection, in the worker thread. ``doing`` completes "took more than 30 s to …".

        Raises StoreError. After RowsRefused the connection is good, after all others it is dropped.
        """
        line = self._line
        return await self._in_thread(seconds, doing, lambda: line.use(work))

    def drop(self) -> None:
        """Let go of the connection, now. Never waits, and may be called at any time."""
        self._line.drop()

    async def _in_thread(self, seconds: float, doing: str, work: Callable[[], T]) -> T:
        try:
            with trio.fail_after(seconds):
                return await self._one_thread(work)
        except RowsRefused:
            raise
        except trio.TooSlowError:
            self.drop()
            message = f"PostgreSQL took more than {seconds:g} s to {doing}: the connection is dropped and made again"
            raise StoreUnavailable(message) from None
        except BaseException:
            self.drop()
            raise

    def _introduce(self, line: "_Line", address: Mapping[str, Any]) -> None:
        line.connect({**_CLIENT, **address, **_OURS, "application_name": self._application})
        line.use(self._greet)

    def _greet(self, connection: Connection) -> None:
        settings = ", ".join("set_config(%s, %s, false)" for _ in _SERVER)
        connection.execute(f"select {settings}", [part for pair in _SERVER.items() for part in pair])
        version = connection.info.server_version
        if version < OLDEST_SERVER:
            message = f"PostgreSQL {version // 10000} is too old: version {OLDEST_SERVER // 10000} or newer is needed"
            raise StoreMisconfigured(message)
        standby = connection.execute("select pg_is_in_recovery()").fetchone()
        if standby == (True,):
            message = "this server is a standby, which takes no writes: waiting for it to be promoted"
            raise StoreUnavailable(f"{message}; name all hosts in {VARIABLE} and add target_session_attrs=read-write")
        self.backend = None
        mine = "select pid, backend_start from pg_stat_activity where pid = pg_backend_pid()"
        for pid, started in connection.execute(mine):
            self.backend = Backend(pid, started)

    def end(self, connection: Connection, left: Backend) -> None:
        """See that the server's process of a connection that nobody uses any more is gone, and with it its transaction.

        In the worker thread. Raises StoreUnavailable, psycopg.Error.
        """
        end = """
            select pg_terminate_backend(pid, 5000) from pg_stat_activity
            where pid = %s and backend_start = %s and pid <> pg_backend_pid()"""
        try:
            ended = connection.execute(end, [left.pid, left.started]).fetchone()
        except psycopg.errors.InsufficientPrivilege as why:
            # It was another role's. Its transaction can't commit ticks once the cursor is moved, and its own time
            # limits end it, before or after ours give up waiting for its locks.
            log.warning("what a lost connection left can't be ended", pid=left.pid, why=str(why))
            return
        if ended == (False,):
            message = f"the server process {left.pid} of a lost connection does not end: it may still commit"
            raise StoreUnavailable(message)
        self.ended += ended is not None


@contextlib.asynccontextmanager
async def connected(dsn: Secret, application: str) -> AsyncIterator[Session]:
    """A connection for one short piece of work. Raises StoreUnavailable, StoreMisconfigured, ConfigurationError."""
    session = Session(dsn, application)
    try:
        await session.connect()
        yield session
    finally:
        session.drop()


class _Line:
    """One connection, from being dialled to being closed. ``drop`` may be called from another thread at any moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._dropped = False
        self._busy = False
        self._connection: Connection | None = None
        self._socket: socket.socket | None = None

    def connect(self, parameters: Mapping[str, Any]) -> None:
        """In the worker thread, which psycopg's own time limit ends."""
        try:
            connection: Connection = psycopg.connect(**parameters)
        except psycopg.Error as why:
            raise store_error(why) from None
        except UnicodeError:
            message = f"the host in {VARIABLE} can't be a host's name: correct it"
            raise StoreMisconfigured(message) from None
        with self._lock:
            if not self._dropped:
                self._connection = connection
                self._socket = socket.socket(fileno=os.dup(connection.fileno()))
                return
        connection.close()

    def use(self, work: Callable[[Connection], T]) -> T:
        """In the worker thread."""
        with self._lock:
            if self._dropped or self._connection is None:
                message = "the connection to PostgreSQL is closed"
                raise StoreUnavailable(message)
            self._busy = True
        try:
            return work(self._connection)
        except psycopg.Error as why:
            raise store_error(why) from None
        finally:
            with self._lock:
                self._busy = False
                if self._dropped:
                    self._connection.close()

    def drop(self) -> None:
        """From anywhere, any number of times."""
        with self._lock:
            if self._dropped:
                return
            self._dropped = True
            if self._connection is None or self._socket is None:
                return
            if not self._busy:
                self._connection.close()  # says goodbye; libpq does not wait for room in the socket
            with self._socket, contextlib.suppress(OSError):  # the other side may be gone already
                self._socket.shutdown(socket.SHUT_RDWR)


def _address(dsn: Secret) -> Mapping[str, Any]:
    """The DSN's parts. What is wrong with it is said without any part of it: a misplaced character moves the password
    to where a host or a port is expected.
    """
    parts: Mapping[str, Any] | None = None
    with contextlib.suppress(psycopg.Error):
        parts = conninfo_to_dict(dsn.reveal())
    if parts is not None:
        ports = str(parts.get("port", "")).split(",")
        if "@" not in str(parts.get("host", "")) and all(port.isdecimal() for port in ports if port):
            return parts
    message = f"{VARIABLE} can't be read: write it like postgresql://user:password@host:5432/database, and in the "
    raise ConfigurationError(message + "password % as %25, @ as %40, : as %3A, / as %2F, ? as %3F, # as %23")


def whereabouts(connection: Connection) -> Mapping[str, str]:
    """Which server and database this is, without any secret."""
    info = connection.info
    version = info.parameter_status("server_version") or "unknown"
    return {"server": f"PostgreSQL {version}", "address": f"{info.host}:{info.port}", "database": info.dbname}
