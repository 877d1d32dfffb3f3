"""What PostgreSQL's errors mean for us: one table, from SQLSTATE to whose fault it is and whether trying again helps.

A code that is not in the table is taken as "away": the same ticks are tried again, so none is set aside by mistake and
none is lost, and the engine's own words stand in the state until somebody reads them.

A connection that does not come about has no code in libpq, only words. The server's words are known here in English;
said in another language they too are taken as "away".
"""

from collections.abc import Mapping
from typing import Final

import psycopg

from polygon_live.errors import RowsRefused, StoreError, StoreMisconfigured, StoreUnavailable

VARIABLE: Final = "POLYGON_LIVE_TIMESCALE_DSN"

_KINDS: Final[Mapping[str, type[StoreError]]] = {
    # Five characters are one code, two a class; the code goes first.
    "08": StoreUnavailable,  # the connection broke
    "25": StoreUnavailable,  # transaction state; 25006 is a standby after a failover, or somebody's setting
    "40": StoreUnavailable,  # deadlock, serialization: the same again will do
    "53": StoreUnavailable,  # disk full, out of memory, too many connections
    "55": StoreUnavailable,  # a lock was not to be had
    "57": StoreUnavailable,  # shut down, starting, cancelled, statement over its time
    "58": StoreUnavailable,  # input/output error beside the database
    "22": RowsRefused,  # the value can't be held: too long, too large, not in the character set
    "23": RowsRefused,  # a constraint of the table forbids it
    # Keys and NOT NULL say nothing about the ticks, which differ in seq and lack nothing: somebody changed the table,
    # and the next set-up names what is in the way.
    "23502": StoreMisconfigured,
    "23505": StoreMisconfigured,
    "23P01": StoreMisconfigured,
    # The two below are said when a column's type was changed under an open connection: the ticks are innocent, and
    # the next connection finds the new types.
    "22P03": StoreUnavailable,
    "22P04": StoreUnavailable,
    "0A": StoreMisconfigured,  # not supported, e.g. COPY under row-level security
    "28": StoreMisconfigured,  # wrong user or password
    "3D": StoreMisconfigured,  # no such database
    "3F": StoreMisconfigured,  # no such schema
    "42": StoreMisconfigured,  # no such table or column, no permission
    "57P04": StoreMisconfigured,  # the database was dropped
    "F0": StoreMisconfigured,  # the server's configuration file
    "P0": RowsRefused,  # a trigger raised it; one that refuses every tick is met by the pump
    "XX001": StoreMisconfigured,  # corrupted data
    "XX002": StoreMisconfigured,  # corrupted index
}

_ADVICE: Final[Mapping[str, str]] = {
    "0A": "this use of the table is not possible: remove what the message names",
    "23": "the table was given a key or a NOT NULL that refuses good ticks: drop it",
    "25006": (
        "let this database or role write again (alter database … set default_transaction_read_only = off, alter role … "
        f"likewise); if the server is a standby, name the primary in {VARIABLE}"
    ),
    "28": f"correct user and password in {VARIABLE}",
    "3D": f"create the database, or correct its name in {VARIABLE}",
    "3F": f"create the schema, or correct search_path in {VARIABLE}",
    "42": "if the table was changed, the next try sets it up again; else correct what the message names",
    "42501": f"grant usage, create on the schema to the role in {VARIABLE}, and let it own the table",
    "55P03": "somebody holds the table, or sets it up: see pg_stat_activity for an open transaction, and end it",
    "57P04": f"create the database again, or correct its name in {VARIABLE}",
    "XX001": "the database is damaged: restore it",
    "XX002": "an index is damaged: REINDEX it",
}

_REFUSED_WORDS: Final = (
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "pg_hba.conf rejects",
    "is not permitted to log in",
    "permission denied for database",
    "certificate",
    "but SSL was required",
    "authentication method requirement",
    "connection is bad: invalid",
    "for connection option",
    "unrecognized configuration parameter",
)


def kind_of(sqlstate: str) -> type[StoreError]:
    """What an SQLSTATE (five characters) means for the ticks that were being written."""
    return _KINDS.get(sqlstate) or _KINDS.get(sqlstate[:2]) or StoreUnavailable


def store_error(why: psycopg.Error) -> StoreError:
    """The engine's error as one of ours, in the engine's words and, where somebody must act, with what to do."""
    said = " ".join(str(why).split())
    if why.sqlstate:
        kind = kind_of(why.sqlstate)
        advice = _ADVICE.get(why.sqlstate) or _ADVICE.get(why.sqlstate[:2])
        return kind(f"{said}: {advice}" if advice and kind is not RowsRefused else said)
    if isinstance(why, psycopg.DataError):
        return RowsRefused(said)
    if isinstance(why, psycopg.ProgrammingError) or _refused_to_let_us_in(said):
        return StoreMisconfigured(f"{said}: correct {VARIABLE}, or the server's settings")
    return StoreUnavailable(said)


def _refused_to_let_us_in(said: str) -> bool:
    missing = "does not exist" in said and ("role " in said or "database " in said)
    return missing or any(words in said for words in _REFUSED_WORDS)
