"""Who is answered: who has the token, or, where none is set, who asks for this collector by a name that is its own.

Licensed prices are on the pages. Without a token nothing keeps a web page that somebody on this machine or this
network opens from asking for them: it only has to be from a name which its owner lets point here after it was loaded
(DNS rebinding); to the browser both are one site then. But the request still carries that name, and it can't be an
address, nor a name without a dot (a machine, a container, a service), for those can't be had on the internet. So
these are answered, and of the others what ``POLYGON_LIVE_HTTP_HOST`` says; for any more, a token has to be set.

Health, metrics and the page's files hold no prices. They are open to all, by whatever name: those who probe and scrape
have neither a token nor a say in the name.
"""

import re
import secrets
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Final

import attrs

FILES_PAGE: Final = "/page/"
OPEN_TO_ALL: Final = ("/health", "/metrics", FILES_PAGE)
HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every answer, errors included, unless it has its own."""

_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::[0-9]*)?")


@attrs.frozen
class Refusal:
    """Why not."""

    status: int
    why: str


@attrs.frozen
class Guard:
    """``host`` is where the server was told to listen."""

    token: str | None
    host: str

    def refuses(self, path: str, host: str, header: Callable[[str], str | None], *, page: bool) -> Refusal | None:
        """None: it may be answered. ``page``: it is the page for people, which holds nothing where a token is set."""
        if path.startswith(OPEN_TO_ALL):
            return None
        if self.token is not None:
            return None if page or self._has_token(header("Authorization") or "") else NO_TOKEN
        if host and not self._is_ours(host):
            return Refusal(
                421,
                f"{host[:100]!r} is not known as a name of this collector: ask by its address or a name without dots, "
                "or set POLYGON_LIVE_HTTP_TOKEN",
            )
        foreign = header("Sec-Fetch-Site") in {"cross-site", "same-site"}
        return FOREIGN if foreign and header("Sec-Fetch-Mode") != "navigate" else None

    def _has_token(self, given: str) -> bool:
        # The scheme is in any case (RFC 7235). Headers are read as Latin-1, whatever they were written in.
        scheme, _, token = given.partition(" ")
        shown = f"{scheme.lower()} {token.lstrip(' ')}"
        return secrets.compare_digest(shown.encode("latin-1", errors="replace"), f"bearer {self.token}".encode())

    def _is_ours(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = (found["v6"] or found["name"]).lower()
        return "." not in name or name == self.host.lower() or name.endswith(".localhost") or _is_address(name)


NO_TOKEN: Final = Refusal(401, "this page asks for the header 'Authorization: Bearer TOKEN'")
FOREIGN: Final = Refusal(403, "this page is not for other sites")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
