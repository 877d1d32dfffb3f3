"""Configurations at random: good ones, any JSON, and JSON that is nearly a configuration."""

from typing import Any, Final

import attrs
from hypothesis import strategies as st

from polygon_live.document import ROOT, SYMBOLS, VALIDATION, document
from polygon_live.operational import ALL_PAIRS, Limits, Operational
from polygon_live.reading import RANGES, WHOLE

PAIRS: Final = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=6, max_size=6)
NAMES: Final = tuple(sorted([*RANGES, SYMBOLS]))


def numbers(name: str) -> st.SearchStrategy[float]:
    """In the range of this key."""
    least, most = RANGES[name]
    if name in WHOLE:
        return st.integers(int(least), int(most))
    return st.floats(least, most) | st.integers(-int(-least // 1), int(most))


def operationals() -> st.SearchStrategy[Operational]:
    symbols = st.lists(PAIRS, min_size=1, max_size=8, unique=True).map(tuple) | st.just((ALL_PAIRS,))
    limits = st.builds(Limits, **{n: numbers(f"{VALIDATION}.{n}") for n in attrs.fields_dict(Limits)})
    return st.builds(
        Operational,
        symbols=symbols,
        websocket_reconnect_delay=numbers(f"{ROOT}.websocket_reconnect_delay"),
        rate_limit_per_second=numbers(f"{ROOT}.rate_limit_per_second"),
        limits=limits,
    )


_text: Final = st.text(st.characters(), max_size=12)  # lone surrogates too: JSON can write them
LEAVES: Final = st.none() | st.booleans() | st.integers() | st.floats() | _text | st.integers(10**400, 10**401)
_keys: Final = _text | st.sampled_from(
    ["operational", "symbols", "validation", "max_spread_bps", "symbol", "api_key", "nats", "POLYGON_LIVE_HUB_URL"]
)
ANY_JSON: Final = st.recursive(
    LEAVES | st.just("EURUSD"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_keys, inner, max_size=4),
    max_leaves=12,
)


def put(found: dict[str, Any], name: str, value: object) -> dict[str, Any]:
    """With this at a dotted name; what is in its way on the way there gives way."""
    inner = found
    *way, last = name.split(".")
    for part in way:
        if not isinstance(inner.get(part), dict):
            inner[part] = {}
        inner = inner[part]
    inner[last] = value
    return found


@st.composite
def nearly(draw: st.DrawFn) -> dict[str, Any]:
    """A good one, spoilt here and there."""
    found = document(draw(operationals()))
    places = st.sampled_from([*NAMES, ROOT, VALIDATION, f"{SYMBOLS}x"]) | _keys.filter(lambda k: "." not in k)
    for name, value in draw(st.lists(st.tuples(places, ANY_JSON), max_size=4)):
        put(found, name, value)
    return found
