"""The columns of the table of ticks, and how a tick's values travel into the types that these columns have.

Our own table has the types named here. A table of the platform that was there before us may have others; what to do
about each is decided once, when the connection is made, and then holds for whole batches: a column is one iterator over
the ticks, so that the rows are put together without a Python instruction for each value.

Binary COPY carries an instant as a 64-bit count of microseconds since 2000, with and without time zone alike
(PostgreSQL, ``timestamp_recv``); so a millisecond travels exactly, and no datetime is made.
"""

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import repeat
from operator import attrgetter
from typing import Any, Final

import attrs

from polygon_live.errors import RowsRefused
from polygon_live.model import Tick

Values = Iterable[Any]


class Kind(enum.Enum):
    """What a value is, whatever the type of its column."""

    INSTANT = enum.auto()
    """Unix milliseconds."""
    PRICE = enum.auto()
    WHOLE = enum.auto()
    """A count or an instant in 64 bits."""
    CODE = enum.auto()
    """A small number that is somebody's name, or None."""
    TEXT = enum.auto()
    FLAG = enum.auto()


@attrs.frozen
class Column:
    """One column that we fill. ``tick`` is the tick's attribute; None for what is the same in all our ticks."""

    name: str
    kind: Kind
    type: str
    """In our own table, as PostgreSQL spells it."""
    tick: str | None
    nullable: bool = False
    default: str | None = None


TIME: Final = Column("time", Kind.INSTANT, "timestamp with time zone", "timestamp_ms")
COLUMNS: Final = (
    TIME,
    Column("symbol", Kind.TEXT, "text", "symbol"),
    Column("bid", Kind.PRICE, "double precision", "bid"),
    Column("ask", Kind.PRICE, "double precision", "ask"),
    Column("mid", Kind.PRICE, "double precision", "mid"),
    Column("spread", Kind.PRICE, "double precision", "spread"),
    Column("timestamp_ms", Kind.WHOLE, "bigint", "timestamp_ms"),
    Column("exchange", Kind.CODE, "integer", "exchange", nullable=True),
    Column("source", Kind.TEXT, "text", "source"),
    Column("event_type", Kind.TEXT, "text", "event_type"),
    Column("tenant_id", Kind.TEXT, "text", None),
    Column("collector", Kind.TEXT, "text", None),
    Column("seq", Kind.WHOLE, "bigint", "seq"),
    Column("received_ms", Kind.WHOLE, "bigint", "received_ms"),
    Column("late", Kind.FLAG, "boolean", "late", default="false"),
    Column("suspect", Kind.FLAG, "boolean", "suspect", default="false"),
    Column("ingested_at", Kind.INSTANT, "timestamp with time zone", "received_ms"),
)

_READ_AS: Final[Mapping[Kind, str]] = {
    Kind.PRICE: "float8",
    Kind.WHOLE: "int8",
    Kind.CODE: "int8",
    Kind.TEXT: "text",
    Kind.FLAG: "bool",
}
TICK_FIELDS: Final = tuple(f"{c.name}::{_READ_AS[c.kind]}" for c in COLUMNS if c.name == c.tick)
"""What to select for a tick, whatever the types of its columns: its fields in order, but for the second timestamp."""


@attrs.frozen
class ColumnWriter:
    """How one column of a batch is written."""

    name: str
    wire: str
    """The type whose binary form is sent; the server reads it as the type of the column."""
    values: Callable[[Sequence[Tick]], Values]


def writer_of(column: Column, type_name: str, constants: Mapping[str, str]) -> ColumnWriter | None:
    """How to write this column when it has this type (``pg_type.typname``, or ``enum``); None if that can't be done.

    ``constants`` has the values of the columns that come from no attribute of the tick.
    """
    way = _WAYS.get((column.kind, type_name))
    if way is None:
        return None
    wire, convert = way
    if column.tick is None:
        constant = constants[column.name]
        return ColumnWriter(column.name, wire, lambda _: repeat(constant))
    take = attrgetter(column.tick)
    if convert is None:
        return ColumnWriter(column.name, wire, lambda ticks: map(take, ticks))
    return ColumnWriter(column.name, wire, lambda ticks: convert(map(take, ticks)))


_FROM_1970_TO_2000_MS: Final = 946_684_800_000


def _microseconds(instants: Values) -> Values:
    return [(ms - _FROM_1970_TO_2000_MS) * 1000 for ms in instants]


def _decimals(prices: Values) -> Values:
    """The shortest decimal that is this float: exactly the number that Polygon wrote."""
    return [Decimal(repr(price)) for price in prices]


def _words(numbers: Values) -> Values:
    return [None if number is None else str(number) for number in numbers]


def _fitting(bits: int) -> Callable[[Values], Values]:
    """An integer too large for its type: psycopg would cut it to its lower bits without a word."""
    above = 1 << (bits - 1)

    def check(numbers: Values) -> Values:
        held = list(numbers)
        for number in set(held):  # few different ones: exchange ids
            if number is not None and not -above <= number < above:
                message = f"{number} does not fit into an integer column of {bits} bits"
                raise RowsRefused(message)
        return held

    return check


_WAYS: Final[Mapping[tuple[Kind, str], tuple[str, Callable[[Values], Values] | None]]] = {
    (Kind.INSTANT, "timestamptz"): ("int8", _microseconds),
    (Kind.INSTANT, "timestamp"): ("int8", _microseconds),  # then it is UTC
    (Kind.PRICE, "float8"): ("float8", None),
    (Kind.PRICE, "float4"): ("float4", None),
    (Kind.PRICE, "numeric"): ("numeric", _decimals),
    (Kind.WHOLE, "int8"): ("int8", None),
    (Kind.WHOLE, "numeric"): ("numeric", None),
    (Kind.CODE, "int8"): ("int8", None),
    (Kind.CODE, "int4"): ("int4", _fitting(32)),
    (Kind.CODE, "int2"): ("int2", _fitting(16)),
    (Kind.CODE, "numeric"): ("numeric", None),
    (Kind.CODE, "text"): ("text", _words),
    (Kind.CODE, "varchar"): ("text", _words),
    (Kind.TEXT, "text"): ("text", None),
    (Kind.TEXT, "varchar"): ("text", None),
    (Kind.TEXT, "bpchar"): ("text", None),
    (Kind.TEXT, "enum"): ("text", None),
    (Kind.FLAG, "bool"): ("bool", None),
}
