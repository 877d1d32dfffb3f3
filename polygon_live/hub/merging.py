"""What is done with JSON documents: laid over one another, copied, told apart, and relieved of secrets."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from polygon_live.document import DIGEST_CHARACTERS
from polygon_live.keys import is_withheld

DEEPEST: Final = 64
"""Objects and lists inside one another. A configuration has three; the bound keeps recursion harmless."""


def merged(base: Any, over: Any) -> Any:
    """``over`` laid over ``base``: objects key by key, everything else (lists and null too) as a whole.

    Neither is changed, but the answer shares parts with both: see ``copied``.
    """
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return over
    return {**base, **{name: merged(base[name], value) if name in base else value for name, value in over.items()}}


def copied(document: Any) -> Any:
    """The same in plain JSON types, shared with nobody. Raises TypeError or ValueError if that can't be."""
    return json.loads(json.dumps(document, allow_nan=False))


def digest(document: Any) -> str:
    """A short name for the content, whatever the order of its keys: hex of SHA-256 over canonical JSON."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_CHARACTERS]


def is_deep(document: Any) -> bool:
    """Whether it is deeper than ``DEEPEST``."""
    level = [document]
    for _ in range(DEEPEST):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return False
    return any(isinstance(value, dict | list) for value in level)


def without_secrets(document: Any) -> Any:
    """All of it but the keys whose name looks like a secret or an address, and the texts with a password inside."""
    if isinstance(document, Mapping):
        return {
            name: without_secrets(value)
            for name, value in document.items()
            if not is_withheld(name) and not _has_password(value)
        }
    if isinstance(document, list):
        return [without_secrets(value) for value in document if not _has_password(value)]
    return document


def decoded(data: bytes | str) -> Any:
    """What a JSON text says. Raises ValueError if it is none, or too deep."""
    try:
        found = msgspec.json.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as why:
        raise ValueError("no JSON") from why
    if is_deep(found):
        raise ValueError(f"more than {DEEPEST} levels deep")
    return found


def _has_password(value: Any) -> bool:
    """Whether it is an address with somebody's name in it."""
    try:
        return isinstance(value, str) and "://" in value and urlsplit(value).username is not None
    except ValueError:  # it begins like one, and can't be taken apart
        return True
