"""Polygon's forex messages, both directions: the one vocabulary of the collector and of the stand-in.

No input or output happens here. Everything a server sends is a JSON array of events told apart by ``ev``; everything
a client sends is one object with ``action`` and ``params``. Facts: Polygon's published specification and dated
observations of the live feed; where they differ (the greeting's status, ``x`` as a string) both are accepted.
"""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from polygon_live.model import UNREADABLE


class Quote(msgspec.Struct, frozen=True, gc=False, tag_field="ev", tag="C"):
    """A `C` event: pair, exchange id, ask, bid, Unix milliseconds. ``x`` may come as an int or as a string."""

    p: str
    a: float
    b: float
    t: int
    x: int | str | None = None


class Status(msgspec.Struct, frozen=True, gc=False, tag_field="ev", tag="status"):
    """What the server says about the connection itself."""

    status: str
    message: str = ""


class MinuteAggregate(msgspec.Struct, frozen=True, gc=False, tag_field="ev", tag="CA"):
    """Known, not collected."""


class SecondAggregate(msgspec.Struct, frozen=True, gc=False, tag_field="ev", tag="CAS"):
    """Known, not collected."""


class Request(msgspec.Struct, frozen=True):
    """What the client sends: ``auth`` with the key, ``subscribe`` and ``unsubscribe`` with comma-separated topics."""

    action: str
    params: str

    def __repr__(self) -> str:
        """Without ``params``: it may be the key."""
        return f"Request({self.action})"


Event = Quote | Status | MinuteAggregate | SecondAggregate


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One message as it came, and when (Unix ms on the collector's clock). Its ``len()`` is what it weighs."""

    data: str | bytes
    received_ms: int

    def __len__(self) -> int:
        """Characters or bytes."""
        return len(self.data)


class Undecodable(msgspec.Struct, frozen=True):
    """An element, or a whole frame, that is none of the known events. ``reason`` is one of ``bad_frame`` (the frame
    is no JSON array), ``bad_event`` (no object, or an unknown ``ev``), ``bad_field`` (missing or wrong-typed),
    ``not_asked_for`` (of the past, and of another time than was asked for).
    """

    reason: str
    detail: str
    raw: str


_whole = msgspec.json.Decoder(list[Event])
_parts = msgspec.json.Decoder(list[msgspec.Raw])
_one = msgspec.json.Decoder(Event)
_encoder = msgspec.json.Encoder()
_STRING: Final = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_FLAT: Final = rf'{{[^"\[\]{{}}]*+(?:{_STRING}[^"\[\]{{}}]*+)*+}}'
_MARKS: Final = re.compile(rf'{_FLAT}|{_STRING}|["\[\]{{}},]', re.DOTALL)
"""Whole objects with nothing nested in them, whole strings, and what gives JSON its shape; a quotation mark alone opens
a string that never ends."""
_KNOWN: Final = {"C", "status", "CA", "CAS"}
MOST_BAD: Final = 1000
"""Elements of one frame that are looked at for what is wrong with each: 30 µs apiece, and a frame may hold millions."""
BEYOND: Final = Undecodable("bad_frame", "", "")
"""In the place of each one more."""
_RAW_LIMIT: Final = 2000
_DETAIL_LIMIT: Final = 200


def decode(frame: str | bytes) -> Sequence[Event | Undecodable]:
    """Every event of one frame, in order; what can't be read becomes Undecodable and costs its neighbours nothing.

    Never raises, whatever the frame holds. The fast way first: the whole frame typed at once. Then element by element.
    """
    try:
        return _whole.decode(frame)
    except UNREADABLE:
        parts = elements(frame)
    if parts is None:
        return [Undecodable("bad_frame", "the frame is no JSON array", beginning(frame))]
    events: list[Event | Undecodable] = []
    bad = 0
    for part in parts:
        event = _decode_element(part, patiently=bad < MOST_BAD)
        bad += isinstance(event, Undecodable)
        events.append(event)
    return events


def elements(frame: str | bytes) -> list[str] | None:
    """The elements of the frame's array, each as it came, one for each event of ``decode``; None if it is no array."""
    with suppress(*UNREADABLE):
        return [str(memoryview(part), "utf-8", "backslashreplace") for part in _parts.decode(frame)]
    return _elements_by_marks(_text(frame).strip())


def _elements_by_marks(text: str) -> list[str] | None:
    """Where one of them is no JSON. Only strings and brackets are looked at, which takes three times as long: an
    element may hold anything and be nested to any depth.
    """
    if len(text) < 2 or text[0] != "[" or text[-1] != "]":
        return None
    parts, begins, depth = [], 1, 0
    for found in _MARKS.finditer(text, 1, len(text) - 1):
        mark = found[0]
        if mark in {"[", "{"}:
            depth += 1
        elif mark in {"]", "}"}:
            depth -= 1
        elif mark == "," and depth == 0:
            parts.append(text[begins : found.start()].strip())
            begins = found.end()
        if depth < 0 or mark == '"':
            return None
    last = text[begins:-1].strip()
    return None if depth else [*parts, last] if parts or last else []


def _decode_element(raw: str, *, patiently: bool) -> Event | Undecodable:
    if not patiently and not raw.startswith("{"):
        return BEYOND
    if not raw.startswith("{"):
        return Undecodable("bad_event", "the element is no object", raw[:_RAW_LIMIT])
    event: Event
    try:
        event = _one.decode(raw)
    except UNREADABLE:
        return _decode_leniently(raw) if patiently else BEYOND
    return event


def _decode_leniently(raw: str) -> Event | Undecodable:
    """By way of the standard library, which reads ``NaN`` and lone surrogates. Those could go nowhere."""
    event: Event
    element: Any = None
    try:
        element = json.loads(raw)
        event = msgspec.convert(element, Event)
        _encoder.encode(event)
    except UNREADABLE as why:
        kind = element.get("ev") if isinstance(element, dict) else None
        known = isinstance(kind, str) and kind in _KNOWN
        return Undecodable("bad_field" if known else "bad_event", str(why)[:_DETAIL_LIMIT], raw[:_RAW_LIMIT])
    return event


def beginning(frame: str | bytes) -> str:
    """As much of it as is kept for evidence."""
    return _text(frame[:_RAW_LIMIT])


def _text(frame: str | bytes) -> str:
    return frame if isinstance(frame, str) else frame.decode("utf-8", "backslashreplace")


def may_hold_status(frame: str | bytes) -> bool:
    """Whether the frame could hold a status event. False is certain and costs one search; data frames say no."""
    return "status" in frame if isinstance(frame, str) else b"status" in frame


def statuses(frame: str | bytes) -> list[Status]:
    """Only the status events of a frame."""
    return [event for event in decode(frame) if isinstance(event, Status)]


def topic(pair: str) -> str:
    """The subscription topic of a pair in slash form: ``C.EUR/USD``."""
    return f"C.{pair}"


def authenticate(key: str) -> str:
    """The login message. The key travels here and nowhere else."""
    return encode(Request("auth", key))


def subscribe(pairs: Sequence[str]) -> str:
    """One message for all these pairs."""
    return encode(Request("subscribe", ",".join(map(topic, pairs))))


def unsubscribe(pairs: Sequence[str]) -> str:
    """One message for all these pairs."""
    return encode(Request("unsubscribe", ",".join(map(topic, pairs))))


def encode(message: Request | Sequence[Event]) -> str:
    """The text of one frame."""
    return _encoder.encode(message).decode()
