"""What is sent next, decided without a connection."""

import json

from hypothesis import given
from hypothesis import strategies as st

from polygon_live.operational import ALL_PAIRS
from polygon_live.subscriptions import AT_ONCE, Ask, Subscriptions

MANY = tuple(f"{chr(65 + n // 676 % 26)}{chr(65 + n // 26 % 26)}{chr(65 + n % 26)}USD" for n in range(1000))


def sent(subscriptions: Subscriptions) -> list[Ask]:
    """All that is due, one after the other."""
    asks = []
    while (ask := subscriptions.next()) is not None:
        asks.append(ask)
    return asks


def asked(*symbols: str) -> Subscriptions:
    subscriptions = Subscriptions(symbols)
    sent(subscriptions)
    for symbol in symbols:
        topic = symbol if symbol == ALL_PAIRS else f"{symbol[:3]}/{symbol[3:]}"
        subscriptions.acknowledge(f"subscribed to: C.{topic}")
    assert subscriptions.complete()
    return subscriptions


def test_everything_at_first_in_one_message() -> None:
    (ask,) = sent(Subscriptions(["EURUSD", "XAUUSD", "EURUSD"]))
    assert json.loads(ask.text) == {"action": "subscribe", "params": "C.EUR/USD,C.XAU/USD"}


def test_only_the_difference_what_is_new_first() -> None:
    subscriptions = asked("EURUSD", "XAUUSD", "GBPUSD")
    subscriptions.want(["GBPUSD", "EURAUD", "USDJPY"])
    assert [json.loads(ask.text) for ask in sent(subscriptions)] == [
        {"action": "subscribe", "params": "C.EUR/AUD,C.USD/JPY"},
        {"action": "unsubscribe", "params": "C.EUR/USD,C.XAU/USD"},
    ]
    assert subscriptions.acknowledged == {"GBPUSD"}
    assert sent(subscriptions) == []


def test_what_comes_and_goes_between_two_messages_is_never_sent() -> None:
    subscriptions = asked("EURUSD")
    subscriptions.want(["EURUSD", "EURAUD"])
    subscriptions.want(["USDJPY"])
    subscriptions.want(["EURUSD"])
    assert subscriptions.due() is None


def test_many_go_in_chunks() -> None:
    asks = sent(Subscriptions(MANY))
    assert [len(ask.symbols) for ask in asks] == [AT_ONCE] * 5
    assert [symbol for ask in asks for symbol in ask.symbols] == list(MANY)


def test_anew_is_an_unsubscribe_first_for_a_plain_repeat_is_never_answered() -> None:
    subscriptions = asked(*MANY)
    subscriptions.ask_anew(MANY[:300])
    assert [(ask.subscribe, len(ask.symbols)) for ask in sent(subscriptions)] == [
        (False, 200),
        (True, 200),
        (False, 100),
        (True, 100),
    ]
    assert set(subscriptions.missing()) == set(MANY[:300])


def test_anew_is_forgotten_with_the_symbol_and_with_the_connection() -> None:
    subscriptions = asked("EURUSD", "XAUUSD")
    subscriptions.ask_anew(["XAUUSD", "USDJPY"])
    subscriptions.want(["EURUSD"])
    assert [ask.subscribe for ask in sent(subscriptions)] == [False]
    subscriptions.want(["EURUSD", "XAUUSD", "USDJPY"])
    assert [ask.subscribe for ask in sent(subscriptions)] == [True]
    subscriptions.ask_anew(["XAUUSD"])
    subscriptions.forget()
    assert sent(subscriptions) == [Ask(subscribe=True, symbols=("EURUSD", "XAUUSD", "USDJPY"))]


def test_a_list_is_kept_until_all_pairs_are_acknowledged() -> None:
    subscriptions = asked("EURUSD", "XAUUSD")
    subscriptions.want([ALL_PAIRS])
    (ask,) = sent(subscriptions)
    assert json.loads(ask.text) == {"action": "subscribe", "params": "C.*"}
    assert not subscriptions.complete()
    subscriptions.acknowledge("subscribed to: C.*")
    assert subscriptions.complete()
    assert sent(subscriptions) == [Ask(subscribe=False, symbols=("EURUSD", "XAUUSD"))]
    assert subscriptions.acknowledged == {ALL_PAIRS}


def test_back_to_a_list_the_list_is_asked_for_first() -> None:
    subscriptions = asked(ALL_PAIRS)
    subscriptions.want(["EURUSD"])
    assert [json.loads(ask.text) for ask in sent(subscriptions)] == [
        {"action": "subscribe", "params": "C.EUR/USD"},
        {"action": "unsubscribe", "params": "C.*"},
    ]


def test_acknowledgements_are_counted_per_symbol_in_any_form_and_unsubscribing_takes_them_back() -> None:
    subscriptions = Subscriptions(["EURUSD", "XAUUSD"])
    subscriptions.acknowledge("subscribed to: C.EUR/USD")
    assert subscriptions.acknowledged == set(), "nothing was asked for"
    sent(subscriptions)
    assert subscriptions.missing() == ["EURUSD", "XAUUSD"]
    subscriptions.acknowledge("subscribed to: C.XAU/USD")
    assert subscriptions.missing() == ["EURUSD"]
    subscriptions.acknowledge("Subscribed to:C.EUR-USD ")
    assert not subscriptions.missing()
    subscriptions.acknowledge("unsubscribed to: C.XAU/USD")
    assert subscriptions.missing() == ["XAUUSD"]
    for nonsense in ("subscribed to: something else", "subscribed to: C.ZAR/JPY", "", ":", "subscribed to: "):
        subscriptions.acknowledge(nonsense)
    assert subscriptions.acknowledged == {"EURUSD"}


symbols = st.one_of(st.just((ALL_PAIRS,)), st.lists(st.sampled_from(MANY[:12]), min_size=1, unique=True).map(tuple))
steps = st.lists(st.tuples(symbols, st.integers(0, 4), st.lists(st.sampled_from(MANY[:12]))), max_size=20)


@given(steps)
def test_whatever_is_wanted_in_between_the_server_ends_with_what_is_wanted_last(
    steps: list[tuple[tuple[str, ...], int, list[str]]],
) -> None:
    subscriptions = Subscriptions(["EURUSD"])
    server: set[str] = set()

    def deliver(ask: Ask | None) -> None:
        if ask is None:
            return
        params = json.loads(ask.text)["params"].split(",")
        assert 1 <= len(params) <= AT_ONCE
        if ask.subscribe:
            assert not server.intersection(params), "a plain repeat is never answered"
            server.update(params)
        else:
            assert server.issuperset(params)
            server.difference_update(params)
        for param in params:
            subscriptions.acknowledge(f"{'' if ask.subscribe else 'un'}subscribed to: {param}")

    for wanted, messages, anew in steps:
        subscriptions.want(wanted)
        for _ in range(messages):
            deliver(subscriptions.next())
        subscriptions.ask_anew(anew)
    last = steps[-1][0] if steps else ("EURUSD",)
    while (ask := subscriptions.next()) is not None:
        deliver(ask)
    assert server == {f"C.{s}" if s == ALL_PAIRS else f"C.{s[:3]}/{s[3:]}" for s in last}
    assert subscriptions.complete()
    assert set(subscriptions.asked) == set(last)
