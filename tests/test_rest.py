import json
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from trio.abc import Clock

from polygon_live import rest
from polygon_live.config import Secret
from polygon_live.errors import ConfigurationError, RestError
from polygon_live.limits import Turns
from polygon_live.rest import Rest
from polygon_live.standin.http import Answer, Fault
from polygon_live.standin.rest import FAULTS, MARKET_FAULTS
from polygon_live.wire import Quote, Undecodable
from tests.feeding import Upper
from tests.resting import KEY, URL, RestWorld, resting

NOON_S = 1_780_401_600
NOON = NOON_S * 1000


def quote(ms: int, bid: float = 1.1, pair: str = "EUR/USD", x: int | str | None = 48) -> Quote:
    return Quote(pair, round(bid + 0.0001, 5), bid, NOON + ms, x)


def saying(status: int, body: object, *headers: tuple[str, str]) -> Fault:
    return lambda _right, _asked: Answer(status, json.dumps(body).encode(), headers)


async def error_of(world: RestWorld, fault: Fault | None) -> RestError:
    world.standin.fault = fault
    with pytest.raises(RestError) as caught:
        await world.all("EURUSD", NOON_S, NOON_S + 9)
    assert KEY not in str(caught.value)
    assert all(KEY not in asked.target for asked in world.standin.asked)
    return caught.value


async def test_all_quotes_from_the_first_second_to_the_whole_of_the_last_in_ascending_order(
    autojump_clock: Clock,
) -> None:
    quotes = [quote(ms, 1.1 + ms / 1e6) for ms in (-1, 0, 999, 5000, 5999, 6000)]
    async with resting([*quotes, quote(3000, pair="GBP/USD")]) as world:
        found = await world.all("EURUSD", NOON_S, NOON_S + 5)
    assert found == [msgspec.structs.replace(q, t=q.t // 1000 * 1000) for q in quotes[1:5]]
    (asked,) = world.standin.asked
    parts = urlsplit(asked.target)
    assert parts.path == "/v3/quotes/C:EUR-USD"
    assert asked.authorization == f"Bearer {KEY}"
    assert parse_qs(parts.query) == {
        "timestamp.gte": [f"{NOON_S}000000000"],
        "timestamp.lt": [f"{NOON_S + 6}000000000"],
        "order": ["asc"],
        "sort": ["timestamp"],
        "limit": ["50000"],
    }


async def test_pages_are_followed_and_handed_out_in_blocks(autojump_clock: Clock) -> None:
    quotes = [quote(10 * n, 1.1 + n / 1e5) for n in range(2500)]
    async with resting(quotes, largest_page=1200) as world:
        blocks = []
        async with world.rest.quotes("EURUSD", NOON_S, NOON_S + 60) as answer:
            while (block := await answer.block()) is not None:
                blocks.append(block)
    assert [len(block) for block in blocks] == [1000, 200, 1000, 200, 100]
    assert [q.b for block in blocks for q in block if isinstance(q, Quote)] == [q.b for q in quotes]
    assert world.asked_at == [0.0, 0.0, 1.0], "at most two requests a second"


@pytest.mark.parametrize("as_list", [True, False])
async def test_nothing_is_an_answer(as_list: bool, autojump_clock: Clock) -> None:
    async with resting(empty_as_list=as_list) as world:
        assert await world.all("EURUSD", NOON_S, NOON_S) == []


async def test_the_exchange_is_that_of_the_bid_or_else_of_the_ask(autojump_clock: Clock) -> None:
    at = NOON_S * 1_000_000_000
    bodies: list[dict[str, object]] = [
        {"bid_exchange": 44, "ask_exchange": 48},
        {"bid_exchange": "44"},
        {"ask_exchange": 48},
        {"bid_exchange": None},
    ]
    results = [{"bid_price": 1.1, "ask_price": 2, "participant_timestamp": at, **body} for body in bodies]
    async with resting() as world:
        world.standin.fault = saying(200, {"status": "OK", "results": results})
        found = await world.all("EURUSD", NOON_S, NOON_S)
    assert [q.x for q in found] == [44, "44", 48, None]


async def test_a_bad_element_costs_itself(autojump_clock: Clock) -> None:
    quotes = [quote(0), quote(2000, 1.2)]
    async with resting(quotes) as world:
        for name in ("bad-elements", "not-asked-for", "nan"):
            world.standin.faults.append(FAULTS[name])
        odd = await world.all("EURUSD", NOON_S, NOON_S + 9)
        elsewhere = await world.all("EURUSD", NOON_S, NOON_S + 9)
        nan = await world.all("EURUSD", NOON_S, NOON_S + 9)
    assert [q.reason for q in odd[:-2]] == ["bad_field"] * 3
    assert odd[-2:] == quotes
    assert json.loads(odd[1].raw) == {"ask_price": 1.1, "bid_price": "low", "participant_timestamp": 1}
    assert [q.reason for q in elsewhere if isinstance(q, Undecodable)] == ["not_asked_for"] * 2
    assert elsewhere[-2:] == quotes
    assert [q.b for q in nan] == [1.1, 1.2], "what a price may be is the validator's business"


@pytest.mark.parametrize(
    ("fault", "again", "words"),
    [
        ("unknown-key", False, "the key is refused (401, 'Unknown API Key'): correct POLYGON_API_KEY"),
        ("not-authorized", False, "the plan does not include these data (403, 'You are not entitled"),
        ("not-authorized-200", False, "it answers NOT_AUTHORIZED You are not entitled"),
        ("no-such-ticker", False, "the question is refused (404, 'Ticker not found.')"),
        ("redirect", False, "it is somewhere else (301): correct POLYGON_LIVE_REST_URL"),
        ("too-many", True, "too many requests (429)"),
        ("server-error", True, "it failed (500, 'internal error')"),
        ("bad-gateway", True, "it failed (502)"),
        ("garbage", True, "the answer can't be read: '<html>maintenance</html>'"),
        ("slow", True, "nothing came for 20 s"),
        ("cut", True, "the line failed: "),
        ("foreign-next", False, "the next page is said to be at https://api.polygon.example, not at http://rest.exam"),
        ("next-to-itself", False, "one that was read already"),
        ("descending", False, "out of order"),
    ],
)
async def test_each_failure_is_told_apart(fault: str, again: bool, words: str, autojump_clock: Clock) -> None:
    async with resting([quote(0), quote(2000)]) as world:
        why = await error_of(world, FAULTS[fault])
    assert words in str(why)
    assert why.again == again
    assert len(world.standin.asked) == (rest.TRIES if again else 1)


async def test_a_wrong_key_is_said_by_the_service_itself(autojump_clock: Clock) -> None:
    async with resting(key="another-key") as world:
        why = await error_of(world, None)
    assert "Unknown API Key" in str(why)


async def test_nobody_there(autojump_clock: Clock) -> None:
    async with resting() as world:
        world.unreachable.add("rest.example")
        why = await error_of(world, None)
    assert (why.again, str(why)) == (True, "Polygon's REST service at rest.example: the line failed: nobody listens")


async def test_a_failed_page_is_asked_for_again_and_no_quote_comes_twice(autojump_clock: Clock) -> None:
    quotes = [quote(10 * n, 1.1 + n / 1e5) for n in range(30)]
    async with resting(quotes, largest_page=10) as world:
        world.standin.faults.extend([None, FAULTS["cut"], FAULTS["server-error"], FAULTS["garbage"], None])
        found = await world.all("EURUSD", NOON_S, NOON_S)
    assert [q.b for q in found] == [q.b for q in quotes]
    assert len(world.standin.asked) == 6


async def test_the_waits_grow_and_retry_after_is_honoured(autojump_clock: Clock) -> None:
    async with resting([quote(0)]) as world:
        world.rest._rng = Upper()
        world.standin.faults.extend([FAULTS["server-error"], FAULTS["server-error"], FAULTS["too-many-retry-after"]])
        assert len(await world.all("EURUSD", NOON_S, NOON_S)) == 1
    assert world.asked_at == [0.0, 1.0, 3.0, 10.0]


@pytest.mark.parametrize(
    ("value", "after"),
    [("3600", 3600.0), ("99999999999999", 999999999.0), ("soon", None), ("-5", None), ("", None)],
)
async def test_a_long_retry_after_is_for_the_caller(value: str, after: float | None, autojump_clock: Clock) -> None:
    async with resting() as world:
        why = await error_of(world, saying(429, {}, ("Retry-After", value)))
    assert why.after == after
    assert len(world.standin.asked) == (1 if after else rest.TRIES)


async def test_retry_after_may_be_a_date(autojump_clock: Clock) -> None:
    async with resting() as world:
        why = await error_of(world, saying(503, {}, ("Retry-After", "Fri, 31 Dec 2100 23:59:59 GMT")))
        assert why.after is not None
        assert why.after > 1e9
        why = await error_of(world, saying(503, {}, ("Retry-After", "Fri, 31 Dec 1999 23:59:59 GMT")))
        assert why.after == 0


@pytest.mark.parametrize(
    "address",
    [
        "http://rest.example.evil/v3",
        "http://rest.example:8080/v3",
        "https://rest.example/v3",
        "http://rest.example@evil.example/",
        "http://somebody:else@rest.example/v3",
        "//evil.example/v3",
        "/v3/quotes?cursor=1",
        "file:///etc/passwd",
        "http://[",
    ],
)
async def test_the_key_goes_nowhere_else(address: str, autojump_clock: Clock) -> None:
    async with resting() as world:
        why = await error_of(world, saying(200, {"status": "OK", "results": [], "next_url": address}))
    assert not why.again
    assert len(world.standin.asked) == 1


async def test_a_chain_without_an_end_has_one(monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock) -> None:
    monkeypatch.setattr(rest, "MOST_PAGES", 20)
    async with resting([quote(0)]) as world:
        why = await error_of(world, FAULTS["endless-next"])
    assert "more than 20 pages" in str(why)
    assert len(world.standin.asked) == 20


async def test_a_page_without_an_end_has_one(monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock) -> None:
    monkeypatch.setattr(rest, "PAGE_BYTES", 1 << 20)
    async with resting() as world:
        why = await error_of(world, lambda _right, _asked: Answer(200, b" " * (1 << 21)))
    assert "more than 1 MiB" in str(why)


async def test_the_key_is_not_repeated_when_the_service_says_it(autojump_clock: Clock) -> None:
    async with resting() as world:
        for fault in (
            saying(401, {"status": "ERROR", "error": f"Unknown API Key {KEY}"}),
            saying(200, {"status": "ERROR", "message": f"{'x' * 180} {KEY}"}),
            lambda _right, _asked: Answer(200, f"{KEY} is what was sent".encode()),
        ):
            assert "***" in str(await error_of(world, fault))


async def test_what_can_not_be_sent_is_not_repeated(autojump_clock: Clock) -> None:
    async with resting(key=f"{KEY}\ny") as world:
        assert "the question can't be sent (LocalProtocolError)" in str(await error_of(world, None))


@pytest.mark.parametrize("body", [[], 42, {"results": 7}, {"results": {}}, {"status": 7}, {"next_url": 5}])
async def test_an_answer_of_another_shape_is_no_answer(body: object, autojump_clock: Clock) -> None:
    async with resting() as world:
        assert (await error_of(world, saying(200, body))).again


def test_an_address_that_can_not_be_asked_is_told_at_once() -> None:
    with pytest.raises(ConfigurationError, match=r"POLYGON_LIVE_REST_URL is 'http://☃\.example'"):
        Rest("http://☃.example", Secret(KEY), turns=Turns(1e9, wall_ms=lambda: 0), rng=Upper())


async def test_over_a_socket() -> None:
    quotes = [quote(n, 1.1 + n / 1e4) for n in range(50)]
    async with resting(quotes, largest_page=20) as world, world.standin.listening() as url:
        client = Rest(url, Secret(KEY), turns=Turns(1e9, wall_ms=lambda: 0), rng=Upper())
        found: list[Quote | Undecodable] = []
        async with client.quotes("EURUSD", NOON_S, NOON_S) as answer:
            while (block := await answer.block()) is not None:
                found += block
    assert [q.b for q in found if isinstance(q, Quote)] == [q.b for q in quotes]


async def test_too_many_requests_are_a_violation_and_nothing_else_is(autojump_clock: Clock) -> None:
    async with resting([quote(0)]) as world:
        await error_of(world, FAULTS["server-error"])
        await error_of(world, FAULTS["not-authorized"])
        assert world.turns.snapshot().violations == {}
        world.standin.faults.extend([FAULTS["too-many"], FAULTS["too-many-retry-after"]])
        world.standin.fault = None
        assert len(await world.all("EURUSD", NOON_S, NOON_S)) == 1
        assert world.turns.snapshot().violations == {f"{URL}/v3/quotes": 2}
        assert KEY not in str(world.turns.snapshot())


@pytest.mark.parametrize("word", ["open", "closed"])
async def test_the_market_is_asked_for_in_turn(autojump_clock: Clock, word: str) -> None:
    async with resting() as world:
        world.standin.fx = word
        assert await world.rest.market() == word
    (asked,) = world.standin.asked
    assert (asked.path, asked.authorization) == ("/v1/marketstatus/now", f"Bearer {KEY}")
    assert world.turns.snapshot().taken == 1


@pytest.mark.parametrize("name", MARKET_FAULTS)
async def test_after_each_fault_it_is_not_known_whether_the_market_is_open(autojump_clock: Clock, name: str) -> None:
    async with resting() as world:
        world.standin.fault = MARKET_FAULTS[name]
        with pytest.raises(RestError) as caught:
            await world.rest.market()
    assert KEY not in str(caught.value)
    assert caught.value.again == (name not in {"unknown-key", "not-authorized", "not-authorized-200"})
    assert len(world.standin.asked) == 1, "who asks may ask again"
