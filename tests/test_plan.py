"""From one configuration to the next, and the digest that tells them apart."""

from hypothesis import given
from hypothesis import strategies as st

from polygon_live.document import VALIDATION, digest, document, flat
from polygon_live.hub import digest as digest_of_content
from polygon_live.operational import Limits, Operational
from polygon_live.plan import plan
from polygon_live.reading import read
from tests.configurations import nearly, operationals


@given(operationals() | nearly().map(lambda found: read(found).operational or Operational()), operationals())
def test_applied_to_the_old_subscriptions_it_gives_the_new_ones(old: Operational, new: Operational) -> None:
    steps = plan(old, new)
    assert set(steps.unsubscribe) <= set(old.symbols)
    assert not set(steps.subscribe) & set(old.symbols)
    assert (set(old.symbols) - set(steps.unsubscribe)) | set(steps.subscribe) == set(new.symbols)
    before, after = flat(document(old)), flat(document(new))
    before.update({name: value for name, (_was, value) in steps.changed.items()})
    assert before | {"operational.symbols": None} == after | {"operational.symbols": None}
    assert all(was != value for was, value in steps.changed.values())


@given(operationals(), operationals(), st.booleans())
def test_the_digest_is_equal_if_and_only_if_the_values_are(one: Operational, other: Operational, same: bool) -> None:
    if same:
        other = Operational(one.symbols, float(one.websocket_reconnect_delay), one.rate_limit_per_second, one.limits)
    assert (digest(one) == digest(other)) == (one == other)
    assert digest(one) == digest_of_content(document(one))
    assert (plan(one, other) == plan(one, one)) == (set(one.symbols) == set(other.symbols) and (
        document(one)["operational"] | {"symbols": 0} == document(other)["operational"] | {"symbols": 0}
    ))  # fmt: skip


def test_5_and_5_point_0_are_the_same() -> None:
    whole, broken = Operational(websocket_reconnect_delay=5), Operational(websocket_reconnect_delay=5.0)
    assert digest(whole) == digest(broken)
    assert str(document(broken)["operational"]["websocket_reconnect_delay"]) == "5"
    assert plan(whole, broken).changed == {}
    assert len(digest(Operational())) == 12


def test_it_says_what_changes_and_who_goes_away() -> None:
    steps = plan(Operational(symbols=("EURUSD", "XAUUSD")), Operational(("GBPUSD", "EURUSD"), limits=Limits(5.5)))
    assert (steps.subscribe, steps.unsubscribe, steps.going) == (("GBPUSD",), ("XAUUSD",), ("XAUUSD",))
    assert steps.changed == {f"{VALIDATION}.max_spread_bps": (1000, 5.5)}
    everything = plan(Operational(), Operational(symbols=("*",)))
    assert (everything.subscribe, everything.going) == (("*",), ())
    back = plan(Operational(symbols=("*",)), Operational())
    assert (back.unsubscribe, back.going) == (("*",), ("*",))
