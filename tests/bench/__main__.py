"""``just bench [PART …]``: measures, prints a table, and with ``--json`` writes it for ``just bench-compare``.

The whole daemon runs as a process of its own against three real stores and a sender (``tests/bench/sender.py``), all of
them on this machine. Use it while you change something::

    just bench sustained                         # what three stores take, at 20 events a frame and at 1
    just bench sustained steady --seconds 20      # longer measurements
    just bench sustained --kafka-client confluent --json /tmp/after.json
    just bench-compare /tmp/before.json /tmp/after.json
"""

import argparse
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import trio

from polygon_live import logs
from polygon_live.commands.progress import Progress
from tests.bench import machine, macro, micro
from tests.bench.load import Options
from tests.bench.report import HEAD, Figure, line, say, written

PARTS = {
    part.__name__: part
    for part in (
        macro.sender, macro.sustained, macro.steady, macro.idle, macro.scaling, macro.backlog, macro.start, micro.micro,
    )
}  # fmt: skip


def main(arguments: list[str] | None = None) -> list[Figure]:
    parser = argparse.ArgumentParser(prog="just bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--seconds", type=float, default=10.0, help="of one measurement; %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it there")
    parser.add_argument("--kafka-client", help="the collector's POLYGON_LIVE_KAFKA_CLIENT")
    parser.add_argument("--broker", choices=("apache", "embedded"), default="apache", help="%(default)s")
    parser.add_argument("--stream", action="store_true", help="a JetStream stream keeps the ticks")
    parser.add_argument("--backlog", type=int, default=1_000_000, metavar="TICKS", help="%(default)s")
    parser.add_argument(
        "--away", choices=("timescale", "kafka"), default="timescale", help="the store that has it; %(default)s"
    )
    asked = parser.parse_args(arguments)
    if unknown := [part for part in asked.parts if part not in PARTS]:
        parser.error(f"there is no part {unknown[0]!r}, but {', '.join(PARTS)}")
    logs.configure("warning", "console", ())
    facts = machine.facts()
    figures: list[Figure] = []
    with Progress() as progress:

        def tell(figure: Figure) -> None:
            figures.append(figure)
            with progress.hidden():
                say(line(figure))

        say(f"{facts['cores']} cores of {facts['processor']}, Python {facts['python']}; {facts['place']}")
        say(HEAD)
        if not machine.quiet():
            sys.stderr.write(f"the machine is busy (load {facts['load_at_start']}): only ratios within this run hold\n")
        options = Options(asked.kafka_client, asked.broker, asked.stream)

        async def measure() -> None:
            async with AsyncExitStack() as ending:
                bench = macro.Bench(options, asked.seconds, asked.backlog, asked.away, tell, progress.wait, ending)
                for part in asked.parts or PARTS:
                    await PARTS[part](bench)
                facts["servers"] = bench.servers
                with progress.hidden():
                    say("; ".join(f"{name} {version}" for name, version in bench.servers.items()))

        try:
            trio.run(measure)
        finally:
            if asked.json:
                written(asked.json, facts, figures)
    return figures


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # Trio ends, and with it the servers
    main()
