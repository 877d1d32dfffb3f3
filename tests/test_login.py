import json

import pytest

from polygon_live.config import Secret
from polygon_live.errors import FeedDropped, FeedError, LoginRefused, TooManyConnections
from polygon_live.login import Login, Phase
from polygon_live.wire import Status

SYMBOLS = ["EURUSD", "XAUUSD"]


def logged_in() -> Login:
    login = Login(Secret("k3y"), SYMBOLS)
    login.hear(Status("connected", "Connected Successfully"))
    login.hear(Status("auth_success", "authenticated"))
    return login


@pytest.mark.parametrize("greeting", ["connected", "success"])
def test_greeted_it_logs_in_and_then_subscribes_with_one_message(greeting: str) -> None:
    login = Login(Secret("k3y"), SYMBOLS)
    answer = login.hear(Status(greeting, "Connected Successfully"))
    assert json.loads(answer or "") == {"action": "auth", "params": "k3y"}
    answer = login.hear(Status("auth_success", "authenticated"))
    assert json.loads(answer or "") == {"action": "subscribe", "params": "C.EUR/USD,C.XAU/USD"}
    assert login.phase is Phase.SUBSCRIBED


def test_acknowledgements_are_counted_per_symbol_and_unsubscribing_takes_them_back() -> None:
    login = logged_in()
    assert login.missing() == SYMBOLS
    assert login.hear(Status("success", "subscribed to: C.XAU/USD")) is None
    assert login.missing() == ["EURUSD"]
    login.hear(Status("success", "subscribed to: C.EUR-USD"))
    assert not login.missing()
    login.hear(Status("success", "unsubscribed to: C.XAU/USD"))
    assert login.missing() == ["XAUUSD"]
    login.hear(Status("success", "subscribed to: something else"))
    assert login.acknowledged == {"EURUSD"}


def test_a_symbol_that_was_not_asked_for_is_not_acknowledged() -> None:
    login = logged_in()
    login.hear(Status("success", "subscribed to: C.ZAR/JPY"))
    assert login.acknowledged == set()


def test_a_key_that_is_repeated_by_polygon_is_not_shown() -> None:
    login = logged_in()
    login.hear(Status("error", "no such key: k3y"))
    assert list(login.refusals) == ["no such key: ***"]
    with pytest.raises(LoginRefused, match=r"unknown key \*\*\*'"):
        login.hear(Status("auth_failed", "unknown key k3y"))


def test_what_is_remembered_of_long_sentences_is_short() -> None:
    login = logged_in()
    login.hear(Status("error", "x" * 10**6))
    login.hear(Status("y" * 10**6, "k3y" + "z" * 10**6))
    assert len(login.refusals[0]) == 500
    assert login.unknown[0] == Status("y" * 500, "***" + "z" * 497)
    with pytest.raises(FeedDropped) as raised:
        login.hear(Status("force_disconnect", "z" * 10**6))
    assert len(str(raised.value)) < 600


def test_a_refused_topic_is_remembered_though_it_is_not_named() -> None:
    login = logged_in()
    assert login.hear(Status("error", "not authorized")) is None
    assert list(login.refusals) == ["not authorized"]


def test_subscribe_is_not_sent_before_the_login_succeeded() -> None:
    login = Login(Secret("k3y"), SYMBOLS)
    assert login.hear(Status("auth_success", "too early")) is None
    assert login.phase is Phase.GREETING


@pytest.mark.parametrize(
    ("status", "message", "error", "reason"),
    [
        ("auth_failed", "authentication failed", LoginRefused, "wrong_key"),
        ("auth_failed", "Your plan doesn't include websocket access. Visit us.", LoginRefused, "no_plan"),
        ("error", "You don't have access real-time data. Please upgrade.", LoginRefused, "no_plan"),
        ("auth_timeout", "No authentication request received.", FeedDropped, "auth_timeout"),
        ("auth_required", "Authenticate first.", FeedDropped, "auth_required"),
        ("max_connections", "Maximum number of connections exceeded.", TooManyConnections, "max_connections"),
        ("slow_consumer", "", FeedDropped, "slow_consumer"),
        ("force_disconnect", "", FeedDropped, "force_disconnect"),
    ],
)
def test_each_ending_status_has_its_own_meaning(status: str, message: str, error: type[FeedError], reason: str) -> None:
    with pytest.raises(error) as raised:
        logged_in().hear(Status(status, message))
    assert raised.value.reason == reason
    assert "k3y" not in str(raised.value)


def test_an_unknown_status_ends_nothing() -> None:
    login = logged_in()
    assert login.hear(Status("maintenance", "soon")) is None
    assert list(login.unknown) == [Status("maintenance", "soon")]
