"""From what Central Hub has to what is in force: all of it, or every reason why not.

Nothing is taken in part. A key that is not known is a fault, for it was meant to do something; a key that looks like an
address or a secret is left out and named, for those come from the environment. Of neither is the value ever told.
"""

from collections.abc import Mapping
from typing import Any, Final

import attrs

from polygon_live.document import ROOT, SYMBOLS, VALIDATION, document, flat
from polygon_live.errors import ConfigurationRefused
from polygon_live.keys import is_withheld, kind, nearest, shown, shown_name
from polygon_live.model import canonical_symbol
from polygon_live.operational import ALL_PAIRS, Limits, Operational

MOST_SYMBOLS: Final = 2000
"""Polygon lists some 1,200 pairs."""
MOST_TOLD: Final = 100
"""Faults, and ignored names. Beyond, only how many: the Hub may hold a megabyte of nonsense."""
MOST_DEPTH: Final = 8
"""So deep it is looked whether an unknown object holds nothing but addresses and secrets."""

_DOCUMENT: Final = document(Operational())
KNOWN: Final = (*flat(_DOCUMENT), VALIDATION, ROOT)
RANGES: Final[Mapping[str, tuple[float, float]]] = {
    f"{ROOT}.websocket_reconnect_delay": (0.1, 3600),
    f"{ROOT}.rate_limit_per_second": (0.1, 1000),
    f"{VALIDATION}.max_spread_bps": (1, 20_000),  # at 20,000 the bid is nothing; ordinary spreads are below 10
    f"{VALIDATION}.max_price_factor": (1.01, 1000),  # at 1 every price would be refused
    f"{VALIDATION}.reanchor_ticks": (2, 1000),  # one alone can't agree with another
    f"{VALIDATION}.reanchor_agreement_bps": (0.1, 10_000),
    f"{VALIDATION}.suspect_jump_bps": (0.1, 100_000),
    f"{VALIDATION}.max_future_seconds": (1, 86_400),  # the table is ready for 24 hours ahead
    f"{VALIDATION}.max_age_seconds": (60, 72 * 3600),  # the table keeps three days
}
"""From and to, both allowed."""
WHOLE: Final = frozenset({f"{VALIDATION}.reanchor_ticks"})


@attrs.frozen
class Reading:
    """Either a configuration or faults."""

    operational: Operational | None
    faults: tuple[str, ...]
    """One sentence for each thing to mend."""
    ignored: tuple[str, ...]
    """Dotted names of keys that look like addresses or secrets."""

    def taken(self) -> Operational:
        """The configuration. Raises ConfigurationRefused with every fault if it can't be one."""
        if self.operational is None:
            raise ConfigurationRefused(*self.faults)
        return self.operational


def read(found: object) -> Reading:
    """Judge a whole configuration, merged already over the safe defaults; of a key that is missing all the same, the
    default holds. Never raises, whatever JSON it is given.
    """
    reader = _Reader()
    operational = reader.read(found)
    faults = reader.faults.told("faults")
    return Reading(None if faults else operational, faults, reader.ignored.told("names"))


class _Told:
    """Sentences, of which only so many are kept."""

    def __init__(self) -> None:
        self._first: list[str] = []
        self._more = 0

    @property
    def full(self) -> bool:
        return len(self._first) >= MOST_TOLD

    def add(self, sentence: str) -> None:
        if self.full:
            self._more += 1
        else:
            self._first.append(sentence)

    def told(self, what: str) -> tuple[str, ...]:
        return (*self._first, f"and {self._more} more {what}") if self._more else tuple(self._first)


class _Reader:
    def __init__(self) -> None:
        self.faults = _Told()
        self.ignored = _Told()

    def read(self, found: object) -> Operational:
        root = self._object("", found, _DOCUMENT)
        keys = self._object(ROOT, root.get(ROOT, {}), _DOCUMENT[ROOT])
        validation = self._object(VALIDATION, keys.get("validation", {}), _DOCUMENT[ROOT]["validation"])
        default = Operational()
        limits: dict[str, Any] = {
            name: self._number(VALIDATION, name, validation, default.limits) for name in attrs.fields_dict(Limits)
        }
        return Operational(
            symbols=self._symbols(keys["symbols"]) if "symbols" in keys else default.symbols,
            websocket_reconnect_delay=self._number(ROOT, "websocket_reconnect_delay", keys, default),
            rate_limit_per_second=self._number(ROOT, "rate_limit_per_second", keys, default),
            limits=Limits(**limits),
        )

    def _object(self, at: str, found: object, known: Mapping[str, Any]) -> Mapping[str, Any]:
        """What it holds of the known keys. The others are ignored or at fault."""
        if not isinstance(found, Mapping):
            place = at or "the configuration"
            # Not even a text: it may be JSON that was encoded twice.
            self.faults.add(f"{place} is {kind(found)}: it must be an object with {_listed(known)}")
            return {}
        for name, value in found.items():
            if name not in known:
                self._unknown(at, name, value, known)
        return {name: value for name, value in found.items() if name in known}

    def _unknown(self, at: str, name: str, value: object, known: Mapping[str, Any]) -> None:
        place = f"{at}." if at else ""
        withheld = _withheld(name, value)
        if withheld is not None:
            for inner in withheld:
                self.ignored.add(place + inner)
            return
        meant = None if self.faults.full else nearest(name, KNOWN)  # a search, which is not made a million times
        hint = f"the nearest one is {meant}" if meant else f"known there: {_listed(known)}"
        self.faults.add(f"{place}{shown_name(name)} is not a known key; {hint}")

    def _symbols(self, found: object) -> tuple[str, ...]:
        if not isinstance(found, list):
            self.faults.add(f'{SYMBOLS} is {shown(found)}: it must be a list like ["EURUSD", "XAUUSD"]')
            return ()
        if not found:
            self.faults.add(f'{SYMBOLS} is empty: at least one is needed; all pairs are ["{ALL_PAIRS}"]')
        symbols = dict.fromkeys(s for n, each in enumerate(found) if (s := self._symbol(n, each)) is not None)
        if ALL_PAIRS in symbols and len(symbols) > 1:
            self.faults.add(f'{SYMBOLS} has all pairs beside others: all pairs are ["{ALL_PAIRS}"] alone')
        if len(symbols) > MOST_SYMBOLS:
            self.faults.add(
                f'{SYMBOLS} has {len(symbols)} of them: at most {MOST_SYMBOLS}; all pairs are ["{ALL_PAIRS}"]'
            )
        return tuple(symbols)

    def _symbol(self, number: int, found: object) -> str | None:
        if isinstance(found, str):
            if found in {ALL_PAIRS, "C.*", "c.*", "C:*", "c:*"}:
                return ALL_PAIRS
            try:
                return canonical_symbol(found)
            except ValueError:
                pass
        self.faults.add(f"{SYMBOLS}[{number}] is {shown(found)}: it must be a currency pair like EURUSD or EUR/USD")
        return None

    def _number(self, at: str, name: str, keys: Mapping[str, Any], default: object) -> float:
        """In its range, else the default and a fault."""
        usual: float = getattr(default, name)
        place = f"{at}.{name}"
        found = keys.get(name, usual)
        least, most = RANGES[place]
        # Compared before it is made a float: NaN fails, and JSON's whole numbers have no bound.
        if isinstance(found, int | float) and not isinstance(found, bool) and least <= found <= most:
            if place not in WHOLE:
                return float(found)
            if float(found).is_integer():
                return int(found)
        kind = "a whole number" if place in WHOLE else "a number"
        self.faults.add(f"{place} is {shown(found)}: it must be {kind} from {least:g} to {most:g}")
        return usual


def _withheld(name: str, value: object) -> list[str] | None:
    """The dotted names of it, if all of it is addresses and secrets; None if something is not.

    ``{"nats": {"url": …, "token": …}}`` is; what it holds beside those was meant to do something.
    """
    names: list[str] = []
    left = [("", name, value, 0)]
    while left:
        place, key, inner, depth = left.pop()
        if is_withheld(key):
            names.append(place + shown_name(key))
        elif isinstance(inner, Mapping) and inner and depth < MOST_DEPTH:
            left += [(f"{place}{shown_name(key)}.", k, v, depth + 1) for k, v in inner.items()]
        else:
            return None
    return names


def _listed(known: Mapping[str, Any]) -> str:
    return ", ".join(known)
