"""Every configuration, good or bad, and what is said of it."""

import json
import math
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polygon_live.document import ROOT, SYMBOLS, VALIDATION, document, flat, named, nested
from polygon_live.errors import ConfigurationRefused
from polygon_live.keys import is_withheld
from polygon_live.model import FOURTEEN_SYMBOLS
from polygon_live.operational import Limits, Operational
from polygon_live.reading import MOST_SYMBOLS, MOST_TOLD, RANGES, WHOLE, Reading, read
from tests.configurations import ANY_JSON, LEAVES, NAMES, nearly, operationals, put

SECRET = "hunter2-5up3r"


def reading(name: str, value: object) -> Reading:
    """Of the safe defaults with one thing different."""
    return read(put(document(Operational()), name, value))


def fault(name: str, value: object) -> str:
    (one,) = reading(name, value).faults
    return one


def good(name: str, value: object) -> Operational:
    found = reading(name, value)
    assert found.faults == ()
    assert found.operational is not None
    return found.operational


@given(ANY_JSON | nearly())
def test_it_never_raises_and_gives_a_configuration_or_faults(found: object) -> None:
    told = read(found)
    assert (told.operational is None) == bool(told.faults)
    assert named(found) <= set(NAMES)
    text = "\n".join([*told.faults, *told.ignored])
    assert text.encode().decode().replace("\n", "").isprintable()
    if told.operational is not None:
        assert read(document(told.operational)) == Reading(told.operational, (), ())


@given(operationals())
def test_what_is_written_is_read_again(operational: Operational) -> None:
    assert read(document(operational)) == Reading(operational, (), ())
    assert read(json.loads(json.dumps(document(operational)))) == Reading(operational, (), ())
    assert nested(flat(document(operational))) == document(operational)


def wrong(name: str) -> st.SearchStrategy[Any]:
    """Values that this key can't have."""
    if name == SYMBOLS:
        return st.sampled_from(
            [[], None, "EURUSD", {}, 5, ["EUR"], ["EURUSD", 5], ["*", "EURUSD"], [None], [["EURUSD"]]]
        )
    least, most = RANGES[name]
    beyond = [least - 1, most + 1, -1, 10**400, math.nan, math.inf, -math.inf, True, False, "5", None, [5], {"a": 5}]
    return st.sampled_from([*beyond, least + 0.5] if name in WHOLE else beyond)


@given(
    st.lists(st.sampled_from([*NAMES, "operational.symbls", "operational.validation.spread", "extra"]), unique=True),
    st.data(),
)
def test_of_several_faults_each_is_named(names: list[str], data: st.DataObject) -> None:
    found = document(Operational())
    for name in names:
        put(found, name, data.draw(wrong(name)) if name in NAMES else data.draw(LEAVES))
    told = read(found)
    assert len(told.faults) == len(names)
    for name in names:
        assert sum(said.startswith((f"{name} ", f"{name}[")) for said in told.faults) == 1


UNKNOWN = st.sampled_from(["symbol", "database", "max_spread_bps", "x", "", "a.b", "Symbols"])
WITHHELD = st.sampled_from(
    [
        "api_key",
        "apiKey",
        "PGPASSWORD",
        "password",
        "nats_urls",
        "dsn",
        "host",
        "brokers",
        "auth-token",
        "clientSecret",
        "POLYGON_API_KEY",
        "polygon_live_data_dir",
        "credentials",
        "user",
        "DATABASE_URL",
        "kafkaBrokers",
        "port",
    ]
)
CONTAINERS = st.recursive(
    st.just(SECRET),
    lambda inner: (
        st.lists(inner | LEAVES, min_size=1, max_size=3).filter(lambda found: SECRET in str(found))
        | st.dictionaries(UNKNOWN | WITHHELD, inner, min_size=1, max_size=3)
    ),
    max_leaves=5,
)


@given(UNKNOWN | WITHHELD, CONTAINERS, st.sampled_from(["", f"{ROOT}.", f"{VALIDATION}."]))
def test_the_value_of_a_key_that_is_not_known_is_never_told(key: str, value: object, at: str) -> None:
    found: dict[str, Any] = document(Operational())
    place = {"": found, f"{ROOT}.": found[ROOT], f"{VALIDATION}.": found[ROOT]["validation"]}[at]
    known = key in place
    place[key] = value
    told = read(found)
    if not (known and isinstance(value, str)):  # the value of a known key may be told
        assert SECRET not in str(told)
    assert told.faults or told.ignored


@given(st.sampled_from(NAMES), CONTAINERS.filter(lambda found: not isinstance(found, str)))
def test_of_a_container_where_a_value_should_be_nothing_is_told(name: str, value: object) -> None:
    if name == SYMBOLS and isinstance(value, list):
        value = [each for each in value if not isinstance(each, str)] or [[SECRET]]
    told = reading(name, value)
    assert told.faults
    assert SECRET not in str(told)
    assert SECRET not in str(reading(SYMBOLS, ["EURUSD", value]))
    assert SECRET not in str(reading(ROOT, [value]))
    assert SECRET not in str(reading(VALIDATION, [value]))
    assert SECRET not in str(read([value]))


@pytest.mark.parametrize(
    "name",
    [
        "url",
        "hubUrl",
        "ws_urls",
        "HOST",
        "bind-port",
        "dsn",
        "kafka_broker",
        "api_key",
        "apikey",
        "accessToken",
        "POLYGON_LIVE_COLLECTOR_ID",
        "polygon_api_key",
        "s3_secret",
        "db.password",
        "credential",
        "caCert",
        "HTTPProxy",
    ],
)
def test_what_looks_like_an_address_or_a_secret_is_left_out_and_named(name: str) -> None:
    found = document(Operational())
    found[ROOT][name] = SECRET
    told = read(found)
    assert told.operational == Operational()
    assert len(told.ignored) == 1
    assert name in told.ignored[0]
    assert SECRET not in str(told)


def test_an_object_of_nothing_but_addresses_and_secrets_is_left_out_by_name() -> None:
    told = reading("nats", {"urls": ["a"], "login": {"user": "b", "password": "c"}})
    assert told.operational == Operational()
    assert sorted(told.ignored) == ["nats.login", "nats.urls"]
    partly: tuple[Any, ...] = ({"urls": ["a"], "subject": "ticks"}, {}, ["url"], {"a": {"b": {"c": {}}}})
    for more in partly:
        assert reading("nats", more).faults


@pytest.mark.parametrize("name", [part for name in NAMES for part in name.split(".")])
def test_no_known_key_looks_like_a_secret(name: str) -> None:
    assert not is_withheld(name)
    assert not is_withheld("transport_mode")


def test_an_unknown_key_is_told_with_the_nearest_known_one() -> None:
    assert (
        fault("operational.symbol", [])
        == "operational.symbol is not a known key; the nearest one is operational.symbols"
    )
    for given_, meant in (
        ("symbols", SYMBOLS),
        ("operational.validation.max_spred_bps", "operational.validation.max_spread_bps"),
        ("operational.max_age_seconds", "operational.validation.max_age_seconds"),
        ("operational.RECONNECT_DELAY", "operational.websocket_reconnect_delay"),
        ("Operational", ROOT),
        ("operational.rate_limit", "operational.rate_limit_per_second"),
    ):
        assert fault(given_, 1).endswith(f"the nearest one is {meant}"), given_
    assert fault("operational.zzz", 1) == (
        "operational.zzz is not a known key; known there: "
        "symbols, websocket_reconnect_delay, rate_limit_per_second, validation"
    )


def test_symbols_come_in_every_form_and_doubles_collapse() -> None:
    assert good(SYMBOLS, ["eur/usd", "C:XAUUSD", "EURUSD", "C.GBP-USD"]).symbols == ("EURUSD", "XAUUSD", "GBPUSD")
    for pairs in (["*"], ["C.*"], ["*", "C.*", "c:*"]):
        assert good(SYMBOLS, pairs).symbols == ("*",)
    many = [f"{chr(65 + n // 676 % 26)}{chr(65 + n // 26 % 26)}{chr(65 + n % 26)}USD" for n in range(MOST_SYMBOLS + 1)]
    assert len(good(SYMBOLS, many[1:] + many[1:]).symbols) == MOST_SYMBOLS
    assert "2001 of them: at most 2000" in fault(SYMBOLS, many)


def test_faults_are_told_in_plain_words() -> None:
    assert fault(SYMBOLS, ["EURUSD", "euro\x1b[31m"]) == (
        "operational.symbols[1] is 'euro\\x1b[31m': it must be a currency pair like EURUSD or EUR/USD"
    )
    assert fault(SYMBOLS, []) == 'operational.symbols is empty: at least one is needed; all pairs are ["*"]'
    assert fault(SYMBOLS, "EURUSD") == 'operational.symbols is \'EURUSD\': it must be a list like ["EURUSD", "XAUUSD"]'
    assert fault(SYMBOLS, ["EURUSD", "C.*"]).endswith('all pairs are ["*"] alone')
    name = "operational.rate_limit_per_second"
    assert fault(name, 0) == f"{name} is 0: it must be a number from 0.1 to 1000"
    assert fault(name, math.nan) == f"{name} is nan: it must be a number from 0.1 to 1000"
    assert fault(name, True).startswith(f"{name} is true: ")
    assert fault(name, 10**400).startswith(f"{name} is a number of more than 40 digits: ")
    assert fault(name, "9" * 100_000).startswith(f"{name} is '{'9' * 40}…': ")
    assert fault(f"{VALIDATION}.reanchor_ticks", 2.5).endswith("is 2.5: it must be a whole number from 2 to 1000")
    assert read([]).faults == ("the configuration is a list: it must be an object with operational",)
    assert SECRET not in fault(ROOT, f'{{"api_key": "{SECRET}"}}')
    assert fault(ROOT, None).startswith("operational is null: it must be an object with symbols, ")


def test_what_is_not_there_is_the_safe_default() -> None:
    assert read({}).operational == Operational()
    assert named({ROOT: {"symbols": None, "validation": {}, "x": 1}, "symbols": []}) == {SYMBOLS}
    assert read({ROOT: {"symbols": ["EURUSD"], "validation": {}}}).operational == Operational(symbols=("EURUSD",))


def test_a_megabyte_of_nonsense_is_counted() -> None:
    told = read({f"k{n}": n for n in range(50_000)} | {f"key {n}": n for n in range(50_000)})
    assert len(told.faults) == len(told.ignored) == MOST_TOLD + 1
    assert told.faults[-1] == "and 49900 more faults"
    assert told.ignored[-1] == "and 49900 more names"
    deep: Any = 1
    for _ in range(100_000):
        deep = {"a": deep}
    assert len(read(deep).faults) == 1


def test_every_number_has_a_range_and_the_safe_defaults_are_in_it() -> None:
    values = flat(document(Operational()))
    assert set(values) == set(NAMES)
    for name, (least, most) in RANGES.items():
        value = values[name]
        assert isinstance(value, int | float)
        assert least <= value <= most
    assert set(attrs.fields_dict(Limits)) == {n.rpartition(".")[2] for n in NAMES if n.startswith(VALIDATION)}
    assert values[SYMBOLS] == list(FOURTEEN_SYMBOLS)


def test_who_takes_a_refused_one_gets_every_fault() -> None:
    with pytest.raises(ConfigurationRefused) as refused:
        read({ROOT: {"symbols": [], "rate_limit_per_second": 0}}).taken()
    assert len(refused.value.faults) == 2
    assert read({ROOT: {"symbols": ["eurusd"]}, "api_key": SECRET}).taken() == Operational(symbols=("EURUSD",))
