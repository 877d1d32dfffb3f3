import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from polygon_live import wire
from polygon_live.wire import Quote, Status, Undecodable, decode

GOOD = '{"ev":"C","p":"EUR/USD","x":48,"a":1.12172,"b":1.1212,"t":1577916000065}'
QUOTE = Quote("EUR/USD", 1.12172, 1.1212, 1577916000065, 48)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
near_events = st.fixed_dictionaries(
    {},
    optional={
        "ev": st.sampled_from(["C", "status", "CA", "CAS", "Q"]) | json_values,
        "p": st.just("EUR/USD") | json_values,
        "x": json_values,
        "a": json_values,
        "b": json_values,
        "t": json_values,
        "status": json_values,
        "message": json_values,
    },
)


def test_the_documented_sample_with_spaces_and_a_string_exchange() -> None:
    frame = '[ {"ev": "C", "p": "USD/CNH", "x": "44", "a": 6.83366, "b": 6.83363, "t": 1536036818784} ]'
    assert decode(frame) == [Quote("USD/CNH", 6.83366, 6.83363, 1536036818784, "44")]


def test_mixed_kinds_in_one_frame_keep_their_order() -> None:
    frame = f'[{GOOD},{{"ev":"status","status":"success","message":"subscribed to: C.EUR/USD"}},{GOOD}]'
    assert decode(frame) == [QUOTE, Status("success", "subscribed to: C.EUR/USD"), QUOTE]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ('{"ev":"C","p":"EUR/USD","a":1,"t":1}', "bad_field"),
        ('{"ev":"C","p":"EUR/USD","a":"1.1","b":1,"t":1}', "bad_field"),
        ('{"ev":"C","p":7,"a":1,"b":1,"t":1}', "bad_field"),
        ('{"ev":"C","p":"EUR/USD","a":1,"b":1,"t":1.5}', "bad_field"),
        ('{"ev":"Q","p":"EUR/USD","a":1,"b":1,"t":1}', "bad_event"),
        ('{"ev":["C"]}', "bad_event"),
        ("{}", "bad_event"),
        ("null", "bad_event"),
        ("17", "bad_event"),
        ('"C"', "bad_event"),
        ("[]", "bad_event"),
        ("hello", "bad_event"),
        ('{"a":tru}', "bad_event"),
        ("", "bad_event"),
        ('{"ev":"C","p":"\\ud800","a":1,"b":1,"t":1}', "bad_field"),
        ('{"ev":"C","p":"EUR/USD","a":1,"b":1,"t":1,"x":"\\ud800"}', "bad_field"),
        ('{"ev":"status","status":"error","message":"\\udfff"}', "bad_field"),
        ('{"ev":"\\ud800"}', "bad_event"),
        ("[" * 50_000 + "]" * 50_000, "bad_event"),
        ('{"ev":' * 50_000 + "1" + "}" * 50_000, "bad_event"),
        ('{"ev":"C","p":"]},{[","a":"\\\\","b":1,"t":1}', "bad_field"),
        ('{"ev":"C","p":"EUR/USD","a":1,"b":1,"t":' + "9" * 5000 + "}", "bad_event"),
    ],
    ids=lambda text: text[:40],
)
@pytest.mark.parametrize("beside", [GOOD, GOOD.replace("1.1212,", "NaN,")], ids=["", "NaN"])
def test_a_bad_element_costs_its_neighbours_nothing(bad: str, reason: str, beside: str) -> None:
    before, told, after, _ = decode(f"[{GOOD},{bad} , {GOOD},{beside}]")
    assert (before, after) == (QUOTE, QUOTE)
    assert isinstance(told, Undecodable)
    assert told.reason == reason
    assert told.raw == bad[:2000]


@pytest.mark.parametrize("price", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_no_finite_number_is_left_for_the_validator_to_judge(price: str) -> None:
    bad = GOOD.replace("1.1212,", f"{price},")
    before, odd, after = decode(f"[{GOOD},{bad},{GOOD}]")
    assert (before, after) == (QUOTE, QUOTE)
    assert isinstance(odd, Quote)
    assert not math.isfinite(odd.b)


@pytest.mark.parametrize(
    "frame",
    ["", "{", GOOD, "null", "[" * 100_000, b"\xff\xfe\x00", "[1,", "hello", "1" * 10_000, '["a]', "[}{]"],
)
def test_a_frame_that_is_no_array_is_one_reject(frame: str | bytes) -> None:
    (told,) = decode(frame)
    assert isinstance(told, Undecodable)
    assert told.reason == "bad_frame"


def test_an_empty_array_is_nothing() -> None:
    assert list(decode("[]")) == []


@given(st.text() | st.binary())
@example('[{"ev":"C","p":"\\ud800","a":1,"b":1,"t":1}]')
@example('[{"ev":"\\ud800"}]')
def test_any_text_and_any_bytes_never_raise(frame: str | bytes) -> None:
    decode(frame)
    wire.statuses(frame)


@given(st.lists(near_events | json_values, max_size=4), st.integers(0, 4))
def test_whatever_stands_beside_it_a_good_quote_arrives(others: list[Any], place: int) -> None:
    elements = [json.dumps(o) for o in others]
    place = min(place, len(elements))
    events = decode("[" + ",".join([*elements[:place], GOOD, *elements[place:]]) + "]")
    assert len(events) == len(others) + 1
    assert events[place] == QUOTE


@given(st.lists(near_events | json_values, max_size=4), st.sampled_from([None, 1]))
def test_the_elements_are_as_many_as_the_events(values: list[Any], indent: int | None) -> None:
    frame = json.dumps(values, indent=indent)
    parts = wire.elements(frame) or []
    assert len(decode(frame)) == len(values)
    assert json.dumps([json.loads(part) for part in parts]) == json.dumps(values)


@given(st.lists(near_events, max_size=4))
def test_the_search_for_statuses_misses_none(elements: list[Any]) -> None:
    frame = json.dumps(elements)
    if wire.statuses(frame):
        assert wire.may_hold_status(frame)
        assert wire.may_hold_status(frame.encode())


def test_requests_are_one_object_with_comma_separated_topics() -> None:
    assert json.loads(wire.subscribe(["EUR/USD", "XAU/USD"])) == {
        "action": "subscribe",
        "params": "C.EUR/USD,C.XAU/USD",
    }
    assert json.loads(wire.unsubscribe(["XAU/USD"])) == {"action": "unsubscribe", "params": "C.XAU/USD"}


def test_a_request_never_shows_its_params() -> None:
    assert "k3y" not in repr(wire.Request("auth", "k3y"))
