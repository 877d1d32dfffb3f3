"""``polygon-live state``: what ``/state`` says, as tables."""

import json
import re
from collections.abc import Callable

import attrs
import pytest
import trio
from click.testing import CliRunner, Result

from polygon_live.commands import cli
from polygon_live.commands.state import spelled_span
from polygon_live.status import RejectsSnapshot, State
from tests.pages import collector, serving
from tests.test_status import WELL, with_feed, with_sink
from tests.test_web import Shown, served

Show = Callable[..., Result]
TOKEN = "s3cret-token"


@pytest.fixture
def show(clean_environment: dict[str, str]) -> Show:
    """The command, asking the port that is given."""

    def run(*arguments: str, **environ: str) -> Result:
        named = {f"POLYGON_LIVE_{name}": value for name, value in environ.items()}
        return CliRunner().invoke(cli, ["state", *arguments], env={**clean_environment, **named})

    return run


def page_of(state: State) -> bytes:
    """As the status server itself writes it."""

    async def get() -> bytes:
        async with served(Shown(state)) as client:
            return (await client.get("/state")).content

    return trio.run(get)


def test_all_well(show: Show) -> None:
    rejects = RejectsSnapshot({"validate": {"bad_field": 3}}, (), 0)
    body = page_of(attrs.evolve(WELL, rejects=rejects))
    with serving(collector(body, TOKEN)) as port:
        done = show(HTTP_PORT=str(port), HTTP_TOKEN=TOKEN)
        as_json = show("--json", HTTP_PORT=str(port), HTTP_TOKEN=TOKEN)
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("c, version 0, at ")
    assert lines[1] == "healthy"
    assert "Polygon: streaming" in done.stdout
    assert "stores: nothing is verified" in lines
    cells = [re.split(" {2,}", line) for line in lines]
    assert ["nats", "good", "0.0 s", "0", "10", "7"] in cells
    assert ["validate", "bad_field 3"] in cells
    assert any(row[:2] == ["EURUSD", "open"] for row in cells)
    assert json.loads(as_json.stdout) == json.loads(body)


def test_what_is_wrong_is_at_the_top(show: Show) -> None:
    for state, says in (
        (with_feed(state="waiting", last_error="wrong key", needs_operator=True), "  - Polygon: wrong key"),
        (with_sink(behind_seconds=30.0, connected=False), "  - nats is down: 30 s behind with 0 ticks waiting"),
    ):
        with serving(collector(page_of(state))) as port:
            done = show(HTTP_PORT=str(port))
        assert done.exit_code == 0
        assert done.stdout.splitlines()[1:3] == ["UNHEALTHY", says]


def test_nobody_there_and_another_version(show: Show) -> None:
    done = show(HTTP_PORT="1")
    assert done.exit_code == 1
    assert "no collector answers at http://127.0.0.1:1" in done.stderr
    for body in (b'{"validator": {}}', b'{"validator": {}, "rejects": 7}'):
        with serving(collector(body)) as port:
            done = show(HTTP_PORT=str(port))
        assert done.exit_code == 1
        assert "is of another version than this command" in done.stderr


def test_durations() -> None:
    spans = {-5: "0.0 s", 1500: "1.5 s", 61_000: "1 min 1 s", 3_660_000: "1 h 1 min", 49 * 3_600_000: "2 d 1 h"}
    assert {ms: spelled_span(ms) for ms in spans} == spans
