"""Real servers for the tests, and the proof that none of them stays behind."""

import contextlib
import os
import random
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol, TypeVar

import pytest

from polygon_live.embedded import EmbeddedServer, Nats, NotInstalled
from polygon_live.embedded import server as embedded_server
from polygon_live.embedded.server import LOCK_NAME, is_held

S = TypeVar("S", bound=EmbeddedServer)


class Startable(Protocol):
    """A server, or several."""

    def start(self) -> None: ...


R = TypeVar("R", bound=Startable)

SESSION_VARIABLE: Final = "TEST_SESSION"
SESSION: Final = uuid.uuid4().hex
"""Every process that the tests start inherits it, and is found by it. Each of pytest's own processes has another."""
os.environ[SESSION_VARIABLE] = SESSION
WORKERS: Final = 16
"""As many of pytest's processes as ever run at once have ports of their own, one that runs alone beside them too."""
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", f"gw{WORKERS - 1}").removeprefix("gw"))
embedded_server.PORTS = embedded_server.PORTS[_worker % WORKERS :: WORKERS]  # type: ignore[misc]


def running(server: R) -> R:
    """The server, started. Without its package: a skip on a laptop, a failure where CI is set."""
    try:
        server.start()
    except NotInstalled as why:
        if os.environ.get("CI"):
            pytest.fail(str(why), pytrace=False)
        pytest.skip(str(why))
    return server


@contextlib.contextmanager
def servers(make: Callable[[Path], S], folder: Path) -> Iterator[Callable[..., S]]:
    """A factory of servers, each with a folder of its own; all are ended with the block, whatever the test did to them.

    ``start=False``: its address is known, and nobody listens there.
    """
    made: list[S] = []

    def one(*, start: bool = True) -> S:
        server = make(folder / f"{make.__name__.strip('_').lower()}-{len(made)}")
        made.append(server)
        return running(server) if start else server

    try:
        yield one
    finally:
        for server in made:
            server.stop()
            shutil.rmtree(server.data, ignore_errors=True)  # 40 MB a cluster, and pytest keeps three sessions


def left_behind(folder: Path) -> list[str]:
    """A line for each process that a test started and did not end: servers by the locks below ``folder``, everything
    else by the variable it inherited.
    """
    found = [f"a server in {lock.parent}" for lock in folder.rglob(LOCK_NAME) if is_held(lock)]
    wanted = f"{SESSION_VARIABLE}={SESSION}".encode()
    for process in _processes():
        with contextlib.suppress(OSError):  # it is gone, or not ours
            if wanted in (process / "environ").read_bytes().split(b"\0"):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(f"process {process.name}: {command}")
    return found


def nothing_left_behind(folder: Path, within_seconds: float = 10.0) -> None:
    """Fail if a process outlives the tests; what is found is killed."""
    deadline = time.monotonic() + within_seconds
    while left := left_behind(folder):
        if time.monotonic() > deadline:
            _kill_all(left, folder)
            pytest.fail("the tests left running:\n" + "\n".join(left), pytrace=False)
        time.sleep(0.05)


def _kill_all(left: list[str], folder: Path) -> None:
    for line in left:
        if line.startswith("process "):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line.split()[1].rstrip(":")), signal.SIGKILL)
    for lock in folder.rglob(LOCK_NAME):
        Nats(lock.parent).kill()  # of whatever kind it is: the folder says whom to kill


def _processes() -> list[Path]:
    """Without this one and those that led to it."""
    ours, pid = set(), os.getpid()
    while pid > 0:
        ours.add(str(pid))
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return [p for p in Path("/proc").iterdir() if p.name.isdigit() and p.name not in ours]


def generated_ticks(path: Path, pair: str, *, count: int, price: float, decimals: int) -> Path:
    """A file of ticks of the same shape as the real ones: irregular times, a spread that breathes, repeated prices."""
    draw = random.Random(pair)
    step = 10.0**-decimals
    moment, mid = 1577916000065, price
    lines = ["timestamp_ms,pair,bid,ask"]
    for _ in range(count):
        moment += int(draw.expovariate(1 / 3000)) + 1
        if draw.random() > 0.015:
            mid += draw.gauss(0, 1.5) * step
        half = step * max(0.5, draw.gauss(2, 1))
        lines.append(f"{moment},{pair},{mid - half:.{decimals}f},{mid + half:.{decimals}f}")
    path.write_text("\n".join(lines) + "\n")
    return path
