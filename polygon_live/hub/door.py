"""The way to Central Hub: HTTP, and what can go wrong on it, as a HubError in plain words.

No word of what the Hub sent is ever in such an error: a configuration that should not hold secrets may hold some.
Facts about the answers: ``config`` arrives as an object or, where the Hub's database driver does not decode it, as a
JSON string; 404 with a ``detail`` means that nothing has been posted yet; who posted it stands in the history alone.
"""

import ssl
from typing import Any, Final

import anyio
import attrs
import httpx

from polygon_live import values
from polygon_live.config import UNSENDABLE, Secret
from polygon_live.errors import ConfigurationError, HubError
from polygon_live.hub.merging import decoded, digest
from polygon_live.keys import kind
from polygon_live.model import evidence
from polygon_live.proxies import check_proxies

ANSWER_SECONDS: Final = 5.0
"""For a whole answer, from dialling to its last byte."""
AUTHOR_SECONDS: Final = 1.0
"""For the history, which only says who it was."""
MOST_BYTES: Final = 2**20
SAID: Final = 100
"""Characters of a version or a name."""
VARIABLE: Final = "POLYGON_LIVE_HUB_URL"


@attrs.frozen
class Posted:
    """What the Hub has for a service."""

    config: dict[str, Any] = attrs.field(repr=False, eq=False)
    digest: str
    """Of ``config``, as it was posted."""
    version: str | None
    updated: str | None
    """When, as the Hub says it: one more way to see a change."""
    updated_by: str | None = attrs.field(eq=False)


class Door:
    """The Hub at ``url``. A connection is opened for each question: there is one every half a minute.

    Raises ConfigurationError if the URL, the key or a proxy in the environment can't be used.
    """

    def __init__(self, url: str, api_key: Secret | None, transport: httpx.AsyncBaseTransport | None = None) -> None:
        try:
            self._url = httpx.URL(values.http_url(url))
        except (ValueError, httpx.InvalidURL):
            raise ConfigurationError(
                f"{VARIABLE} (not shown here) is not the address of an HTTP service: write it like http://host:7000"
            ) from None
        key = api_key.reveal() if api_key else ""
        if not values.fits_header(key):
            raise ConfigurationError(f"POLYGON_LIVE_HUB_API_KEY {UNSENDABLE}")
        check_proxies()
        self._headers = {"Accept": "application/json"} | ({"X-API-Key": key} if key else {})
        self._transport = transport
        self._tls = ssl.create_default_context()  # once: it reads every authority of the machine

    async def posted(self, service: str) -> Posted | None:
        """What is posted for a service; None if nothing is. Raises HubError."""
        response, body = await self._send("GET", f"/api/v1/config/{service}")
        if response.status_code == httpx.codes.NOT_FOUND:
            self._check_that_it_is_the_hub(body)
            return None
        self._check(response)
        answer = self._object(body)
        if (other := answer.get("service_name", service)) != service:
            raise self._error(f"it answers for {_said(other)!r}, not for {service!r}")
        config = self._config(answer)
        return Posted(
            config,
            digest(config),
            _said(answer.get("version")),
            _said(answer.get("updated_at")),
            _said(answer.get("updated_by")),
        )

    async def author(self, service: str, wanted: str) -> str | None:
        """Who made the last change, if that was the one with this digest and the Hub tells."""
        try:
            with anyio.fail_after(AUTHOR_SECONDS):
                response, body = await self._send("GET", f"/api/v1/config/history/{service}", limit="1")
            self._check(response)
            match self._object(body).get("history"):
                case [dict() as entry, *_] if digest(self._config(entry)) == wanted:
                    return _said(entry.get("changed_by"))
                case _:
                    return None
        except (HubError, TimeoutError):
            return None

    async def post(self, path: str, content: dict[str, Any]) -> None:
        """Tell the Hub something. Raises HubError if it does not take it."""
        response, _ = await self._send("POST", path, content)
        self._check(response)

    async def _send(
        self, method: str, path: str, content: dict[str, Any] | None = None, **query: str
    ) -> tuple[httpx.Response, bytes]:
        url = self._url.copy_with(path=self._url.path.rstrip("/") + path)
        try:
            with anyio.fail_after(ANSWER_SECONDS):
                async with (
                    httpx.AsyncClient(
                        headers=self._headers,
                        timeout=ANSWER_SECONDS,
                        follow_redirects=False,  # the key goes nowhere else
                        verify=self._tls,
                        transport=self._transport,
                    ) as client,
                    client.stream(method, url, json=content, params=query or None) as response,
                ):
                    return response, await self._body(response)
        except (TimeoutError, httpx.TimeoutException):
            raise self._error(f"no whole answer within {ANSWER_SECONDS:g} s") from None
        except httpx.ConnectError as why:
            raise self._error(f"it can't be reached ({why}): is it running, and is {VARIABLE} right?") from None
        except httpx.HTTPError as why:
            raise self._error(f"the line was cut, or it is no HTTP ({type(why).__name__})") from None

    async def _body(self, response: httpx.Response) -> bytes:
        said = response.headers.get("Content-Length", "")
        if said.isdecimal() and int(said[:20]) > MOST_BYTES:
            raise self._too_large()
        body = bytearray()
        async for chunk in response.aiter_bytes():
            if len(body) <= MOST_BYTES:  # the rest is read all the same: httpx leaves generators behind if it is not
                body += chunk
        if len(body) > MOST_BYTES:
            raise self._too_large()
        return bytes(body)

    def _check(self, response: httpx.Response) -> None:
        """That it is an answer."""
        code = response.status_code
        match code:
            case _ if response.is_success:
                return
            case 401 | 403:
                raise self._error(f"it lets nobody in without the right key ({code}): correct POLYGON_LIVE_HUB_API_KEY")
            case _ if response.is_redirect:
                raise self._error(f"it is somewhere else ({code}): correct {VARIABLE}")
            case _ if response.is_server_error:
                raise self._error(f"it failed ({code})")
            case _:
                raise self._error(f"the question is refused ({code})")

    def _check_that_it_is_the_hub(self, body: bytes) -> None:
        """A proxy's 404 must not take away a configuration."""
        try:
            answer = decoded(body)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or "detail" not in answer:
            raise self._error(f"404 in words that are not the Hub's: is {VARIABLE} right?")

    def _object(self, body: bytes) -> dict[str, Any]:
        try:
            answer = decoded(body)
        except ValueError as why:
            raise self._error(f"the answer can't be read: {why}") from None
        if not isinstance(answer, dict):
            raise self._error(f"the answer is {kind(answer)}, not an object")
        return answer

    def _config(self, answer: dict[str, Any]) -> dict[str, Any]:
        if "config" not in answer:
            raise self._error("the answer holds no config")
        config = answer["config"]
        if isinstance(config, str):
            try:
                config = decoded(config)
            except ValueError as why:
                raise self._error(f"its config is a string, and that can't be read: {why}") from None
        if not isinstance(config, dict):
            raise self._error(f"its config is {kind(config)}, not an object")
        return config

    def _too_large(self) -> HubError:
        return self._error(f"the answer has more than {MOST_BYTES // 2**20} MiB")

    def _error(self, what: str) -> HubError:
        return HubError(f"Central Hub at {self._url.host}:{self._url.port or self._url.scheme}: {what}")


def _said(value: Any) -> str | None:
    """A version, a time or a name, fit to be shown: on one line, short."""
    if value is None:
        return None
    return evidence(" ".join(str(value).split()))[:SAID] if isinstance(value, str | int | float) else kind(value)
