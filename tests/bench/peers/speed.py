"""How much each takes, and what a tick costs it: everybody in turn, on the same servers, as fast as he reads."""

import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import attrs

from tests.bench import load, machine
from tests.bench.load import Options
from tests.bench.peers.stage import PEERS, Ear, Stage, listening
from tests.bench.sender import Sender
from tests.place import STORES, Place
from tests.waiting import in_thread

OURS: Final = "polygon-live"
FRAMES: Final = (20, 1)
WARM_SECONDS: Final = 3.0
ASK_SECONDS: Final = 0.02


@attrs.frozen
class Run:
    """One of them, once."""

    name: str
    stores: Sequence[str]
    per_frame: int
    ticks: int
    seconds: float
    """From the first tick's write to the last tick's acknowledgement."""
    cpu_seconds: float
    resident_mib: float
    """The most that it held."""


@attrs.frozen
class Held:
    """What there was to be counted at the end of a round."""

    name: str
    sent: int
    counts: Mapping[str, int]
    """By store: rows, messages, records."""


async def measure(
    folder: Path, python: Path, *, rounds: int, seconds: float, share: float, doing: Callable[[str], None]
) -> tuple[list[Run], list[Held]]:
    """Everybody at every size of frame, in turn, so many times. ``share``: of the peers' ticks."""
    runs: list[Run] = []
    held: list[Held] = []
    async with load.place(folder, Options()) as place:
        stages = [await in_thread(partial(Stage.prepared, place, peer, python)) for peer in PEERS]
        with Sender() as sender, listening(place.nats.url) as ear:
            for n in range(1, rounds + 1):
                for ours, name in enumerate(_ours()):
                    doing(f"round {n}: {name}")
                    collector = f"bench-{n}-{ours}"
                    found = await _collector(
                        attrs.evolve(place, base={**place.base, **_ours()[name]}), name, collector, seconds
                    )
                    runs += found[0]
                    held.append(found[1])
                for stage in stages:
                    for per_frame in FRAMES:
                        doing(f"round {n}: {stage.peer.name}, {per_frame} to a frame")
                        ticks = max(20, round(stage.peer.ticks[per_frame] * share) // 20 * 20)
                        runs.append(await in_thread(partial(_run, stage, sender, per_frame, ticks)))
        for stage in stages:
            doing(f"counting what {stage.peer.name} has delivered")
            sent = sum(run.ticks for run in runs if run.name == stage.peer.name)
            held.append(await in_thread(partial(_held, stage, sent, ear)))
    return runs, held


def _ours() -> Mapping[str, Mapping[str, str]]:
    """As it comes; and with the faster client for Kafka, where that is installed."""
    ways: dict[str, Mapping[str, str]] = {OURS: {}}
    if find_spec("confluent_kafka"):
        ways[f"{OURS}[fast]"] = {"POLYGON_LIVE_KAFKA_CLIENT": "confluent"}
    return ways


async def _collector(place: Place, name: str, collector: str, seconds: float) -> tuple[list[Run], Held]:
    """It is the first on the servers, and so the one who finds them cold: what warms them is not measured."""
    runs = []
    async with load.rig(place, collector) as rig:
        for per_frame in FRAMES:
            await rig.most(per_frame=per_frame, seconds=min(WARM_SECONDS, seconds))
            period = await rig.most(per_frame=per_frame, seconds=seconds)
            peak = _most_resident(rig.running.process.pid)
            runs.append(Run(name, STORES, per_frame, period.ticks, period.seconds, period.cpu["collector"], peak))
        found = await rig.complete()
    counts = {"timescale": found["distinct rows"], "nats": found["messages"], "kafka": found["distinct records"]}
    return runs, Held(name, found["sent"], counts)


def _run(stage: Stage, sender: Sender, per_frame: int, ticks: int) -> Run:
    """One process, from its login to its end in order."""
    process = stage.start(sender.url)
    try:
        sender.subscribed(1)
        time.sleep(0.5)  # whatever it does after it has asked
        before, began = machine.cpu_seconds(process.pid), time.monotonic()
        sender.send(ticks, per_second=None, per_frame=per_frame)
        sender.close()
        status, used, peak = _until_ended(process.pid)
        seconds = time.monotonic() - began
    finally:
        process.kill()
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{stage.peer.module} ended with exit code {code}:\n{stage.log_path.read_text()[-2000:]}")
    cpu = used.ru_utime + used.ru_stime - before
    return Run(stage.peer.name, stage.peer.stores, per_frame, ticks, seconds, cpu, peak)


def _until_ended(pid: int) -> tuple[int, resource.struct_rusage, float]:
    """Its status, what it used, and the most that it held: asked while it runs, for at its end the kernel counts what
    this process held when it began that one.
    """
    peak = 0.0
    while True:
        with suppress(OSError, StopIteration):
            peak = _most_resident(pid)
        ended, status, used = os.wait4(pid, os.WNOHANG)
        if ended:
            return status, used, peak
        time.sleep(ASK_SECONDS)


def _held(stage: Stage, sent: int, ear: Ear) -> Held:
    counted: dict[str, Callable[[], int]] = {
        "timescale": lambda: len(stage.rows()),
        "nats": lambda: ear.heard,
        "kafka": lambda: len(stage.records()),
    }
    return Held(stage.peer.name, sent, {store: counted[store]() for store in stage.peer.stores})


def _most_resident(pid: int) -> float:
    """In MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
