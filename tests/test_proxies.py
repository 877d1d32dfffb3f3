"""A proxy that httpx can't use is told at the start, by who would ask through it."""

import random
from collections.abc import Callable

import pytest

from polygon_live.config import Secret
from polygon_live.errors import ConfigurationError
from polygon_live.hub.door import Door
from polygon_live.limits import Turns
from polygon_live.proxies import VARIABLES, check_proxies
from polygon_live.rest import Rest


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def door() -> object:
    return Door("http://hub:7000", None)


def rest() -> object:
    return Rest("http://rest", Secret("k3y"), turns=Turns(1e9, wall_ms=lambda: 0), rng=random.Random(1))


@pytest.mark.parametrize("make", [door, rest])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1080"),
        ("HTTP_PROXY", "nonsense://joe:pa55word@h"),
        ("https_proxy", "http://joe:pa55word@h:port"),
        ("HTTPS_PROXY", "http://joe:pa55word@a..b:3128"),
        ("http_proxy", f"{'x' * 64}:3128"),
        ("NO_PROXY", "a:b:c"),
    ],
)
def test_one_that_can_not_be_used_is_named_and_not_shown(
    name: str, value: str, make: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    make()
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=rf"^{name} \(not shown here\) can't be used: ") as caught:
        make()
    assert "pa55word" not in str(caught.value)


def test_one_that_can_be_used_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(VARIABLES, ("http://joe:pw@h:3128", "h:3128", "http://[::1]:1", "localhost,h"), strict=True):
        monkeypatch.setenv(name, value)
    check_proxies()
