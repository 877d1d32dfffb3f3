"""The two ways in which NATS takes a batch, and which of them holds on a connection."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import attrs
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import DiscardPolicy, RetentionPolicy, StreamConfig
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError, ServiceUnavailableError

SUBJECTS: Final = "ticks.>"
LEAST_WINDOW_SECONDS: Final = 120.0
"""Repeats come within seconds of a lost acknowledgement; two minutes is JetStream's own default."""
NOT_ENABLED: Final = frozenset({10039, 10076})
"""JetStream's error codes for: off for this account, off on this server."""


@attrs.frozen
class Message:
    """One tick on its way. ``key`` is what JetStream knows a repeat by."""

    subject: str
    payload: bytes
    key: str


class Mode(Protocol):
    """How a batch is handed over on one connection: chosen once, when it is made."""

    about: Mapping[str, str | int | float | bool | None]
    complaints: tuple[str, ...]

    async def publish(self, messages: Sequence[Message], seconds: float) -> None:
        """All of them, in order, and wait for the answer for at most so many seconds; of none, for a sign of life.

        Raises what nats-py raises.
        """


class Core:
    """No stream keeps the ticks: the server that we are connected to has parsed them all when it answers a ping."""

    def __init__(self, client: Client, *complaints: str) -> None:
        self._client = client
        self.about: Mapping[str, str | int | float | bool | None] = {"mode": "core"}
        self.complaints = complaints

    async def publish(self, messages: Sequence[Message], seconds: float) -> None:
        """One PONG answers for all."""
        publish = self._client.publish
        async with asyncio.timeout(seconds):
            for message in messages:
                await publish(message.subject, message.payload)
            await ping(self._client, seconds)


class JetStream:
    """A stream keeps them: every tick is acknowledged, and a repeat is recognised by its key.

    The library's ``publish_async`` is not used: a refusal (a full stream) never reaches its futures, and it takes
    twenty times as long.
    """

    def __init__(self, client: Client, stream: str, window_seconds: float) -> None:
        self._client = client
        self._inbox = client.new_inbox()
        self._missing = 0
        self._all_answered: asyncio.Future[None] = asyncio.Future()
        self.about: Mapping[str, str | int | float | bool | None] = {
            "mode": "jetstream",
            "stream": stream,
            "duplicate_window_seconds": window_seconds,
        }
        self.complaints: tuple[str, ...] = ()
        if window_seconds < LEAST_WINDOW_SECONDS:
            complaint = (
                f"stream {stream} recognises repeats for {window_seconds:g} s only, so ticks sent again after a fault "
                f"may be in it twice: nats stream edit {stream} --dupe-window=2m"
            )
            self.complaints = (complaint,)

    async def listen(self) -> None:
        """For acknowledgements."""
        await self._client.subscribe(self._inbox, cb=self._hear)

    async def publish(self, messages: Sequence[Message], seconds: float) -> None:
        """Each is acknowledged, or the first that is refused ends it. A batch that fails must be the connection's last:
        what still comes would be counted for the next.
        """
        if not messages:
            await ping(self._client, seconds)
            return
        self._missing = len(messages)
        answered = self._all_answered = asyncio.get_running_loop().create_future()
        publish = self._client.publish
        async with asyncio.timeout(seconds):
            for message in messages:
                headers = {"Nats-Msg-Id": message.key}
                await publish(message.subject, message.payload, reply=self._inbox, headers=headers)
            await answered

    async def _hear(self, answer: Msg) -> None:
        if self._all_answered.done():
            return
        if answer.headers and answer.headers.get("Status") == "503":
            self._all_answered.set_exception(NoStreamResponseError())
            return
        content = json.loads(answer.data)
        if "error" in content:
            error = content["error"]
            self._all_answered.set_exception(
                APIError(code=error["code"], description=error.get("description"), err_code=error.get("err_code"))
            )
            return
        self._missing -= 1
        if not self._missing:
            self._all_answered.set_result(None)


async def ping(client: Client, seconds: float) -> None:
    """Wait for a PONG that follows everything published before.

    The library's ``flush`` alone does not: it writes its PING past what it still holds back for its flusher task.
    """
    await client._flush_pending(force_flush=True)  # noqa: SLF001  # there is no public way
    await client.flush(timeout=seconds)  # type: ignore[arg-type]  # fractions are as good


async def mode_of(client: Client, seconds: float) -> Mode:
    """Whether a stream captures the ticks: asked on each new connection."""
    jetstream = client.jetstream(timeout=seconds)
    try:
        name = await jetstream.find_stream_name_by_subject(SUBJECTS)
        config = (await jetstream.stream_info(name)).config
    except NotFoundError:
        return Core(client)
    except ServiceUnavailableError as why:
        if why.err_code is not None and why.err_code not in NOT_ENABLED:
            raise
        return Core(client)
    if not {SUBJECTS, ">"}.intersection(config.subjects or ()):
        return Core(
            client,
            f"stream {name} keeps only {', '.join(config.subjects or ())}, so nothing is acknowledged by it: "
            f"nats stream edit {name} --subjects '{SUBJECTS}'",
        )
    mode = JetStream(client, name, float(config.duplicate_window or 0))
    await mode.listen()
    return mode


async def add_stream(client: Client, name: str) -> None:
    """A stream over all ticks, of a bounded size. Raises nats.errors.Error."""
    await client.jetstream().add_stream(
        StreamConfig(
            name=name,
            subjects=[SUBJECTS],
            retention=RetentionPolicy.LIMITS,
            discard=DiscardPolicy.OLD,
            max_age=3600,
            max_bytes=256 * 2**20,
            duplicate_window=LEAST_WINDOW_SECONDS,
        )
    )
