"""Which servers there are, and which one to try next.

The settings name some of a cluster's servers, perhaps only one; each server that answers tells the addresses of those
that are up. The others are remembered: they may be the ones that are up next time. The configured ones always stay, of
the learnt ones those that were told of last.
"""

import ipaddress
import random
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import count
from typing import Final
from urllib.parse import ParseResult, urlsplit

import attrs

from polygon_live.config import Secret

SCHEMES: Final = frozenset({"nats", "tls"})
"""Of addresses whose cluster tells addresses of the same kind."""
MOST_LEARNT: Final = 16
"""Where servers get a new address each time they start, the old ones would be tried for ever."""


@attrs.frozen
class Server:
    """One of them. ``certified`` is the name that its certificate is held against, if not the address's own."""

    url: Secret
    learnt: bool = False
    certified: str | None = None

    @property
    def address(self) -> str:
        """Without user, password or token."""
        parts = urlsplit(self.url.reveal())
        return f"{parts.hostname}:{parts.port or 4222}"

    @property
    def encrypted(self) -> bool:
        """Whether its address asks for TLS."""
        return urlsplit(self.url.reveal()).scheme == "tls"


class Servers:
    """In the order in which to try them: whoever failed last comes last, so that no two that hang, each of which takes
    seconds to be given up, keep us from the third.
    """

    def __init__(self, urls: Sequence[Secret]) -> None:
        self._configured = [Server(url) for url in urls]
        self._learnt: list[Server] = []
        self._failed: dict[str, int] = {}
        self._numbers = count(1)

    @property
    def addresses(self) -> list[str]:
        """All that are known, the configured ones first."""
        return [server.address for server in self._all()]

    def in_turn(self) -> list[Server]:
        """Those that did not fail lately in any order, the configured before the learnt; then the others."""
        everybody = self._all()
        random.shuffle(everybody)
        return sorted(everybody, key=lambda server: (self._failed.get(server.address, 0), server.learnt))

    def failed(self, server: Server) -> None:
        """It did not answer, or its connection ended."""
        self._failed[server.address] = next(self._numbers)

    def answered(self, server: Server, addresses: Iterable[ParseResult]) -> None:
        """It is good, and told of these. They are asked for with the same login and the same caution: a certificate is
        rarely made out to an address in numbers, so there the name counts by which the first server was found.
        """
        self._failed.pop(server.address, None)
        used = urlsplit(server.url.reveal())
        if used.scheme not in SCHEMES:
            return
        login, at, _ = used.netloc.rpartition("@")
        told = [
            Server(
                Secret(f"{used.scheme}://{login}{at}{other.netloc}"),
                learnt=True,
                certified=server.certified or used.hostname if _is_in_numbers(other.hostname) else None,
            )
            for other in addresses
        ]
        newest = {known.address: known for known in (*told, *self._learnt)}
        self._learnt = list(newest.values())[:MOST_LEARNT]
        known = {known.address for known in self._all()}
        self._failed = {address: number for address, number in self._failed.items() if address in known}

    def _all(self) -> list[Server]:
        known = {server.address: server for server in self._configured}
        for server in self._learnt:
            known.setdefault(server.address, server)
        return list(known.values())


def _is_in_numbers(host: str | None) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.ip_address(host or ""))
    return False
