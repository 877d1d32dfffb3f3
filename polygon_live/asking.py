"""Asking the collector that runs, over HTTP, at the address and with the token that the settings name."""

from collections.abc import Mapping
from typing import Any, Final

import httpx
import msgspec
import trio

from polygon_live.config import PREFIX, HttpServer
from polygon_live.errors import CollectorAway, CollectorError
from polygon_live.model import UNREADABLE
from polygon_live.status import State

ANSWER_SECONDS: Final = 10.0
"""For a whole answer. The pages are made at once."""
ANSWER_BYTES: Final = 64 * 2**20
"""/state of two thousand symbols has one MiB."""
_ANY_HOST: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  # who listens on all is there
_HOST: Final = PREFIX + "HTTP_HOST"
_PORT: Final = PREFIX + "HTTP_PORT"
_TOKEN: Final = PREFIX + "HTTP_TOKEN"


def address_of(server: HttpServer) -> str:
    """Where a collector with these settings is asked, as a URL. Raises CollectorError if they don't tell its port."""
    if server.port == 0:
        raise CollectorError(
            f"{_PORT} is 0, so the collector took a free port: set it to the one that its log names "
            f"('collector started')"
        )
    host = _ANY_HOST.get(server.host, server.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{server.port}"


async def ask(server: HttpServer, page: str, having: str) -> dict[str, Any]:
    """The JSON object that a page answers with, like ``/state``. A 503 of ``/health`` is an answer too.

    ``having`` is a key by which a collector's answer is known from that of another program.
    Raises CollectorAway if nobody listens there; CollectorError if somebody does who gives no such answer in time.
    """
    base = address_of(server)
    # As bytes: httpx would take nothing but ASCII.
    headers = {b"Authorization": f"Bearer {server.token.reveal()}".encode()} if server.token else {}
    try:
        with trio.fail_after(ANSWER_SECONDS):
            async with (
                httpx.AsyncClient(base_url=base, headers=headers, timeout=ANSWER_SECONDS, trust_env=False) as client,
                client.stream("GET", page) as response,
            ):
                body = await _body(response, base)
    except (trio.TooSlowError, httpx.TimeoutException):
        raise CollectorError(f"{base} is open, but gave no answer within {ANSWER_SECONDS:g} s") from None
    except httpx.ConnectError:
        raise CollectorAway(f"no collector answers at {base}; if one runs elsewhere, set {_HOST} and {_PORT}") from None
    except (httpx.HTTPError, httpx.InvalidURL):
        raise _stranger(base) from None
    return _answer(server, base, page, having, response.status_code, body)


async def ask_state(server: HttpServer) -> State:
    """Everything that the collector knows of itself, but for the latest rejects, which have a page of their own.

    Raises CollectorAway, CollectorError, as ``ask`` does.
    """
    return state_from(await ask(server, "/state", having="validator"), address_of(server))


def state_from(answer: Mapping[str, Any], base: str) -> State:
    """What ``/state`` answers, in its own words. Raises CollectorError: another version has others."""
    try:
        return msgspec.convert({**answer, "rejects": {"latest": [], **answer["rejects"]}}, State)
    except (msgspec.ValidationError, KeyError, TypeError) as why:
        raise CollectorError(f"the collector at {base} is of another version than this command: {why}") from None


def _answer(server: HttpServer, base: str, page: str, having: str, code: int, body: bytes) -> dict[str, Any]:
    if code == httpx.codes.UNAUTHORIZED:
        if server.token is None:
            raise CollectorError(f"{base} asks for a token: set {_TOKEN} as it is set for the collector")
        raise CollectorError(f"{base} does not take the token in {_TOKEN}: it must be the one set for the collector")
    if code == httpx.codes.MISDIRECTED_REQUEST:
        raise CollectorError(
            f"{base} does not take this name, which anybody could have, without a token: set {_HOST} to its address, "
            f"or {_TOKEN} for it and here"
        )
    try:
        found = msgspec.json.decode(body, type=dict[str, Any])
    except UNREADABLE:
        raise _stranger(base) from None
    if code not in {httpx.codes.OK, httpx.codes.SERVICE_UNAVAILABLE} or having not in found:
        raise _stranger(base, f"; if it is, it is of another version: its {page} has no {having!r}")
    return found


def _stranger(base: str, more: str = "") -> CollectorError:
    return CollectorError(
        f"what answers at {base} does not answer as polygon-live does{more}. "
        f"Where the collector listens is in {_HOST} and {_PORT}"
    )


async def _body(response: httpx.Response, base: str) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        if len(body) <= ANSWER_BYTES:  # the rest is read all the same: httpx leaves generators behind if it is not
            body += chunk
    if len(body) > ANSWER_BYTES:
        raise _stranger(base)
    return bytes(body)
