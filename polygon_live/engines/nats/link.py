"""One connection to one of NATS' servers, and its thread: what all that speak to NATS have in common.

nats-py lives on asyncio. It gets an event loop in a thread of its own. That thread is a daemon and nobody waits for it:
a server that hangs must not hang the exit. An anyio portal would do too, but holds up the caller's loop at each call
until the other one has woken up.

The library's own reconnecting is off. It would send what it has buffered again by itself, mixed into whatever comes
next; here a connection that ends is an error, and who holds it decides what is done then.
"""

import abc
import asyncio
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from typing import Any, Final, Generic, TypeVar

import anyio
import trio
from nats import errors

from polygon_live.config import NatsAccess
from polygon_live.engines.nats.errors import NotAllowed, permission_refusals, translated
from polygon_live.engines.nats.security import CarefulClient, checked_creds, context_of
from polygon_live.engines.nats.servers import Server, Servers
from polygon_live.errors import StoreError, StoreMisconfigured, StoreUnavailable

SERVER_SECONDS: Final = 2.0
"""For each step of one server's greeting."""
CLOSE_SECONDS: Final = 1.0
REMEMBERED: Final = 100
"""Of what a server said out of turn: it may say the same to each message of a batch."""

T = TypeVar("T")
C = TypeVar("C", bound="Connection")


class Connection(CarefulClient):
    """Ends what is done on it when it ends itself: the library leaves those who wait for an answer waiting."""

    def __init__(self, *, only_tls: bool) -> None:
        super().__init__(only_tls=only_tls)
        self._scope = anyio.CancelScope()
        self.heard: deque[Exception] = deque(maxlen=REMEMBERED)
        """What the server said out of turn."""

    async def hear(self, why: Exception) -> None:
        """What the server refuses the user it says at once and out of turn, and then never answers."""
        self.heard.append(why)
        if permission_refusals([why]):
            self._scope.cancel()

    def refusals(self) -> list[Exception]:
        """Of rights, among what was heard."""
        return permission_refusals(self.heard)

    def lasting(self) -> anyio.CancelScope:
        """Around a piece of work, which is left when the connection has ended, or the server refuses it."""
        self._scope = anyio.CancelScope()
        return self._scope

    async def _close(self, status: int, do_cbs: bool = True) -> None:  # noqa: FBT001, FBT002  # the library's own
        self._scope.cancel()
        await super()._close(status, do_cbs)


class Link(abc.ABC, Generic[C]):
    """As a Trio task sees it; nothing waits longer than its limit. ``_made`` and ``_begin`` are what heirs add."""

    def __init__(self, access: NatsAccess, name: str, *, connect_seconds: float) -> None:
        """``name`` is what the server's own lists show."""
        self._access = access
        self._name = name
        self._connect_seconds = connect_seconds
        self._loop: _Loop | None = None
        self._servers = Servers(access.urls)
        self._server: Server | None = None
        """The one that we are connected to, or tried last."""
        self._client: C | None = None
        self._failed: StoreError | None = None
        """The reason that tells most, of those for which servers were given up since the last connection."""

    async def connect(self) -> None:
        """To any of the servers; what is left of an earlier connection is dropped. Raises StoreUnavailable,
        StoreMisconfigured.
        """
        try:
            await self._run(self._connect, seconds=self._connect_seconds, doing="connecting")
        except StoreUnavailable:
            if self._failed is not None:  # which tells more than that there was no time left for the other servers
                raise self._failed from None
            raise

    def close(self) -> None:
        """Drop the connection and let the thread end. Nobody waits for either."""
        if self._loop is not None:
            self._loop.end_after(self._drop)
            self._loop = None

    async def _run(self, work: Callable[..., Coroutine[Any, Any, T]], *args: Any, seconds: float, doing: str) -> T:
        loop = self._loop = self._loop or _loop_in_a_thread()
        token, done = trio.lowlevel.current_trio_token(), trio.Event()
        task: asyncio.Task[T] | None = None

        def begin() -> None:
            nonlocal task
            task = loop.create_task(work(*args))
            task.add_done_callback(tell)

        def tell(_: object) -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(done.set)

        def leave() -> None:
            if task is not None:
                task.cancel()

        loop.call_soon_threadsafe(begin, context=Context())  # ours says that we are under Trio
        try:
            with trio.fail_after(seconds):
                await done.wait()
        except trio.TooSlowError:
            raise StoreUnavailable(f"NATS {self._where()} did not answer within {seconds:g} s of {doing}") from None
        finally:
            if not done.is_set():
                with suppress(RuntimeError):  # its thread has ended
                    loop.call_soon_threadsafe(leave)
        if task is None or task.cancelled():
            raise StoreUnavailable(f"the connection to NATS {self._where()} was closed")
        return task.result()

    # In the thread --------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def _made(self, *, only_tls: bool) -> C:
        """A connection, to be opened."""

    async def _begin(self, client: C) -> None:  # heirs may have nothing to add
        """What has to be so on a new connection before it is one. Raises StoreError, and what nats-py raises."""

    async def _connect(self) -> None:
        await self._drop()
        self._failed = None
        for server in self._servers.in_turn():
            self._servers.failed(server)  # so it is taken until it has answered: there may be no time left to say so
            try:
                await self._connect_to(server)
            except StoreError as why:
                answers = self._client is not None and self._client.is_connected
                await self._drop()
                if self._failed is None or answers or isinstance(why, StoreMisconfigured):
                    self._failed = why
            else:
                self._failed = None
                return
        assert self._failed is not None  # noqa: S101  # the settings hold at least one address
        raise self._failed

    async def _connect_to(self, server: Server) -> None:
        self._server = server
        client = self._client = self._made(only_tls=server.encrypted or self._access.ca_file is not None)
        try:
            await client.connect(
                servers=[server.url.reveal()],
                name=self._name,
                error_cb=client.hear,
                allow_reconnect=False,
                max_reconnect_attempts=1,  # the library's least
                reconnect_time_wait=0,
                connect_timeout=SERVER_SECONDS,  # type: ignore[arg-type]  # fractions are as good
                user_credentials=checked_creds(self._access.creds_file),
                tls=context_of(self._access.ca_file),
                tls_hostname=server.certified,
            )
            await self._begin(client)
        except Exception as why:  # noqa: BLE001  # everything is translated
            # The library hides the reason behind "no servers available", but told it before.
            reason = client.heard[-1] if isinstance(why, errors.NoServersError) and client.heard else why
            raise translated(reason, server.address) from None
        self._servers.answered(server, client.discovered_servers)

    @asynccontextmanager
    async def _saying(self, client: C) -> AsyncIterator[None]:
        """Around what is said on it, which must end with the connection. A fault, and whatever the server says out of
        turn meanwhile, is its last. A right that was refused before goes on to be so.
        """
        heard, refused = client.heard, client.refusals()
        heard.clear()
        heard.extend(refused)
        failed: Exception | None = None
        try:
            yield
        except Exception as why:  # noqa: BLE001  # everything is translated
            failed = why
        refused = [] if isinstance(failed, NotAllowed) else client.refusals()
        reasons = [*refused, *([failed] if failed else heard)]
        if reasons or not client.is_connected:
            where = self._where()
            await self._drop()
            ended = StoreUnavailable(f"the connection to NATS {where} ended while a message was on its way")
            raise translated(reasons[0] if reasons else ended, where)

    async def _drop(self) -> None:
        """Let go without a goodbye: the library's would wait for a server that takes nothing any more."""
        client, self._client = self._client, None
        if client is None:
            return
        if self._server is not None:
            self._servers.failed(self._server)
        writer = getattr(client._transport, "_io_writer", None)  # noqa: SLF001  # it has no public way to do this
        if writer is not None:
            writer.transport.abort()
        with suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                await client.close()

    def _where(self) -> str:
        return self._server.address if self._server is not None else ", ".join(self._servers.addresses)


class _Loop(asyncio.SelectorEventLoop):
    """Looks up hosts in daemon threads. asyncio's own threads for that are waited for when the process ends, and a
    name server that does not answer takes longer than anybody waits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.last: asyncio.Future[Callable[[], Coroutine[Any, Any, None]]] = self.create_future()

    async def getaddrinfo(self, *what: Any, **how: Any) -> Any:
        found: Future[Any] = Future()

        def look_up() -> None:
            found.set_running_or_notify_cancel()
            try:
                found.set_result(socket.getaddrinfo(*what, **how))
            except Exception as why:  # noqa: BLE001  # raised where it is waited for
                found.set_exception(why)

        threading.Thread(target=look_up, name="nats look-up", daemon=True).start()
        return await asyncio.wrap_future(found, loop=self)

    def end_after(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do this in the loop's thread; then whatever else goes on there is cancelled, and the thread ends."""
        self.call_soon_threadsafe(self.last.set_result, last)


def _loop_in_a_thread() -> _Loop:
    """An asyncio loop in a daemon thread."""
    started: Future[_Loop] = Future()

    async def serve(loop: _Loop) -> None:
        started.set_result(loop)
        last = await loop.last
        await last()

    def run() -> None:
        loop = _Loop()
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve(loop))

    threading.Thread(target=run, name="nats", daemon=True).start()
    return started.result()
