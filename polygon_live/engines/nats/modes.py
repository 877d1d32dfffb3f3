"""The two ways in which NATS takes a batch, and which of them holds on a connection."""

import asyncio
import json
import sys
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar

import attrs
from nats.aio.client import Client
from nats.errors import ConnectionClosedError
from nats.js.api import DiscardPolicy, RetentionPolicy, StreamConfig
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError, ServiceUnavailableError

from polygon_live.engines.nats.errors import SUBJECTS, NotAllowed, missing_rights
from polygon_live.engines.nats.speaking import Message, Speaker
from polygon_live.errors import StoreUnavailable

_NOBODY: Final = b"NATS/1.0 503"
"""No stream listens on the subject."""
_ERROR: Final = b'"error":'
"""Not in an acknowledgement, which has only names and numbers in it."""
LEAST_WINDOW_SECONDS: Final = 120.0
"""Repeats come within seconds of a lost acknowledgement; two minutes is JetStream's own default."""
NOT_ENABLED: Final = frozenset({10039, 10076})
"""JetStream's error codes for: off for this account, off on this server."""
AT_ONCE_IN_A_CLUSTER: Final = 250
"""Messages that share one time limit where they wait for each other: at 40 ms an answer, they take ten seconds."""

T = TypeVar("T")


class Mode(Protocol):
    """How a batch is handed over on one connection: chosen once, when it is made."""

    about: Mapping[str, str | int | float | bool | None]
    complaints: tuple[str, ...]
    stream: str | None
    """Which keeps the ticks."""
    at_once: int
    """How many messages at most are to be handed to one ``publish``."""

    async def listen(self) -> None:
        """Be ready to publish."""

    async def publish(self, messages: Sequence[Message], seconds: float) -> None:
        """All of them, in order, and wait for the answer for at most so many seconds; of none, for a sign of life.

        Raises what nats-py raises.
        """


class Core:
    """No stream keeps the ticks: the server that we are connected to has parsed them all when it answers a ping."""

    def __init__(self, client: Speaker, *complaints: str) -> None:
        self._client = client
        self.about: Mapping[str, str | int | float | bool | None] = {"mode": "core"}
        self.complaints = complaints
        self.stream: str | None = None
        self.at_once = sys.maxsize

    async def listen(self) -> None:
        """To nobody: a PONG is the library's own business."""

    async def publish(self, messages: Sequence[Message], seconds: float) -> None:
        """One PONG answers for all."""
        async with asyncio.timeout(seconds):
            await self._client.say(messages)


class JetStream:
    """A stream keeps them: every tick is acknowledged, and a repeat is recognised by its key.

    A stream that lives in a cluster can lose some messages and store those behind them: while its leader changes, or
    while two servers have lost each other for a moment. Sent again, the lost ones would stand behind their successors.
    So there a symbol's next tick leaves when the one before it is acknowledged; the symbols do not wait for each other.
    A server alone loses all that follows too, and gets everything at once.

    The library's ``publish_async`` is not used: a refusal (a full stream) never reaches its futures, and it takes
    twenty times as long. ``Nats-Expected-Last-Msg-Id`` would keep the order too, but with several messages on their way
    a change of leaders makes nats-server 2.15 hang.
    """

    def __init__(self, client: Speaker, stream: str, window_seconds: float, *, clustered: bool) -> None:
        self._client = client
        self._clustered = clustered
        self.stream: str | None = stream
        self.at_once = AT_ONCE_IN_A_CLUSTER if clustered else sys.maxsize
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
        self._client.inbox, self._client.acknowledged = self._inbox.encode(), self._hear
        await self._client.subscribe(self._inbox)

    async def publish(self, messages: Sequence[Message], seconds: float) -> None:
        """Each is acknowledged, or the first that is refused ends it. A batch that fails must be the connection's last:
        what still comes would be counted for the next.
        """
        if not messages:
            async with asyncio.timeout(seconds):
                await self._client.say(messages)
            return
        try:
            with self._client.lasting():
                async with asyncio.timeout(seconds):
                    for part in in_rounds(messages) if self._clustered else [messages]:
                        await self._publish_at_once(part)
        except TimeoutError:
            silent = f"stream {self.stream} did not acknowledge within {seconds:g} s"
            raise StoreUnavailable(f"{silent}: it hangs, or too few of the servers that keep it are up") from None

    async def _publish_at_once(self, messages: Sequence[Message]) -> None:
        self._missing = len(messages)
        answered = self._all_answered = asyncio.get_running_loop().create_future()
        await self._client.say_with_keys(messages)
        await answered

    def _hear(self, answer: bytes, headers: bytes | None) -> None:
        if self._all_answered.done():
            return
        if headers and headers.startswith(_NOBODY):
            self._all_answered.set_exception(NoStreamResponseError())
            return
        if _ERROR in answer:
            error = json.loads(answer)["error"]
            self._all_answered.set_exception(
                APIError(code=error["code"], description=error.get("description"), err_code=error.get("err_code"))
            )
            return
        self._missing -= 1
        if not self._missing:
            self._all_answered.set_result(None)


async def ping(client: Client, seconds: float) -> None:
    """Wait for a PONG that follows everything published before.

    The library's ``flush`` alone does not: it writes its PING past what it still holds back for its flusher task, and
    where its reading has come to an end by a fault, it takes that for an answer. Raises nats.errors.Error.
    """
    reading = client._reading_task  # noqa: SLF001  # there is no public way
    if reading is None or reading.done():
        raise ConnectionClosedError
    await client._flush_pending(force_flush=True)  # noqa: SLF001  # there is no public way
    await client.flush(timeout=seconds)  # type: ignore[arg-type]  # fractions are as good


def in_rounds(messages: Sequence[Message]) -> list[list[Message]]:
    """Each round with at most one message of a symbol, and the messages of a symbol in order over the rounds."""
    rounds: list[list[Message]] = []
    behind: dict[str, int] = {}
    for message in messages:
        number = behind[message.symbol] = behind.get(message.symbol, -1) + 1
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(message)
    return rounds


@attrs.frozen
class Knowledge:
    """What earlier answers said about a stream over the ticks."""

    asked: bool = False
    stream: str | None = None


async def mode_of(client: Speaker, seconds: float, known: Knowledge) -> Mode:
    """Whether a stream captures the ticks: asked on each new connection, and again while it lasts.

    No answer is not the answer "there is none": a stream that was there is waited for. Who may not ask is taken for a
    user of core alone, whose ticks flow, unless a stream was there. Raises StoreUnavailable, NotAllowed, and what
    nats-py raises.
    """
    if client.refusals():
        await client.ask_anew()
    jetstream = client.jetstream(timeout=seconds)
    kept = f", and stream {known.stream} kept the ticks" if known.stream else ""
    try:
        name = await _answer(client, jetstream.find_stream_name_by_subject(SUBJECTS), seconds)
    except _Refused as why:
        return _not_to_be_asked(client, known, why.refusals)
    except NotFoundError:
        return Core(client, *_gone(known))
    except ServiceUnavailableError as why:
        if why.err_code is not None and why.err_code not in NOT_ENABLED:
            return _unanswered(client, known, "JetStream has no leader: too few of its servers are up")
        if known.stream:
            raise StoreUnavailable(f"JetStream is not there any more{kept}") from None
        return Core(client)
    except TimeoutError:
        return _unanswered(client, known, "JetStream does not answer: too few of its servers may be up")
    return await _mode_with(client, name, seconds, known)


async def _mode_with(client: Speaker, name: str, seconds: float, known: Knowledge) -> Mode:
    """Whether this stream, which captures some of the ticks, does for all."""
    leaderless = StoreUnavailable(f"stream {name} has no leader: too few of the servers that keep it are up")
    try:
        info = await _answer(client, client.jetstream(timeout=seconds).stream_info(name), seconds)
    except _Refused as why:
        raise NotAllowed(f"ask about stream {name}, which captures the ticks", why.refusals) from None
    except NotFoundError:
        return Core(client, *_gone(known))
    except (TimeoutError, ServiceUnavailableError):
        raise leaderless from None
    if info.cluster is not None and not info.cluster.leader:
        raise leaderless
    config = info.config
    if not {SUBJECTS, ">"}.intersection(config.subjects or ()):
        return Core(
            client,
            f"stream {name} keeps only {', '.join(config.subjects or ())}, so nothing is acknowledged by it: "
            f"nats stream edit {name} --subjects '{SUBJECTS}'",
        )
    clustered = info.cluster is not None and bool(info.cluster.name)  # a server alone names a leader too: itself
    return JetStream(client, name, float(config.duplicate_window or 0), clustered=clustered)


class _Refused(Exception):
    """A question to JetStream, or the way back for its answer."""

    def __init__(self, refusals: list[Exception]) -> None:
        super().__init__()
        self.refusals = refusals


async def _answer(client: Speaker, question: Coroutine[Any, Any, T], seconds: float) -> T:
    """Raises _Refused as soon as the server says so, and keeps nothing of that in mind; and what nats-py raises."""
    client.heard.clear()
    with client.lasting():
        return await question
    if client.is_connected:
        with suppress(TimeoutError):
            await ping(client, seconds)  # one question may lack two rights
        if refusals := client.refusals():
            client.heard.clear()
            await client.ask_anew()
            raise _Refused(refusals)
    raise ConnectionClosedError


def _gone(known: Knowledge) -> list[str]:
    """A reason for /health until the stream is back."""
    if known.stream is None:
        return []
    gone = f"stream {known.stream}, which kept the ticks, is gone, and they are only handed to who listens"
    return [f"{gone}: make it again, or restart the collector if that is meant"]


def _not_to_be_asked(client: Speaker, known: Knowledge, refusals: Sequence[Exception]) -> Mode:
    """No ticks were kept as far as we know, and who listens gets his; else nothing is sent that may be lost."""
    if known.stream:
        raise NotAllowed(f"ask about stream {known.stream}, which kept the ticks, and hear the answer", refusals)
    unknown = "this user may not ask whether a stream keeps the ticks, so they are only handed to who listens"
    return Core(client, f"{unknown}: if one is to keep them, grant {missing_rights(refusals)}")


def _unanswered(client: Speaker, known: Knowledge, why: str) -> Mode:
    """Who listens gets his ticks where none were kept before; else nothing is sent that may be lost."""
    if known.asked and known.stream is None:
        return Core(client, f"{why}; whether a stream keeps the ticks by now is not known")
    unknown = "" if known.stream else ", and whether a stream keeps the ticks is not known"
    raise StoreUnavailable(f"{why}{unknown}")


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
