"""One server process and its folder: started, ended, killed, paused, found again. What all embedded servers share.

The rules of the state:

- The folder holds everything: ``data``, ``server.log``, ``port`` and ``server.pid``.
- ``server.pid`` carries an exclusive lock (flock) that the server's processes inherit and never know of. It is free if
  and only if the last of them is gone, whoever started them and whatever became of him: no pid can be mistaken.
- Its content, the main process's pid and start time by the kernel's count, says whom to signal. It is written and read
  while the lock is held.
- One owner at a time: who starts a server ends whatever still runs in its folder. ``sole_owner`` keeps two owners apart
  where there could be two.

Servers run in a session of their own: Ctrl-C in a terminal must not reach them before the collector has drained. So
they outlive an owner that is killed, and the next start ends them. The kernel's remedy, PR_SET_PDEATHSIG, is none: it
watches the thread that started the process, and here that is a worker thread.

Linux only: parents and start times are read from /proc.
"""

import abc
import contextlib
import fcntl
import functools
import itertools
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, NoReturn, Self, TextIO

import structlog

from polygon_live.errors import PolygonLiveError

log = structlog.get_logger()

START_SECONDS: Final = 60.0
"""A database that was killed replays its log first."""
STOP_SECONDS: Final = 20.0
"""For an orderly end; then SIGKILL."""
KILL_SECONDS: Final = 10.0
PORTS: Final = range(20_000, 30_000)
"""Below the ephemeral ports (from 32768), where an outgoing connection could take the port of a stopped server."""


LOCK_NAME: Final = "server.pid"


class ServerFailed(PolygonLiveError):
    """An embedded server could not be found, started or ended; the message carries the end of its own log."""


class NotInstalled(ServerFailed):
    """The package that carries the server is not there."""


class EmbeddedServer(abc.ABC):
    """A server on 127.0.0.1 that keeps its data and its port in ``folder``.

    All methods block, each within its own limit: call them from a worker thread where a loop runs.
    """

    name: ClassVar[str]
    orderly: ClassVar = signal.SIGTERM
    """The signal that asks the main process to save its data and go."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        """``port`` None: the one remembered in the folder, else a free one. It is final after the first start, which
        takes another if somebody is on it (not if it was asked for).
        """
        self.folder = folder.absolute()
        self.data = self.folder / "data"
        self.log_path = self.folder / "server.log"
        self._lock_path = self.folder / LOCK_NAME
        self._port_path = self.folder / "port"
        self._process: subprocess.Popen[bytes] | None = None
        self._port_is_final = port is not None
        self.port = port or self._remembered_port() or free_port()

    @abc.abstractmethod
    def _command(self) -> Sequence[str | Path]:
        """The program and its arguments."""

    @abc.abstractmethod
    def _answers(self) -> bool:
        """Whether this very process, and no stranger on its port, is ready for clients."""

    def _prepare(self, lock: TextIO) -> None:
        """Make ``data`` if it is not there. What is run for it goes through ``_spawn``."""
        del lock
        self.data.mkdir(exist_ok=True)

    def _identity(self) -> Mapping[str, Any]:
        """Arguments of subprocess that name another account to run under."""
        return {}

    @property
    def pid(self) -> int | None:
        """The main process that we started, while it is there (perhaps paused)."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def running(self) -> bool:
        """Whether there is a ``pid``."""
        return self.pid is not None

    def start(self) -> None:
        """Start it and wait until it answers; nothing to do if it runs.

        Raises NotInstalled; ServerFailed if it dies at once or gives no answer in ``START_SECONDS``.
        """
        if self.running:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.stop()  # what an owner before us left behind
        self._settle_port()
        with self._lock_path.open("a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._prepare(lock)
            self._process = self._spawn(self._command(), self.data, lock)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            died = self._process.poll()
            if died is not None or time.monotonic() > deadline:
                self.kill()
                why = f"gave no answer for {START_SECONDS:.0f} s" if died is None else f"ended with exit code {died}"
                self._fail(f"did not start on port {self.port}: it {why}")
            time.sleep(0.01)

    def stop(self) -> None:
        """End it in order, or by SIGKILL after ``STOP_SECONDS``; return when the last of its processes is gone. So too
        with a server that an earlier owner left running in this folder.

        Raises ServerFailed if even SIGKILL does not end it.
        """
        if self._gone():
            return
        if not self.running:
            log.warning("ending a server that an earlier run left behind", server=self.name, folder=str(self.folder))
        self._signal_all(signal.SIGCONT)
        if (main := self._main()) is not None:
            _signal(main, self.orderly)
        if not self._gone(STOP_SECONDS):
            log.warning("server did not end in time and is killed", server=self.name, seconds=STOP_SECONDS)
            self.kill()

    def kill(self) -> None:
        """SIGKILL to all its processes at once; return when they are gone. Raises ServerFailed if they are not."""
        self._signal_all(signal.SIGKILL)
        if not self._gone(KILL_SECONDS):
            self._fail(f"can't be ended: a process still holds {self._lock_path} (`fuser` shows which)")

    def pause(self) -> None:
        """SIGSTOP to all its processes: connections stay open and nothing is answered."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT to all its processes."""
        self._signal_all(signal.SIGCONT)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def _spawn(self, command: Sequence[str | Path], folder: Path, lock: TextIO) -> "subprocess.Popen[bytes]":
        """Run a program of this server in ``folder``, under the lock, and note it as the main process."""
        with self.log_path.open("ab") as output:
            try:
                process = subprocess.Popen(  # noqa: S603  # our own packages' programs
                    command,
                    cwd=folder,
                    # None of our environment: it holds secrets, and PG… variables change what a database does.
                    env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(lock.fileno(),),
                    start_new_session=True,
                    **self._identity(),
                )
            except OSError as why:
                self._fail(f"can't be executed: {why}")
        lock.truncate(0)
        lock.write(f"{process.pid} {_stat(process.pid).started}")
        lock.flush()
        return process

    def _gone(self, within: float = 0.0) -> bool:
        deadline = time.monotonic() + within
        while is_held(self._lock_path):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        if self._process is not None:
            self._process.wait()  # it has let go of its files: only the reaping is left
            self._process = None
        return True

    def _main(self) -> int | None:
        """The main process, ours or left behind. Means something only while the lock is held."""
        if self._process is not None:
            return self.pid
        try:
            pid, started = map(int, self._lock_path.read_text().split())
        except (FileNotFoundError, ValueError):
            return None  # nothing was started yet, or the owner was killed just then
        return pid if _stat(pid).started == started else None

    def _signal_all(self, number: signal.Signals) -> None:
        """To the main process and its children. It is stopped first, so that none is born while they are counted."""
        main = self._main()
        if main is None or not is_held(self._lock_path):
            return
        _signal(main, signal.SIGSTOP)
        deadline = time.monotonic() + KILL_SECONDS
        while _stat(main).state not in "TtZX" and time.monotonic() < deadline:
            time.sleep(0.001)
        for child in _children(main):
            _signal(child, number)
        _signal(main, number)

    def _settle_port(self) -> None:
        if not self._port_is_final:
            if not _is_free(self.port):
                self.port = free_port()
            self._port_is_final = True
        self._port_path.write_text(str(self.port))

    def _remembered_port(self) -> int | None:
        try:
            return int(self._port_path.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _fail(self, what: str) -> NoReturn:
        message = f"embedded {self.name} {what}"
        with contextlib.suppress(OSError):
            tail = self.log_path.read_text(errors="replace").splitlines()[-15:]
            message += "\n".join([f"; the end of its log, {self.log_path}:", *tail] if tail else [])
        raise ServerFailed(message)


@contextlib.contextmanager
def sole_owner(folder: Path) -> Iterator[None]:
    """Hold the folder alone while the block runs, and no longer than this process lives.

    Raises ServerFailed that names the process that holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "owner.pid").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            message = f"{folder} is in use by process {lock.read()}: stop that one, or set POLYGON_LIVE_DATA_DIR"
            raise ServerFailed(message) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def is_held(lock_path: Path) -> bool:
    """Whether a process, be it a server or who is just starting it, holds this ``server.pid``."""
    try:
        with lock_path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who ask don't see each other
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def program(package: str, path: str) -> Path:
    """The installed file of a package whose path ends so. Raises NotInstalled."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.files(package) or ():
            if file.as_posix().endswith(path):
                return Path(os.path.normpath(str(file.locate())))
    message = f"the package {package} is not installed: pip install 'polygon-live[embedded]'"
    raise NotInstalled(message)


class _Stat(NamedTuple):
    state: str
    parent: int
    started: int
    """In clock ticks since boot."""


def _stat(pid: int) -> _Stat:
    """From /proc; of a process that is gone, the state is X and the rest 0."""
    try:
        # The program's name comes in parentheses and may hold any character.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _Stat("X", 0, 0)
    return _Stat(fields[0], int(fields[1]), int(fields[19]))


def _children(pid: int) -> list[int]:
    everybody = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [other for other in everybody if _stat(other).parent == pid]


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def free_port() -> int:
    """One that nobody listens on now, and that this process was not given before."""
    return next(port for port in _drawn() if _is_free(port))


@functools.cache
def _drawn() -> Iterator[int]:
    """Each once, for who is given one may take seconds to listen there; and by chance, for others draw too."""
    draw = random.SystemRandom()  # who seeds the other one would make two processes draw the same
    return itertools.cycle(draw.sample(PORTS, len(PORTS)))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the last owner's TIME_WAIT hinders nobody
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
