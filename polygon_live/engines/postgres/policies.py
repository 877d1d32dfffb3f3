"""TimescaleDB's policies on a hypertable: made, mended, and looked at.

A policy is a job that the database starts by itself, by its own clock. What of it is ours to change:

- One that is missing is made. One that drops too early, runs too seldom or is paused is set right: none of that loses a
  tick that somebody wanted.
- One that keeps longer than three days was meant so by somebody. To shorten it would destroy what he keeps, so it is
  left, nothing is dropped by us either, and the retention counts as unverified until he decides.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import attrs
import psycopg
import structlog
from psycopg import sql

from polygon_live.engines.postgres.connection import Connection
from polygon_live.engines.postgres.extension import Extension
from polygon_live.engines.postgres.storage import HOUR, KEPT, About, TableName

log = structlog.get_logger()

EVERY: Final = timedelta(minutes=15)
"""How often the retention runs: no tick is then older than 73 h 15 min."""
SILENT: Final = timedelta(minutes=90)
"""A job that has not run for so long is not relied on. After failures it waits for up to five of its intervals."""
COMPRESS_AFTER: Final = timedelta(hours=24)


@attrs.frozen
class Job:
    """A policy's job as it is, and the database's clock when it was asked."""

    job: int
    after: timedelta
    """It drops, or compresses, chunks whose end is so long ago."""
    every: timedelta
    scheduled: bool
    last_run: datetime | None
    last_result: str | None
    """``Success`` or ``Failed``, as the job recorded it: on some versions it is wrong."""
    last_success: datetime | None
    failures: int
    clock: datetime
    last_failure: str | None = None
    """When, and in its own words; only the latest month is kept by the database, and for who may see it."""

    def about(self, called: str) -> About:
        """For the state; ``called`` begins each name."""
        does = "drops" if called == "policy" else "compresses"
        return {
            called: f"job {self.job}: {does} after {_hours(self.after)}, every {self.every}"
            f"{'' if self.scheduled else ', paused'}",
            f"{called}_last_run": self.last_run.isoformat() if self.last_run else None,
            f"{called}_last_result": self.last_result,
            f"{called}_last_success": self.last_success.isoformat() if self.last_success else None,
            f"{called}_failures": self.failures,
            f"{called}_last_failure": self.last_failure,
        }


@attrs.frozen
class RetentionPolicy(Job):
    """The policy that drops."""

    @property
    def drop_after(self) -> timedelta:
        """Three days, it is hoped."""
        return self.after

    @property
    def name(self) -> str:
        """For people, who find the job by it."""
        return f"the retention policy (job {self.job})"

    @property
    def right(self) -> bool:
        """Whether it does what it should, or more than we may take away."""
        return self.drop_after >= KEPT and self.every <= EVERY and self.scheduled

    @property
    def runs(self) -> bool:
        """Whether it has run lately."""
        return self.last_run is not None and self.clock - self.last_run <= SILENT

    @property
    def silence(self) -> str:
        """What to say when it does not run."""
        since = f"since {self.last_run.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if self.last_run else "yet"
        return f"{self.name} has not run {since}; if it never does: are there background workers for this database?"

    @property
    def failure(self) -> str | None:
        """What to say when nothing is left to drop, and its record says something else."""
        if self.last_result != "Failed":
            return None
        return f"{self.name} is recorded as failed, but what is past is gone: see timescaledb_information.job_errors"

    def keeps_longer(self, table: TableName) -> str:
        """That somebody wants more than three days."""
        call = f'select alter_job({self.job}, config => config || \'{{"drop_after": "72:00:00"}}\')'
        return (
            f"{self.name} keeps {self.drop_after}, and {table} is meant to hold three days: nothing is dropped before "
            f"that; to have three days: {call} from timescaledb_information.jobs where job_id = {self.job}"
        )

    def too_early(self, edge: datetime) -> str | None:
        """That it takes away too much; ``edge`` is what is three days old by both clocks, and it goes by its own."""
        if self.drop_after < KEPT:
            return f"{self.name} drops after {self.drop_after} already, and is not ours to change: let its owner do it"
        ahead = self.clock - KEPT - edge
        if ahead <= HOUR:
            return None
        return (
            f"the database's clock is {ahead} ahead of ours, and {self.name} goes by it, so ticks are dropped before "
            "they are three days old: set the clocks right"
        )


def settle_retention(
    connection: Connection, table: TableName, extension: Extension
) -> tuple[RetentionPolicy | None, str | None]:
    """The table's policy, made or set right; and if that can't be done, why."""
    found = retention_job(connection, table)
    if found and found.right:
        return found, None
    try:
        with connection.transaction():
            if found is None:
                add = sql.SQL("select {}(%s::oid::regclass, drop_after => %s, schedule_interval => %s)")
                name = extension.function("add_retention_policy")
                connection.execute(add.format(name), [table.oid, KEPT, EVERY])
                log.info("retention policy added", table=str(table))
            else:
                _set_right(connection, extension, found)
                log.warning("retention policy set right", table=str(table), before=found.about("policy")["policy"])
    except psycopg.Error as why:
        if connection.broken:
            raise
        said = " ".join(str(why).split())
        log.warning("retention policy can't be set up", table=str(table), why=said)
        return found, f"the retention policy can't be set up: {said}"
    return retention_job(connection, table), None


def _set_right(connection: Connection, extension: Extension, found: RetentionPolicy) -> None:
    change = """
        select {}(%s, schedule_interval => least(schedule_interval, %s), scheduled => true,
            config => case when %s then config else
                config - 'drop_created_before' || jsonb_build_object('drop_after', %s::interval) end)
        from timescaledb_information.jobs where job_id = %s"""
    connection.execute(
        sql.SQL(change).format(extension.function("alter_job")),
        [found.job, EVERY, found.drop_after >= KEPT, KEPT, found.job],
    )


def retention_job(connection: Connection, table: TableName) -> RetentionPolicy | None:
    """None: there is no such policy. Raises psycopg.Error."""
    found = _job_of(connection, table, "policy_retention", "drop_after")
    return RetentionPolicy(*found) if found else None


def compression_job(connection: Connection, table: TableName) -> Job | None:
    """None: there is no such policy. Raises psycopg.Error."""
    found = _job_of(connection, table, "policy_compression", "compress_after")
    return Job(*found) if found else None


def _job_of(connection: Connection, table: TableName, procedure: str, after: str) -> tuple[Any, ...] | None:
    asked = """
        select j.job_id, coalesce((j.config ->> %s)::interval, '0'), j.schedule_interval, j.scheduled,
               nullif(s.last_run_started_at, '-infinity'), s.last_run_status,
               nullif(s.last_successful_finish, '-infinity'), coalesce(s.total_failures, 0), clock_timestamp(),
               (select format('%%s: %%s', to_char(e.finish_time at time zone 'UTC', 'YYYY-MM-DD HH24:MI "UTC"'),
                              e.err_message)
                from timescaledb_information.job_errors e where e.job_id = j.job_id
                order by e.finish_time desc nulls last limit 1)
        from timescaledb_information.jobs j
        left join timescaledb_information.job_stats s using (job_id)
        where j.proc_name = %s and (j.hypertable_schema, j.hypertable_name) = (%s, %s)"""
    return connection.execute(asked, [after, procedure, table.schema, table.name]).fetchone()


def has_policy(connection: Connection, table: TableName, procedure: str) -> bool:
    """Whether the table has one of this kind."""
    asked = """
        select from timescaledb_information.jobs
        where proc_name = %s and (hypertable_schema, hypertable_name) = (%s, %s)"""
    return connection.execute(asked, [procedure, table.schema, table.name]).rowcount > 0


def add_compression_policy(connection: Connection, table: TableName, extension: Extension) -> None:
    """Raises psycopg.Error."""
    add = sql.SQL("select {}(%s::oid::regclass, compress_after => %s, schedule_interval => %s)")
    name = extension.function("add_compression_policy")
    connection.execute(add.format(name), [table.oid, COMPRESS_AFTER, HOUR])
    log.info("old chunks will be compressed", table=str(table), after=_hours(COMPRESS_AFTER))


def _hours(span: timedelta) -> str:
    return f"{span / HOUR:g} h"
