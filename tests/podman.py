"""podman for the tests of the image: storage of its own, and a base image made where no registry is reached."""

import getpass
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import platformdirs
import pytest
import trio

from polygon_live import __version__
from tests.collecting import KEY, Running

ROOT: Final = Path(__file__).parent.parent
IMAGE: Final = f"localhost/polygon-live:{__version__}"
BASE: Final = re.findall(r"^FROM (\S+/\S+)", (ROOT / "Containerfile").read_text(), re.MULTILINE)[0]
NEEDED: Final = {
    "podman": "podman",
    "runc": "runc",
    "debootstrap": "debootstrap",
    "nsenter": "util-linux",
    "curl": "curl",
}

HOME: Final = platformdirs.user_cache_path("polygon-live-tests") / "podman"
SCRATCH: Final = Path(tempfile.gettempdir()) / f"polygon-live-podman-{getpass.getuser()}"  # sockets: a short path

# What works everywhere: in virtual machines without overlayfs, without systemd, and where crun can't have its cgroups.
CONTAINERS_CONF: Final = f"""
[containers]
netns = "host"
log_driver = "k8s-file"
default_ulimits = ["nofile=1024:4096", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "{SCRATCH}/libpod"
"""
STORAGE_CONF: Final = f"""
[storage]
driver = "vfs"
graphroot = "{HOME}/storage"
runroot = "{SCRATCH}/run"
"""
ENVIRONMENT: Final = {
    **{name: value for name, value in os.environ.items() if not name.startswith("POLYGON_")},
    "CONTAINERS_CONF": str(HOME / "containers.conf"),
    "CONTAINERS_STORAGE_CONF": str(HOME / "storage.conf"),
}


def podman(*arguments: str | Path, stdin: str = "") -> str:
    """What it prints. Raises AssertionError with all that it said if it fails."""
    done = subprocess.run(
        ["podman", *arguments], env=ENVIRONMENT, input=stdin, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"podman {arguments[0]} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def prepare() -> None:
    """Fail if something is missing, else make the base image if it is not there yet (half a minute)."""
    if missing := [package for program, package in NEEDED.items() if not shutil.which(program)]:
        pytest.fail(f"not installed: {', '.join(missing)}; on Debian: apt install {' '.join(missing)}", pytrace=False)
    if os.geteuid():
        pytest.fail("debootstrap, and looking into a container's network, need root", pytrace=False)
    for folder in (HOME, SCRATCH):
        folder.mkdir(parents=True, exist_ok=True)
    (HOME / "containers.conf").write_text(CONTAINERS_CONF)
    (HOME / "storage.conf").write_text(STORAGE_CONF)
    podman("image", "prune", "--force", "--filter=until=24h")  # vfs keeps every layer whole; young ones are the cache
    if subprocess.run(["podman", "image", "exists", BASE], env=ENVIRONMENT, check=False).returncode:
        _make_base()


def _make_base() -> None:
    """As the registry's slim image is: Debian's essential packages, without manuals and translations."""
    release = BASE.rpartition(":")[2].removesuffix("-slim")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch, "root")
        subprocess.run(["debootstrap", "--variant=minbase", release, root], check=True, stdout=subprocess.DEVNULL)
        for unneeded in ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache/apt", "var/lib/apt/lists"):
            shutil.rmtree(root / unneeded)
        archive = Path(scratch, "root.tar")
        subprocess.run(["tar", "--create", "--file", archive, "--directory", root, "."], check=True)
        podman("import", "--quiet", archive, BASE)


def build() -> None:
    """`just image`, with what this machine tells pip."""
    with tempfile.TemporaryDirectory() as scratch:
        listed = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
        ).stdout
        settings = r"^\S+?\.(index-url|extra-index-url|trusted-host|proxy|cert)='(.*)'$"
        told = dict(re.findall(settings, listed, re.MULTILINE))
        secrets = []
        if certificate := told.get("cert"):
            secrets += ["--secret", f"id=ca.crt,src={certificate}"]
            told["cert"] = "/run/secrets/ca.crt"
        if told:
            conf = Path(scratch, "pip.conf")
            conf.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in told.items()))
            secrets += ["--secret", f"id=pip.conf,src={conf}"]
        done = subprocess.run(
            ["just", "image", *secrets],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4000:]


def created(options: Sequence[str], env: Mapping[str, str], command: Sequence[str]) -> str:
    """A container of the image, not started, as locked up as ``ops/`` has it. Its name."""
    locked = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")
    given = [f"--env={name}={value}" for name, value in env.items()]
    return podman("create", *locked, *options, *given, IMAGE, *command)


def kernel_says(pid: int, file: str) -> str:
    """A file of the process below /proc."""
    return Path(f"/proc/{pid}/{file}").read_text()


class Container(Running):
    """A container that runs, attached."""

    def __init__(self, name: str, began: float, process: trio.Process, log_path: Path) -> None:
        super().__init__(process, log_path, 0)
        self.name = name
        self._began = began

    @property
    def seconds(self) -> str:
        """How long ago ``podman start`` was called."""
        return f"{time.monotonic() - self._began:.2f} s"

    async def podman(self, *arguments: str) -> str:
        """A command of podman about this container, whose name comes last."""
        return await trio.to_thread.run_sync(partial(podman, *arguments, self.name))

    async def pid(self) -> int:
        """The collector's process, as this machine sees it: tini's one child."""
        tini = await self.podman("inspect", "--format={{.State.Pid}}")
        return int(kernel_says(int(tini), f"task/{tini}/children"))


@asynccontextmanager
async def container(
    log_path: Path, *options: str, env: Mapping[str, str], command: Sequence[str] = ()
) -> AsyncIterator[Container]:
    """Started; removed with its volume at the end of the block, whatever became of it."""
    name = await trio.to_thread.run_sync(created, options, env, command)
    try:
        began = time.monotonic()
        with log_path.open("wb") as log:
            process = await trio.lowlevel.open_process(
                ["podman", "start", "--attach", name],
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        running = Container(name, began, process, log_path)
        try:
            yield running
        finally:
            with trio.CancelScope(shield=True):
                await running.close()
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(podman, "rm", "--force", "--time=0", "--volumes", name)
            await process.wait()


def addresses() -> dict[str, str]:
    """Of nobody: for a collector that is to start and reach nothing."""
    return {
        "POLYGON_API_KEY": KEY,
        "POLYGON_LIVE_TIMESCALE_DSN": "postgresql://user:password@127.0.0.1:9/nowhere",
        "POLYGON_LIVE_NATS_URLS": "nats://127.0.0.1:9",
        "POLYGON_LIVE_KAFKA_BROKERS": "127.0.0.1:9",
    }
