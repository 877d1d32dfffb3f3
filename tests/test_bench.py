"""Each benchmark for a blink: that it adds up and comes to an end, not how fast anything is."""

import json
import math
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import attrs
import pytest

from tests.bench import __main__ as bench
from tests.bench import compare, load, macro, writing
from tests.bench.load import Delays, Options, Rig, delays
from tests.bench.report import Figure
from tests.bench.sender import Marks
from tests.bench.subscriber import whole


@attrs.define
class Blink(macro.Bench):
    """One collector for all of it: most of a blink would be its starts."""

    _rig: Rig | None = None

    @asynccontextmanager
    async def rig(self, *, symbols: int = 14) -> AsyncIterator[Rig]:
        if self._rig is None:
            self._rig = await self.ending.enter_async_context(macro.Bench.rig(self))
        yield self._rig


async def test_every_part_comes_to_its_figures(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(memory))
    monkeypatch.setattr(load, "WINDOW_TICKS", 2000)
    monkeypatch.setattr(writing, "SIZES", (20, 500))
    monkeypatch.setattr(macro, "SYMBOLS", (14,))
    monkeypatch.setattr(macro, "RATES", (1000, 5000))
    figures: list[Figure] = []
    async with AsyncExitStack() as ending:
        options = Options(broker="embedded")
        blink = Blink(options, 0.1, 2000, "timescale", figures.append, lambda _: None, ending)
        # First what others would hear of, last what starts the collector anew.
        for name in ("micro", "sustained", "steady", "idle", "scaling", "backlog", "start"):
            told = len(figures)
            await bench.PARTS[name](blink)
            assert {figure.part for figure in figures[told:]} == {name}
    assert not any(math.isnan(figure.value) for figure in figures)
    complete = [figure.more["complete"] for figure in figures if "complete" in figure.more]
    assert len(complete) == 3
    assert all(len(set(counted.values())) == 1 and counted["sent"] for counted in complete)
    assert len({(figure.part, figure.name) for figure in figures}) == len(figures)


def test_a_run_is_written_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    figures = bench.main(["sender", "--seconds", "0.1", "--json", str(one)])
    assert all(figure.value > 100_000 for figure in figures)
    content = json.loads(one.read_text())
    for figure in content["figures"]:
        figure["value"] *= 2
    content["machine"]["cores"] = 1000
    other.write_text(json.dumps(content))
    capsys.readouterr()
    compare.main(str(one), str(other))
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("other conditions: cores: ")
    assert len([line for line in said if line.endswith("2.00 better")]) == len(figures) == 2
    compare.main(str(other), str(one))
    assert "0.50 WORSE" in capsys.readouterr().out
    one.write_text("{}")
    with pytest.raises(SystemExit, match="is no file that"):
        compare.main(str(one), str(other))


def test_delays_are_told_tick_by_tick() -> None:
    sent, arrived = Marks([1, 2, 5], [100, 200, 300]), Marks([1, 4, 5], [110, 350, 1300])
    found = delays(sent, arrived)
    assert found == Delays([10, 50, 150, 1000], [1, 2, 1, 1])
    assert (found.at(0.5), found.at(0.99)) == (50 / 1e6, 1000 / 1e6)
    assert delays(Marks([3, 4], [300, 400]), Marks([1, 2, 4], [1, 2, 500])) == Delays([100, 200], [1, 1])


def test_a_message_counts_when_all_of_it_is_there() -> None:
    one = b"MSG ticks.EURUSD 1 4\r\n{12}\r\n"
    other = b"HMSG ticks.USDJPY.late 1 12 16\r\nNATS/1.0\r\n\r\n{34}\r\n"
    count = 0
    data = b""
    for n in range(0, len(one + other), 7):
        data += (one + other)[n : n + 7]
        found, payload, data = whole(data)
        count += found
        assert payload in ({b"{12}", b"{34}"} if found else {b""})
    assert count == 2
    assert whole(one + other + b"PING\r\nMS") == (2, b"{34}", b"PING\r\nMS")
