"""Who is answered, by the guard alone."""

import pytest

from polygon_live.web.guard import Guard

OPEN = ("/health", "/health/live", "/health/ready", "/metrics", "/page/main.js")
GUARDED = ("/", "/state", "/symbols", "/gaps", "/quarantine", "/rejects", "/stream", "/no-such-page")
NOTHING: dict[str, str] = {}


def status(guard: Guard, path: str, host: str = "", *, page: bool = False, **headers: str) -> int:
    refusal = guard.refuses(path, host, {n.replace("_", "-"): v for n, v in headers.items()}.get, page=page)
    return 200 if refusal is None else refusal.status


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "LocalHost:8000",
        "127.0.0.1:8000",
        "127.0.0.1",
        "[::1]:8000",
        "[::ffff:127.0.0.1]",
        "10.2.3.4:8000",
        "collector:8000",
        "polygon-live",
        "app.localhost:8000",
        "ticks.example.com:8000",
        "",
    ],
)
def test_without_a_token_its_own_names_and_all_that_no_stranger_can_have_are_answered(host: str) -> None:
    guard = Guard(None, "ticks.example.com")
    assert {status(guard, path, host) for path in (*OPEN, *GUARDED)} == {200}


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example:8000",
        "evillocalhost.example",
        "localhost.",
        "127.0.0.1:8000@evil.example",
        "evil.example#localhost",
        "localhost:8000:1",
        "[::1",
        "[::1].evil.example",
        "[1.2]",
        "local host",
        "loc\u00e4lhost",
        "a,b",
    ],
)
def test_a_name_that_its_owner_may_have_let_point_here_gets_no_prices(host: str) -> None:
    guard = Guard(None, "127.0.0.1")
    assert {status(guard, path, host) for path in GUARDED} == {421}
    assert {status(guard, path, host) for path in OPEN} == {200}
    told = guard.refuses("/state", host, NOTHING.get, page=False)
    assert told is not None
    assert repr(host) in told.why
    assert "POLYGON_LIVE_HTTP_TOKEN" in told.why


def test_a_name_is_repeated_only_so_far() -> None:
    told = Guard(None, "127.0.0.1").refuses("/state", "a." * 5000, NOTHING.get, page=False)
    assert told is not None
    assert len(told.why) < 300


def test_with_a_token_the_name_does_not_matter_and_the_token_does() -> None:
    guard = Guard("t0kén", "0.0.0.0")
    sent = "Bearer t0kén".encode().decode("latin-1")
    assert {status(guard, path, "evil.example") for path in GUARDED} == {401}
    assert {status(guard, path, "evil.example", Authorization=sent) for path in GUARDED} == {200}
    assert {status(guard, path, "evil.example") for path in OPEN} == {200}
    for wrong in ("", "Bearer", "Bearer ", "Bearer t0ken", "Basic t0kén", sent + " ", sent[:-1], "Bearer \u20ac"):
        assert status(guard, "/state", Authorization=wrong) == 401
    for right in (sent.replace("Bearer", "bearer"), sent.replace("Bearer", "BEARER"), sent.replace(" ", "  ")):
        assert status(guard, "/state", Authorization=right) == 200
    assert status(guard, "/", page=True) == 200


def test_other_sites_may_link_to_a_page_and_nothing_else() -> None:
    guard = Guard(None, "127.0.0.1")
    for site in ("cross-site", "same-site"):
        for mode in ("no-cors", "cors", "websocket"):
            assert status(guard, "/stream", "localhost", Sec_Fetch_Site=site, Sec_Fetch_Mode=mode) == 403
    assert status(guard, "/", "localhost", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate") == 200
    for site in ("same-origin", "none"):
        assert status(guard, "/stream", "localhost", Sec_Fetch_Site=site, Sec_Fetch_Mode="cors") == 200
