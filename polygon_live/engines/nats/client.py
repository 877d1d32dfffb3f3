"""The connection to NATS and its thread.

nats-py lives on asyncio. It gets an event loop in a thread of its own (an anyio portal), and one hop there and back a
batch. That thread is a daemon and nobody waits for it: a server that hangs must not hang the exit.

The library's own reconnecting is off. It would send what it has buffered again by itself, mixed into whatever comes
next; here a connection that ends is an error, and the pump decides what is sent again. So one connection is one
generation: a PONG on it follows everything that was published on it.
"""

import asyncio
import random
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import anyio
import trio
from anyio.from_thread import BlockingPortal
from nats import errors
from nats.aio.client import Client

from polygon_live.config import NatsAccess, Secret
from polygon_live.engines.nats.errors import permission_refusals, translated
from polygon_live.engines.nats.modes import JetStream, Message, Mode, add_stream, mode_of
from polygon_live.errors import StoreError, StoreMisconfigured, StoreUnavailable
from polygon_live.sink import StoreFacts

SERVER_SECONDS: Final = 2.0
"""For each step of one server's greeting."""
LEAST_PAYLOAD: Final = 4096
"""A tick is some 350 bytes; the servers' own default is 1 MiB."""
CLOSE_SECONDS: Final = 1.0
SET_UP_SECONDS: Final = 10.0

T = TypeVar("T")


class NatsClient:
    """One connection to one of the servers, as a Trio task sees it. Nothing waits longer than its limit."""

    def __init__(self, access: NatsAccess, name: str, *, connect_seconds: float, publish_seconds: float) -> None:
        self._access = access
        self._name = name
        self._connect_seconds = connect_seconds
        self._publish_seconds = publish_seconds
        self._portal: BlockingPortal | None = None
        self._client: Client | None = None
        self._mode: Mode | None = None
        self._server = ""
        self._heard: list[Exception] = []
        """What the server said out of turn on this connection."""
        self.facts = StoreFacts()

    async def connect(self) -> None:
        """To any of the servers; what is left of an earlier connection is dropped. Raises StoreUnavailable,
        StoreMisconfigured.
        """
        await self._run(self._connect, seconds=self._connect_seconds, doing="connecting")

    async def publish(self, messages: Sequence[Message]) -> None:
        """All of them, in order; return when the server, or the stream, has them all. Raises StoreUnavailable,
        StoreMisconfigured.
        """
        await self._run(self._publish, messages, seconds=self._publish_seconds + SERVER_SECONDS, doing="publishing")

    async def add_stream(self, name: str) -> None:
        """Unless there is one that keeps the ticks. Raises StoreUnavailable, StoreMisconfigured."""
        await self._run(self._add_stream, name, seconds=SET_UP_SECONDS, doing="making a stream")

    def close(self) -> None:
        """Drop the connection and let the thread end. Nobody waits for either."""
        if self._portal is not None:
            self._portal.start_task_soon(self._leave, self._portal)
            self._portal = None

    async def _run(self, work: Callable[..., Awaitable[T]], *args: Any, seconds: float, doing: str) -> T:
        if self._portal is None:
            self._portal = _portal_in_a_thread()
        token, done = trio.lowlevel.current_trio_token(), trio.Event()

        def tell(_: object) -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(done.set)

        future = self._portal.start_task_soon(work, *args)
        future.add_done_callback(tell)
        try:
            with trio.fail_after(seconds):
                await done.wait()
            return future.result()
        except trio.TooSlowError:
            raise StoreUnavailable(f"NATS {self._where()} did not answer within {seconds:g} s of {doing}") from None
        finally:
            future.cancel()

    # In the thread --------------------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        await self._drop()
        failed: StoreError | None = None
        for url in random.sample(self._access.urls, len(self._access.urls)):
            try:
                await self._connect_to(url)
            except StoreError as why:
                await self._drop()
                if failed is None or isinstance(why, StoreMisconfigured):  # which tells more than a server that is away
                    failed = why
            else:
                return
        assert failed is not None  # noqa: S101  # the settings hold at least one address
        raise failed

    async def _connect_to(self, url: Secret) -> None:
        client = self._client = Client()
        self._server = address_of(url)
        heard = self._heard = []

        async def hear(why: Exception) -> None:
            heard.append(why)

        try:
            await client.connect(
                servers=[url.reveal()],
                name=self._name,
                error_cb=hear,
                allow_reconnect=False,
                max_reconnect_attempts=1,  # the library's least
                reconnect_time_wait=0,
                connect_timeout=SERVER_SECONDS,  # type: ignore[arg-type]  # fractions are as good
                user_credentials=str(self._access.creds_file) if self._access.creds_file else None,
            )
            mode = self._mode = await mode_of(client, self._connect_seconds)
        except Exception as why:  # noqa: BLE001  # everything is translated
            # The library hides the reason behind "no servers available", but told it before.
            reason = heard[-1] if isinstance(why, errors.NoServersError) and heard else why
            raise translated(reason, self._server) from None
        if client.max_payload < LEAST_PAYLOAD:
            raise StoreMisconfigured(
                f"NATS {self._server} takes messages of at most {client.max_payload} bytes: raise its max_payload"
            )
        version = client.connected_server_version
        self.facts = StoreFacts(
            about={
                "server": self._server,
                "version": f"{version.major}.{version.minor}.{version.patch}",
                "servers_known": len(client.servers) + len(client.discovered_servers),
                **mode.about,
            },
            complaints=mode.complaints,
        )

    async def _publish(self, messages: Sequence[Message]) -> None:
        client, mode = self._client, self._mode
        if client is None or mode is None or not client.is_connected:
            raise StoreUnavailable(f"the connection to NATS {self._where()} is gone")
        heard = self._heard
        heard.clear()
        failed: Exception | None = None
        try:
            await mode.publish(messages, self._publish_seconds)
        except Exception as why:  # noqa: BLE001  # everything is translated
            failed = why
        reasons = [*permission_refusals(heard), *([failed] if failed else heard)]
        if reasons or not client.is_connected:
            await self._drop()
            ended = StoreUnavailable(f"the connection to NATS {self._server} ended while a batch was on its way")
            raise translated(reasons[0] if reasons else ended, self._server)

    async def _add_stream(self, name: str) -> None:
        if self._client is None or isinstance(self._mode, JetStream):
            return
        try:
            await add_stream(self._client, name)
        except errors.Error as why:
            raise translated(why, self._server) from None

    async def _drop(self) -> None:
        """Let go without a goodbye: the library's would wait for a server that takes nothing any more."""
        client, self._client, self._mode = self._client, None, None
        if client is None:
            return
        writer = getattr(client._transport, "_io_writer", None)  # noqa: SLF001  # it has no public way to do this
        if writer is not None:
            writer.transport.abort()
        with suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                await client.close()

    async def _leave(self, portal: BlockingPortal) -> None:
        await self._drop()
        await portal.stop(cancel_remaining=True)

    def _where(self) -> str:
        return self._server or ", ".join(map(address_of, self._access.urls))


async def create_stream(access: NatsAccess, name: str = "TICKS") -> None:
    """A stream over all ticks, of a bounded size, unless there is one. Raises StoreUnavailable, StoreMisconfigured."""
    client = NatsClient(access, "polygon-live/set-up", connect_seconds=SET_UP_SECONDS, publish_seconds=SET_UP_SECONDS)
    try:
        await client.connect()
        await client.add_stream(name)
    finally:
        client.close()


class _Loop(asyncio.SelectorEventLoop):
    """Looks up hosts in daemon threads. asyncio's own threads for that are waited for when the process ends, and a
    name server that does not answer takes longer than anybody waits.
    """

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


def _portal_in_a_thread() -> BlockingPortal:
    """An asyncio loop in a daemon thread: anyio's ``start_blocking_portal`` joins its thread, and so could hang."""
    started: Future[BlockingPortal] = Future()

    async def serve() -> None:
        async with BlockingPortal() as portal:
            started.set_result(portal)
            await portal.sleep_until_stopped()

    run = partial(anyio.run, serve, backend_options={"loop_factory": _Loop})
    threading.Thread(target=run, name="nats", daemon=True).start()
    return started.result()


def address_of(url: Secret) -> str:
    """Without user, password or token."""
    text = url.reveal()
    parts = urlsplit(text if "://" in text else f"nats://{text}")
    return f"{parts.hostname}:{parts.port or 4222}"
