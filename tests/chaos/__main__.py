"""``just chaos``: the long form, on Apache Kafka, PostgreSQL and JetStream; prints what is done, and the account.

``POLYGON_LIVE_KAFKA_CLIENT`` chooses the collector's library for Kafka, as it does in life.
"""

import argparse
import os
import random
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import trio

from polygon_live.commands.progress import Progress
from polygon_live.embedded import Nats, Postgres
from tests import servers, writers
from tests.chaos.siege import besiege
from tests.engines.kafka import Kafka
from tests.place import Place


def main() -> None:
    parser = argparse.ArgumentParser(prog="just chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of the collector; %(default)s")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="one at random")
    parser.add_argument("--per-second", type=int, default=500, help="quotes; %(default)s")
    asked = parser.parse_args()
    log_path = Path(tempfile.gettempdir(), f"chaos-{asked.seed}.log")
    log_path.unlink(missing_ok=True)
    sys.stderr.write(f"seed {asked.seed}; what the collector logs is in {log_path}\n")
    with Progress() as progress, ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        folder.chmod(0o755)
        progress.wait("starting PostgreSQL and NATS")
        postgres = ending.enter_context(servers.servers(_cluster, folder))()
        nats = ending.enter_context(servers.servers(Nats, folder))()
        kafka = ending.enter_context(servers.servers(Kafka, folder))(start=False)
        base = {"PATH": os.environ["PATH"], "HOME": str(folder), writers.VARIABLE: writers.library()}
        place = Place(postgres, nats, kafka, base, log_path)
        account = trio.run(_besiege, place, progress, asked)
        with progress.hidden():
            print(account)  # noqa: T201
        progress.wait("ending the servers")


async def _besiege(place: Place, progress: Progress, asked: argparse.Namespace) -> object:
    return await besiege(place, progress, kills=asked.kills, seed=asked.seed, per_second=asked.per_second)


def _cluster(folder: Path) -> Postgres:
    return Postgres(folder, fsync=False)


if __name__ == "__main__":
    main()
