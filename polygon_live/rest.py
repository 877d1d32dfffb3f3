"""Polygon's REST service, as far as past quotes and the market's state go.

``GET /v3/quotes/C:EUR-USD`` answers in pages, each with the address of the next one. That address is followed as it is,
with the key in a header; so only to where the first one went, never to one that was there already, and not for ever.
The key is in no address, no error and no log.

What went wrong is a RestError that says whether asking again may help: too many requests, a fault of the service and
a broken line may pass; a wrong key, a plan without these data and an answer that can't be followed do not.
"""

import random
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, Literal, TypeVar

import httpx
import msgspec
import trio

from polygon_live import answers, wire
from polygon_live.answers import Head, PastQuote
from polygon_live.backoff import backoff
from polygon_live.config import Secret
from polygon_live.errors import ConfigurationError, RestError
from polygon_live.limits import Turns
from polygon_live.model import evidence, pair_of
from polygon_live.proxies import check_proxies

VARIABLE: Final = "POLYGON_LIVE_REST_URL"
PAGE_QUOTES: Final = 50_000
"""The most that the service puts into a page."""
PAGE_BYTES: Final = 64 * 2**20
"""A page of 50,000 quotes has 8 MiB."""
MOST_PAGES: Final = 4000
"""Of one question: 200 million quotes, if they are full."""
BLOCK: Final = 1000
"""Quotes handed out at once."""
PAGE_SECONDS: Final = 60.0
"""For one page, from asking to its last byte."""
SILENT_SECONDS: Final = 20.0
"""Without a byte."""
TRIES: Final = 4
"""For one page, where asking again may help."""
FIRST_WAIT_SECONDS: Final = 1.0
MOST_WAIT_SECONDS: Final = 30.0
WAITED_SECONDS: Final = 60.0
"""A ``Retry-After`` up to this is waited for here; beyond, whoever asks has better things to do meanwhile."""
SAID: Final = 200
"""Characters of what the service says."""
NS: Final = 1_000_000_000

Quotes = Sequence[wire.Quote | wire.Undecodable]
T = TypeVar("T")


class Rest:
    """The service at ``url`` (scheme, host and perhaps port and path), asked with ``key`` and in turn.

    Raises ConfigurationError if the URL or a proxy in the environment can't be used.
    """

    def __init__(
        self,
        url: str,
        key: Secret,
        *,
        turns: Turns,
        rng: random.Random,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        try:
            self._url = httpx.URL(url.rstrip("/"))
        except httpx.InvalidURL:
            raise ConfigurationError(f"{VARIABLE} is {url!r}: write it like https://host") from None
        check_proxies()
        self._key = key
        self._turns = turns
        self._rng = rng
        self._transport = transport
        self._tls = ssl.create_default_context()  # once: it reads every authority of the machine

    @asynccontextmanager
    async def quotes(self, symbol: str, first_s: int, last_s: int) -> "AsyncIterator[Answer]":
        """Ask for all quotes of a symbol from one second to another (Unix seconds, the last one wholly included)."""
        first = self._address(f"/v3/quotes/C:{pair_of(symbol).replace('/', '-')}").copy_merge_params(
            {
                "timestamp.gte": str(first_s * NS),
                "timestamp.lt": str((last_s + 1) * NS),
                "order": "asc",
                "sort": "timestamp",
                "limit": str(PAGE_QUOTES),
            }
        )
        async with self._client() as client:
            line = _Line(client, first, self._key, self._turns)
            yield Answer(_Pages(line, first, self._rng), pair_of(symbol), first_s, last_s)

    async def market(self) -> Literal["open", "closed"]:
        """What Polygon says of the currency market now. Raises RestError. Asked once: who needs it asks again later."""
        url = self._address("/v1/marketstatus/now")
        async with self._client() as client:
            line = _Line(client, url, self._key, self._turns)
            body = await line.ask(url)
            with suppress(ValueError):
                line.check(answers.head(body))  # a refusal with status 200
            return line.read(answers.market, body)

    def _address(self, path: str) -> httpx.URL:
        return self._url.copy_with(path=self._url.path.rstrip("/") + path)

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self._key.reveal()}", "Accept": "application/json"},
            timeout=SILENT_SECONDS,
            follow_redirects=False,
            verify=self._tls,
            transport=self._transport,
        )


class Answer:
    """What the service has, in ascending order, block by block."""

    def __init__(self, pages: "_Pages", pair: str, first_s: int, last_s: int) -> None:
        self._pages = pages
        self._pair = pair
        self._first_s = first_s
        self._last_s = last_s
        self._reached_s = first_s
        self._left: deque[PastQuote | wire.Undecodable] = deque()

    async def block(self) -> Quotes | None:
        """The next quotes, at most ``BLOCK``; None at the end. What can't be read, or was not asked for, is there as
        Undecodable. A quote's exchange is that of its bid, or else of its ask; its time is in whole milliseconds.

        Raises RestError.
        """
        while not self._left:
            page = await self._pages.next()
            if page is None:
                return None
            self._left.extend(page)
        await trio.lowlevel.checkpoint()
        count = min(BLOCK, len(self._left))
        return [self._quote(self._left.popleft()) for _ in range(count)]

    def _quote(self, found: PastQuote | wire.Undecodable) -> wire.Quote | wire.Undecodable:
        if isinstance(found, wire.Undecodable):
            return found
        second = found.participant_timestamp // NS
        if not self._first_s <= second <= self._last_s:
            detail = f"the time {str(found.participant_timestamp)[:40]} is outside of what was asked for"
            return wire.Undecodable("not_asked_for", detail, msgspec.json.encode(found).decode())
        if second < self._reached_s:
            raise RestError(
                f"the service answers out of order ({second} s after {self._reached_s} s): what it lacks can't be told",
                again=False,
            )
        self._reached_s = second
        return wire.Quote(
            self._pair,
            found.ask_price,
            found.bid_price,
            found.participant_timestamp // 1_000_000,
            found.ask_exchange if found.bid_exchange is None else found.bid_exchange,
        )


class _Pages:
    """The chain of pages. A page that could not be had is asked for again, and only then is the next one known."""

    def __init__(self, line: "_Line", first: httpx.URL, rng: random.Random) -> None:
        self._line = line
        self._next: httpx.URL | None = first
        self._seen = {str(first)}
        self._rng = rng

    async def next(self) -> Sequence[PastQuote | wire.Undecodable] | None:
        """The next page; None after the last."""
        if self._next is None:
            return None
        waits = backoff(FIRST_WAIT_SECONDS, MOST_WAIT_SECONDS, self._rng)
        for tried in range(1, TRIES + 1):
            try:
                head, quotes = self._line.read(answers.page, await self._line.ask(self._next))
                self._line.check(head)
                break
            except RestError as why:
                if not why.again or tried == TRIES or (why.after or 0) > WAITED_SECONDS:
                    raise
                wait = next(waits)
                await trio.sleep(wait if why.after is None else max(why.after, FIRST_WAIT_SECONDS))
        self._next = self._follow(head.next_url) if head.next_url else None
        return quotes

    def _follow(self, address: str) -> httpx.URL:
        try:
            url = httpx.URL(address)
        except (httpx.InvalidURL, TypeError):
            raise RestError("the address of the next page is no address", again=False) from None
        here = self._line.origin
        if _origin(url) != here or url.userinfo:
            shown = evidence(f"{url.scheme}://{url.host}")[:SAID]
            raise RestError(
                f"the next page is said to be at {shown}, not at {here[0]}://{here[1]}: the key is not "
                f"sent there; if it belongs to Polygon, name it in {VARIABLE}",
                again=False,
            )
        if str(url) in self._seen:
            raise RestError("the next page is said to be one that was read already: it would never end", again=False)
        if len(self._seen) >= MOST_PAGES:
            raise RestError(f"there are more than {MOST_PAGES} pages: ask for a shorter time", again=False)
        self._seen.add(str(url))
        return url


class _Line:
    """One question after the other, each in its turn and within its time. ``first`` is where they go."""

    def __init__(self, client: httpx.AsyncClient, first: httpx.URL, key: Secret, turns: Turns) -> None:
        self._client = client
        self.origin = _origin(first)
        self._endpoint = str(first.copy_with(query=None)).rpartition("/")[0]
        self._key = key
        self._turns = turns

    async def ask(self, url: httpx.URL) -> bytes:
        """The body of a good answer. Raises RestError."""
        await self._turns.turn()
        try:
            with trio.fail_after(PAGE_SECONDS):
                async with self._client.stream("GET", url) as response:
                    body = await _body(response)
        except trio.TooSlowError:
            raise self._error(f"no whole page within {PAGE_SECONDS:g} s", again=True) from None
        except httpx.TimeoutException:
            raise self._error(f"nothing came for {SILENT_SECONDS:g} s", again=True) from None
        except httpx.LocalProtocolError as why:  # its words are those that were to be sent, the key among them
            raise self._error(f"the question can't be sent ({type(why).__name__})", again=True) from None
        except httpx.HTTPError as why:
            raise self._error(f"the line failed: {why or type(why).__name__}", again=True) from None
        if response.status_code != httpx.codes.OK:
            raise self._refused(response, body)
        return body

    def read(self, decode: Callable[[bytes], T], body: bytes) -> T:
        """What is in it. Raises RestError if it can't be read."""
        try:
            return decode(body)
        except ValueError:
            text = self._clean(body[: 4 * SAID].decode(errors="replace"))[:60]
            raise self._error(f"the answer can't be read: {text!r}", again=True) from None

    def _refused(self, response: httpx.Response, body: bytes) -> RestError:
        code = response.status_code
        said = self._said(body)
        match code:
            case 401:
                return self._error(f"the key is refused (401{said}): correct POLYGON_API_KEY", again=False)
            case 403:
                return self._error(f"the plan does not include these data (403{said})", again=False)
            case 429:
                self._turns.violation(self._endpoint, f"too many requests (429{said})")
                return self._error(f"too many requests (429{said})", again=True, after=_retry_after(response))
            case _ if response.is_redirect:
                return self._error(f"it is somewhere else ({code}): correct {VARIABLE}", again=False)
            case _ if response.is_server_error or code == httpx.codes.REQUEST_TIMEOUT:
                return self._error(f"it failed ({code}{said})", again=True, after=_retry_after(response))
            case _:
                return self._error(f"the question is refused ({code}{said})", again=False)

    def check(self, head: Head) -> None:
        """Whether it says that it is one. Raises RestError."""
        if head.status not in {"OK", "DELAYED", ""}:
            said = self._clean(f"{head.status} {head.message or head.error}")
            # Seen with status 200 too.
            raise self._error(f"it answers {said}", again=head.status not in {"NOT_AUTHORIZED", "NOT_FOUND"})

    def _said(self, body: bytes) -> str:
        """What an answer that refuses says for itself, after a comma; nothing if it says nothing that can be read."""
        try:
            head = answers.head(body)
        except ValueError:
            return ""
        text = self._clean(head.error or head.message)
        return f", {text!r}" if text else ""

    def _clean(self, text: str) -> str:
        """Fit to be shown: without the key, on one line, short."""
        return evidence(" ".join(text.replace(self._key.reveal(), "***").split()))[:SAID]

    def _error(self, what: str, *, again: bool, after: float | None = None) -> RestError:
        return RestError(f"Polygon's REST service at {self.origin[1]}: {what}", again=again, after=after)


async def _body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        if len(body) <= PAGE_BYTES:  # the rest is read all the same: httpx leaves generators behind if it is not
            body += chunk
    if len(body) > PAGE_BYTES:
        raise RestError(f"a page has more than {PAGE_BYTES // 2**20} MiB", again=False)
    return bytes(body)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    """Scheme, host and port (None for the scheme's own)."""
    return url.scheme, url.host, url.port


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds, from either form of the header; None without one that can be understood."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdecimal():
        return float(value[:9])
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None
