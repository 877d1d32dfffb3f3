"""Merging and its like, on any JSON."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from polygon_live.document import digest as digest_of
from polygon_live.document import document
from polygon_live.hub.merging import DEEPEST, copied, decoded, digest, is_deep, merged, without_secrets
from polygon_live.operational import Operational

NAMES = st.sampled_from(["operational", "symbols", "validation", "api_key", "a", ""]) | st.text()
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(["nats://me:hunter2@host", "http://[", "://@"])
)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=20
)


OBJECTS = st.dictionaries(NAMES, JSON, max_size=4)


@settings(deadline=None)
@given(JSON, JSON)
def test_merging_takes_any_json_changes_neither_and_twice_is_as_once(base: Any, over: Any) -> None:
    before = copied([base, over])
    once = merged(base, over)
    assert digest(merged(once, over)) == digest(once)
    assert digest([base, over]) == digest(before)
    assert digest(decoded(json.dumps(once))) == digest(copied(once))


@settings(deadline=None)
@given(JSON)
def test_merging_over_nothing_or_with_nothing_gives_what_there_is(found: dict[str, Any]) -> None:
    assert digest(merged({}, found)) == digest(found)
    assert digest(merged(found, {})) == digest(found if isinstance(found, dict) else {})
    assert digest(merged(found, found)) == digest(found)


@settings(deadline=None)
@given(OBJECTS, OBJECTS)
def test_every_key_of_either_is_there_and_the_upper_one_wins(base: dict[str, Any], over: dict[str, Any]) -> None:
    found = merged(base, over)
    assert found.keys() == base.keys() | over.keys()
    for name, value in found.items():
        if name not in base or name not in over:
            assert value is (over if name in over else base)[name]
        elif not (isinstance(base[name], dict) and isinstance(over[name], dict)):
            assert value is over[name]


def test_lists_and_null_are_not_merged() -> None:
    assert merged({"a": [1, 2], "b": {"c": 1, "d": 2}}, {"a": [3], "b": {"c": None}}) == {
        "a": [3],
        "b": {"c": None, "d": 2},
    }


@settings(deadline=None)
@given(JSON)
def test_leaving_out_secrets_takes_any_json_and_twice_is_as_once(found: Any) -> None:
    once = without_secrets(found)
    assert digest(without_secrets(once)) == digest(once)
    assert "hunter2" not in json.dumps(once) or found == "nats://me:hunter2@host"
    assert '"api_key"' not in json.dumps(once) or '"api_key"' in json.dumps(list(_texts(found)))


def _texts(found: Any) -> Any:
    """Every text that is no key."""
    if isinstance(found, str):
        yield found
    for inner in found.values() if isinstance(found, dict) else found if isinstance(found, list) else ():
        yield from _texts(inner)


@settings(deadline=None)
@given(st.binary() | st.text() | JSON.map(json.dumps))
@example("1" * 4300)
@example("[" * 5000 + "]" * 5000)
@example('"\\ud800"')
@example("1e999")
def test_any_text_is_json_that_can_be_written_again_or_refused(text: bytes | str) -> None:
    try:
        found = decoded(text)
    except ValueError:
        return
    assert digest(copied(found)) == digest(found)


@pytest.mark.parametrize("kind", ["[", '{"a":'])
@pytest.mark.parametrize(
    ("levels", "deep"), [(0, False), (1, False), (DEEPEST, False), (DEEPEST + 1, True), (500, True)]
)
def test_how_deep_it_is(kind: str, levels: int, deep: bool) -> None:
    end = "]" if kind == "[" else "}"
    assert is_deep(json.loads(kind * levels + "1" + end * levels)) is deep


def test_the_digest_goes_by_content() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": True}), "though Python calls them equal"
    assert digest(document(Operational())) == digest_of(Operational()), "one name for one configuration, wherever it is"
