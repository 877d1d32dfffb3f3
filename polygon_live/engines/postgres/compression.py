"""TimescaleDB's compression of chunks: switched on, looked at, and done by hand. Of the community edition only."""

from functools import partial
from typing import Final

import psycopg
import structlog
from psycopg import sql

from polygon_live.engines.postgres.connection import Connection
from polygon_live.engines.postgres.extension import Extension
from polygon_live.engines.postgres.policies import COMPRESS_AFTER, add_compression_policy, compression_job, has_policy
from polygon_live.engines.postgres.storage import About, Compression, TableName

log = structlog.get_logger()

COMPRESS_SECONDS: Final = 600.0
"""For one. A chunk of an hour takes seconds, one of a day that somebody has made may take minutes."""


def is_enabled(connection: Connection, table: TableName) -> bool:
    """Whether its chunks can be compressed."""
    asked = """
        select compression_enabled from timescaledb_information.hypertables
        where (hypertable_schema, hypertable_name) = (%s, %s)"""
    return connection.execute(asked, [table.schema, table.name]).fetchone() == (True,)


def enable(connection: Connection, table: TableName, extension: Extension) -> None:
    """Switch it on, with a policy. Without it the table works as well, and is larger."""
    try:
        with connection.transaction():
            if not is_enabled(connection, table):
                statement = (
                    "alter table {} set (timescaledb.compress, timescaledb.compress_segmentby = 'symbol', "
                    "timescaledb.compress_orderby = 'time desc, seq desc')"
                )
                connection.execute(sql.SQL(statement).format(table.quoted))
            add_compression_policy(connection, table, extension)
    except psycopg.Error as why:
        if connection.broken:
            raise
        log.warning("old chunks will not be compressed", table=str(table), why=" ".join(str(why).split()))


def about(connection: Connection, table: TableName, extension: Extension) -> About:
    """In a word."""
    if not extension.community:
        return {"compression": "none: not in this edition"}
    if not has_policy(connection, table, "policy_compression"):
        return {"compression": "none: the log says why"}
    return {"compression": "by policy"}


def settings(connection: Connection, table: TableName, extension: Extension) -> About:
    """In detail."""
    if not extension.community:
        return {"compression": "none: not in this edition"}
    if not is_enabled(connection, table):
        return {"compression": "off: polygon-live run switches it on, and its log says why it can't"}
    asked = """
        select segmentby, orderby from timescaledb_information.hypertable_compression_settings
        where hypertable = %s::oid::regclass"""
    found = connection.execute(asked, [table.oid]).fetchone() or (None, None)
    job = compression_job(connection, table)
    return {
        "compression": f"on, segmented by {found[0] or 'nothing'}, ordered by {found[1] or 'nothing'}",
        **(
            job.about("compression_policy") if job else {"compression_policy": "none: no chunk is compressed by itself"}
        ),
    }


def compression(connection: Connection, table: TableName, extension: Extension) -> Compression | None:
    """By hand; None where it is not to be had, or switched off."""
    if not extension.community or not is_enabled(connection, table):
        return None
    job = compression_job(connection, table)
    return Compression(job.after if job else COMPRESS_AFTER, partial(_compress, table, extension))


def _compress(table: TableName, extension: Extension, connection: Connection, chunk: str) -> None:
    asked = """
        select format('%%I.%%I', chunk_schema, chunk_name) from timescaledb_information.chunks
        where chunk_name = %s and (hypertable_schema, hypertable_name) = (%s, %s) and not is_compressed"""
    statement = sql.SQL("select {}(%s::regclass, true)").format(extension.function("compress_chunk"))
    with connection.transaction():
        connection.execute("select set_config('statement_timeout', %s, true)", [f"{COMPRESS_SECONDS * 950:.0f}"])
        connection.execute("set local lock_timeout = '3s'")
        for (name,) in connection.execute(asked, [chunk, table.schema, table.name]).fetchall():
            connection.execute(statement, [name])
