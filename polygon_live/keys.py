"""Names of keys that a configuration must not hold, and how anything in it is told: short, escaped, or not at all."""

import difflib
import re
from collections.abc import Collection
from typing import Final

from polygon_live.model import evidence

SHOWN: Final = 40
"""Characters of a name or a value."""
_ENVIRONMENT: Final = ("polygon_live_", "polygon_api_key")
"""How the variables begin that hold addresses and secrets (``config.py``)."""
_PARTS: Final = ("password", "passwd", "passphrase", "secret", "token", "credential", "apikey", "privatekey", "broker")
"""Wherever they stand in a name."""
_WORD: Final = re.compile(
    r"(ur[li]|host|hostname|address|addr|endpoint|server|port|key|cred|cert|certificate|user|username)(s|es)?"
    r"|dsn|proxy|bootstrap|pass|pwd|auth|authorization|login|pem|jwt|bearer|nkey"
)
"""Alone in a name, or one of its words."""


def is_withheld(name: str) -> bool:
    """Whether it looks like an address, a secret or an environment variable of ours: those don't come from the Hub."""
    fold = name.casefold()
    if fold.startswith(_ENVIRONMENT):
        return True
    squeezed = re.sub(r"[^a-z0-9]", "", fold)
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return any(part in squeezed for part in _PARTS) or any(_WORD.fullmatch(word.casefold()) for word in words)


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known dotted name that this was probably meant to be, by its last part or as a whole."""
    candidates = {dotted.rpartition(".")[2]: dotted for dotted in known} | {dotted: dotted for dotted in known}
    found = difflib.get_close_matches(name[:SHOWN].casefold(), candidates, 1, 0.6)
    return candidates[found[0]] if found else None


def shown_name(name: str) -> str:
    """A key, fit for any output."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name) else shown_text(name)


def shown_text(text: str) -> str:
    """In quotes, cut, without anything that a terminal would obey."""
    cut = evidence(text[: SHOWN + 1])
    return repr(cut[:SHOWN] + "…" if len(cut) > SHOWN else cut)


def shown(value: object) -> str:
    """A value of a known key. Of a container only the kind: what is in it may be a secret."""
    match value:
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case str():
            return shown_text(value)
        case int():
            return str(value) if abs(value) < 10**SHOWN else "a number of more than 40 digits"
        case float():
            return repr(value)
        case _:
            return kind(value)


def kind(value: object) -> str:
    """What it is, in JSON's words. Never the value: it may be a secret."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list() | tuple():
            return "a list"
        case _:
            return "an object"
