"""What Polygon's REST service writes in its answers. Everything here raises ValueError for what can't be read."""

import json
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from polygon_live import wire
from polygon_live.model import UNREADABLE

DETAIL: Final = 200
"""Characters of why an element can't be read."""


class PastQuote(msgspec.Struct, frozen=True, gc=False):
    """An element of a page. The time is in nanoseconds."""

    participant_timestamp: int
    bid_price: float
    ask_price: float
    bid_exchange: int | str | None = None
    ask_exchange: int | str | None = None


class Head(msgspec.Struct, frozen=True):
    """What every answer may say of itself."""

    status: str = ""
    next_url: str | None = None
    error: str = ""
    message: str = ""


class _Page(Head, frozen=True):
    results: list[PastQuote] | None = None


class _Currencies(msgspec.Struct, frozen=True):
    fx: str = ""


class _Market(msgspec.Struct, frozen=True):
    currencies: _Currencies


Page = tuple[Head, Sequence[PastQuote | wire.Undecodable]]
_page = msgspec.json.Decoder(_Page)
_market = msgspec.json.Decoder(_Market)
_head = msgspec.json.Decoder(Head)


def page(body: bytes) -> Page:
    """Past quotes. A bad element costs itself."""
    try:
        found = _page.decode(body)
    except UNREADABLE:
        return _by_element(body)
    return found, found.results or ()


def head(body: bytes) -> Head:
    """What it says of itself, whatever else is in it."""
    try:
        return _head.decode(body)
    except UNREADABLE as why:
        raise ValueError(str(why)) from None


def market(body: bytes) -> Literal["open", "closed"]:
    """Of the currencies; of metals nothing is said."""
    try:
        word = _market.decode(body).currencies.fx
    except UNREADABLE as why:
        raise ValueError(str(why)) from None
    match word:
        case "open" | "closed":
            return word
        case _:
            raise ValueError(f"the currency market is said to be {word[:40]!r}")


def _by_element(body: bytes) -> Page:
    """By way of the standard library, which reads ``NaN``."""
    try:
        answer: Any = json.loads(body)
        told = msgspec.convert(answer, Head)
        results = msgspec.convert(answer.get("results"), list[Any] | None) or []
    except UNREADABLE as why:
        raise ValueError(str(why)) from None
    return told, [_element(each) for each in results]


def _element(found: Any) -> PastQuote | wire.Undecodable:
    try:
        quote = msgspec.convert(found, PastQuote)
        msgspec.json.encode(quote)  # a lone surrogate could go nowhere
    except UNREADABLE as why:
        return wire.Undecodable("bad_field", str(why)[:DETAIL], json.dumps(found))
    return quote
