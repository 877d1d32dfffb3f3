import json

import pytest

from polygon_live.config import Secret
from polygon_live.errors import FeedDropped, FeedError, LoginRefused, TooManyConnections
from polygon_live.login import Login, Phase
from polygon_live.subscriptions import Subscriptions
from polygon_live.wire import Status

SYMBOLS = ["EURUSD", "XAUUSD"]


def logged_in() -> Login:
    login = Login(Secret("k3y"), Subscriptions(SYMBOLS))
    login.hear(Status("connected", "Connected Successfully"))
    login.hear(Status("auth_success", "authenticated"))
    return login


@pytest.mark.parametrize("greeting", ["connected", "success"])
def test_greeted_it_logs_in_and_then_says_nothing_more(greeting: str) -> None:
    login = Login(Secret("k3y"), Subscriptions(SYMBOLS))
    answer = login.hear(Status(greeting, "Connected Successfully"))
    assert json.loads(answer or "") == {"action": "auth", "params": "k3y"}
    assert login.hear(Status("auth_success", "authenticated")) is None
    assert login.phase is Phase.LOGGED_IN
    assert login.hear(Status(greeting, "Connected Successfully")) is None


def test_acknowledgements_are_handed_on() -> None:
    subscriptions = Subscriptions(SYMBOLS)
    login = Login(Secret("k3y"), subscriptions)
    login.hear(Status("connected", "Connected Successfully"))
    login.hear(Status("auth_success", "authenticated"))
    subscriptions.next()
    login.hear(Status("success", "subscribed to: C.XAU/USD"))
    assert subscriptions.acknowledged == {"XAUUSD"}


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
    assert login.told[1] == Status("y" * 500, "***" + "z" * 497)
    with pytest.raises(FeedDropped) as raised:
        login.hear(Status("force_disconnect", "z" * 10**6))
    assert len(str(raised.value)) < 600


def test_a_refused_topic_is_remembered_though_it_is_not_named() -> None:
    login = logged_in()
    assert login.hear(Status("error", "not authorized")) is None
    assert list(login.refusals) == ["not authorized"]
    assert list(login.told) == [Status("error", "not authorized")]
    assert login.said() == "; Polygon says: 'not authorized'"


def test_nobody_is_logged_in_before_he_was_greeted() -> None:
    login = Login(Secret("k3y"), Subscriptions(SYMBOLS))
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
    assert list(login.told) == [Status("maintenance", "soon")]
