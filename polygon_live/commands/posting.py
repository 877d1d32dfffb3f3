"""A configuration in a file, before it is posted: what the collector would make of it."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import click

from polygon_live.document import document, named
from polygon_live.hub import merged
from polygon_live.keys import shown_name
from polygon_live.operational import Operational
from polygon_live.reading import Reading, read

MOST_BYTES: Final = 2**20
"""The collector takes no larger answer of the Hub's."""


@attrs.frozen
class Posting:
    """What is in the file, as far as the collector is concerned."""

    name: str
    reading: Reading
    given: frozenset[str]
    """Dotted names that it gives a value. Of all others a POST makes the safe defaults."""
    doubled: tuple[str, ...]
    """Keys that stand twice in one object: the last one counts."""


class Unreadable(click.ClickException):
    """No configuration at all: exit code 2."""

    exit_code = 2


def posting(file: str) -> Posting:
    """Read a file, ``-`` for standard input. Raises Unreadable."""
    name = "standard input" if file == "-" else file
    try:
        body = sys.stdin.buffer.read(MOST_BYTES + 1) if file == "-" else _start_of(Path(file))
    except OSError as why:
        raise Unreadable(f"{name} can't be read: {why.strerror}") from None
    if len(body) > MOST_BYTES:
        fault = f"it has more than {MOST_BYTES // 2**20} MiB, which the collector does not take"
        return Posting(name, Reading(None, (fault,), ()), frozenset(), ())
    doubled: list[str] = []
    found = _decoded(name, body, doubled)
    return Posting(name, read(merged(document(Operational()), found)), named(found), tuple(doubled))


def _start_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MOST_BYTES + 1)


def _decoded(name: str, body: bytes, doubled: list[str]) -> Any:
    def once(pairs: Sequence[tuple[str, Any]]) -> Mapping[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [key for key, _value in pairs]
            doubled.extend(shown_name(key) for key in found if names.count(key) > 1)
        return found

    try:
        return json.loads(body.decode("utf-8-sig"), object_pairs_hook=once)
    except json.JSONDecodeError as why:
        raise Unreadable(f"{name} is no JSON: {why.msg} in line {why.lineno}, column {why.colno}") from None
    except UnicodeDecodeError:
        raise Unreadable(f"{name} is no JSON: it is not UTF-8") from None
    except (ValueError, RecursionError):
        raise Unreadable(f"{name} is no JSON that can be used: too deep, or a number of thousands of digits") from None
