"""The stand-in's REST service: past quotes in pages, and whether the market is open, with everything that Polygon's can
do wrong.
"""

import base64
from collections.abc import Mapping
from typing import Any, ClassVar, Final
from urllib.parse import parse_qs, urlencode, urlsplit

import attrs

from polygon_live.standin.history import History, PastQuote
from polygon_live.standin.http import Answer, Asked, Fault, HttpStandIn, changed, instead, saying

DEFAULT_LIMIT: Final = 1000
MOST: Final = 50_000
FAR_FUTURE_NS: Final = 2**63
_PATH: Final = "/v3/quotes/"
_MARKET: Final = "/v1/marketstatus/now"


def _absent(content: dict[str, Any], _asked: Asked) -> None:
    content.pop("results", None)
    content.pop("next_url", None)


def _foreign(content: dict[str, Any], _asked: Asked) -> None:
    content["next_url"] = "https://api.polygon.example/v3/quotes/C:EUR-USD?cursor=YWN0"


def _to_itself(content: dict[str, Any], asked: Asked) -> None:
    content["next_url"] = asked.target


def _endless(content: dict[str, Any], asked: Asked) -> None:
    content["next_url"] = f"{asked.target}&more={asked.at}"


def _bad_elements(content: dict[str, Any], _asked: Asked) -> None:
    content["results"][:0] = [42, {"ask_price": 1.1, "bid_price": "low", "participant_timestamp": 1}, {}]


def _not_asked_for(content: dict[str, Any], _asked: Asked) -> None:
    content["results"][:0] = [
        {"ask_exchange": 48, "ask_price": 1.2, "bid_exchange": 48, "bid_price": 1.1, "participant_timestamp": at}
        for at in (1_625_097_600_000, 1_625_097_600_000_000_000)
    ]


UNKNOWN_KEY: Final = {"status": "ERROR", "request_id": "a47d1beb", "error": "Unknown API Key"}

FAULTS: Final[Mapping[str, Fault]] = {
    "unknown-key": instead(401, UNKNOWN_KEY),
    "not-authorized": instead(
        403, {"status": "NOT_AUTHORIZED", "message": "You are not entitled to this data. Please upgrade your plan"}
    ),
    "not-authorized-200": instead(
        200, {"status": "NOT_AUTHORIZED", "message": "You are not entitled to this data. Please upgrade your plan"}
    ),
    "too-many": instead(429),
    "too-many-retry-after": instead(429, {"status": "ERROR", "error": "exceeded the maximum"}, ("Retry-After", "7")),
    "server-error": instead(500, {"status": "ERROR", "error": "internal error"}),
    "bad-gateway": instead(502, b"<html>502 Bad Gateway</html>", ("Content-Type", "text/html")),
    "unavailable": instead(503, b"", ("Retry-After", "3")),
    "redirect": instead(301, b"", ("Location", "https://api.polygon.example/")),
    "no-such-ticker": instead(404, {"status": "NOT_FOUND", "message": "Ticker not found."}),
    "garbage": instead(200, b"<html>maintenance</html>", ("Content-Type", "text/html")),
    "nan": lambda right, _: attrs.evolve(right, body=right.body.replace(b'"ask_price":', b'"ask_price":NaN,"was":', 1)),
    "slow": lambda right, _: attrs.evolve(right, pause=3600.0),
    "cut": lambda right, _: attrs.evolve(right, cut=True),
    "absent": changed(_absent),
    "foreign-next": changed(_foreign),
    "next-to-itself": changed(_to_itself),
    "endless-next": changed(_endless),
    "bad-elements": changed(_bad_elements),
    "not-asked-for": changed(_not_asked_for),
    "descending": changed(lambda content, _asked: content["results"].reverse()),
}
"""By name, as it is said in tests and to ``simulate``."""

MARKET_FAULTS: Final[Mapping[str, Fault]] = {
    **{name: FAULTS[name] for name in ("unknown-key", "not-authorized", "not-authorized-200", "too-many")},
    **{name: FAULTS[name] for name in ("unavailable", "garbage", "slow", "cut")},
    "extended-hours": changed(lambda content, _asked: content["currencies"].update(fx="extended-hours")),
    "no-currencies": changed(lambda content, _asked: content.pop("currencies")),
    "no-word": changed(lambda content, _asked: content["currencies"].update(fx=None)),
}
"""The same of the question whether the market is open: after each of them that is not known."""


class RestStandIn(HttpStandIn):
    """The account's other door."""

    name: ClassVar = "simulated REST service"

    def __init__(self, history: History, *, key: str, empty_as_list: bool = True, largest_page: int = MOST) -> None:
        super().__init__()
        self._history = history
        self._key = key
        self._empty_as_list = empty_as_list
        self._largest_page = largest_page
        self.fx = "open"
        """What it says of the currency market: ``open`` or ``closed``."""

    async def right(self, asked: Asked) -> Answer:
        """A page, or the market's state, if the key and the path are right."""
        if asked.authorization != f"Bearer {self._key}":
            return saying(401, UNKNOWN_KEY)
        parts = urlsplit(asked.target)
        if parts.path == _MARKET:
            currencies = {"crypto": "open", "fx": self.fx}
            return saying(200, {"currencies": currencies, "market": "open", "serverTime": "2026-06-02T08:00:00-04:00"})
        pair = _pair(parts.path.removeprefix(_PATH)) if parts.path.startswith(_PATH) else None
        if pair is None:
            return saying(404, {"status": "NOT_FOUND", "message": "Not found."})
        return self._page(pair, _query(asked), f"{parts.scheme}://{parts.netloc}{parts.path}")

    def _page(self, pair: str, query: Mapping[str, str], here: str) -> Answer:
        from_ns = max(int(query.get("timestamp.gte", 0)), int(query.get("timestamp.gt", -1)) + 1)
        until_ns = min(
            int(query.get("timestamp.lt", FAR_FUTURE_NS)), int(query.get("timestamp.lte", FAR_FUTURE_NS)) + 1
        )
        found = self._history.of(pair, from_ns, until_ns)
        if query.get("order", "desc") == "desc":
            found.reverse()
        limit = min(int(query.get("limit", DEFAULT_LIMIT)), MOST, self._largest_page)
        begins = int(query.get("offset", 0))
        page = found[begins : begins + limit]
        content: dict[str, str | list[PastQuote]] = {"status": "OK", "request_id": "a47d1beb"}
        if page or self._empty_as_list:
            content["results"] = page
        if begins + limit < len(found):
            cursor = urlencode({**query, "offset": begins + limit})
            content["next_url"] = f"{here}?cursor={base64.urlsafe_b64encode(cursor.encode()).decode()}"
        return saying(200, content)


def _query(asked: Asked) -> Mapping[str, str]:
    """The parameters, those of a cursor included."""
    found = dict(asked.query)
    if cursor := found.pop("cursor", None):
        inner = base64.urlsafe_b64decode(cursor).decode()
        found |= {name: values[-1] for name, values in parse_qs(inner).items()}
    return found


def _pair(ticker: str) -> str | None:
    """``EUR/USD`` from ``C:EUR-USD`` or ``C:EURUSD``."""
    name = ticker.replace("-", "")
    return f"{name[2:5]}/{name[5:]}" if name.startswith("C:") and len(name) == 8 else None
