"""The JSON form of what operators may change, as Central Hub keeps it.

::

    {"operational": {"symbols": ["EURUSD"], "websocket_reconnect_delay": 5, "rate_limit_per_second": 5,
                     "validation": {"max_spread_bps": 1000, …}}}
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from polygon_live.operational import Operational

ROOT: Final = "operational"
SYMBOLS: Final = f"{ROOT}.symbols"
VALIDATION: Final = f"{ROOT}.validation"
DIGEST_CHARACTERS: Final = 12


def document(operational: Operational) -> dict[str, Any]:
    """Every key, with JSON's own types. Whole numbers are written without a point."""
    limits = attrs.asdict(operational.limits)
    return {
        "operational": {
            "symbols": list(operational.symbols),
            "websocket_reconnect_delay": _plain(operational.websocket_reconnect_delay),
            "rate_limit_per_second": _plain(operational.rate_limit_per_second),
            "validation": {name: _plain(value) for name, value in limits.items()},
        }
    }


def digest(operational: Operational) -> str:
    """A short name for the values: the same for the same ones, everywhere and always."""
    text = json.dumps(document(operational), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_CHARACTERS]


def flat(found: Mapping[str, Any]) -> dict[str, object]:
    """Its leaves by dotted name, like ``operational.validation.max_spread_bps``. A list is a leaf."""
    leaves: dict[str, object] = {}
    for name, value in found.items():
        if isinstance(value, Mapping):
            leaves.update({f"{name}.{inner}": leaf for inner, leaf in flat(value).items()})
        else:
            leaves[name] = value
    return leaves


def nested(leaves: Mapping[str, object]) -> dict[str, Any]:
    """The document with these leaves: ``flat`` the other way round."""
    found: dict[str, Any] = {}
    for dotted, leaf in leaves.items():
        *way, last = dotted.split(".")
        inner = found
        for name in way:
            inner = inner.setdefault(name, {})
        inner[last] = leaf
    return found


def named(found: object) -> frozenset[str]:
    """Which of our leaves it gives a value, good or bad, by dotted name. Never raises, whatever JSON it is given."""
    return frozenset(name for name in flat(document(Operational())) if _has(found, name.split(".")))


def _has(found: object, way: Sequence[str]) -> bool:
    for name in way:
        if not isinstance(found, Mapping) or name not in found:
            return False
        found = found[name]
    return True


def _plain(number: float) -> float:
    """5 for 5.0: they are the same value, and must have the same digest."""
    return int(number) if float(number).is_integer() else number
