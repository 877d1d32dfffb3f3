import pytest
import trio

from polygon_live.channels import open_weighted_channel


async def test_the_bound_is_the_weight() -> None:
    send, receive = open_weighted_channel(10, bytes)
    assert send.offer(b"x" * 6)
    assert not send.offer(b"x" * 5)
    assert send.offer(b"x" * 4)
    assert send.held == 10
    assert await receive.receive_some(1) == [b"x" * 6]
    assert send.held == 4
    assert send.offer(b"x" * 6)


async def test_an_empty_channel_takes_any_item() -> None:
    send, receive = open_weighted_channel(10, bytes)
    assert send.offer(b"x" * 1000)
    assert not send.offer(b"x")
    assert await receive.receive_some(1) == [b"x" * 1000]
    assert send.held == 0


async def test_what_weighs_nothing_always_finds_room() -> None:
    send, receive = open_weighted_channel(10, bytes)
    for item in (b"x" * 100, b"", b""):
        assert send.offer(item)
    assert not send.offer(b"x")
    assert send.held == 100
    assert await receive.receive_some(1) == [b"x" * 100]
    assert send.held == 0
    assert send.offer(b"y")
    assert await receive.receive_some(1) == [b"", b"", b"y"]


async def test_room_can_be_asked_to_spare() -> None:
    send, receive = open_weighted_channel(10, bytes)
    assert send.limit == 10
    send.offer(b"xxxx")
    assert not send.offer(b"xxxx", spare=3)
    assert send.offer(b"xxxx", spare=2)
    await receive.receive_some(10)
    assert send.offer(b"x" * 10, spare=5), "an empty channel takes any item"


async def test_receive_some_takes_what_is_there_up_to_its_measure() -> None:
    send, receive = open_weighted_channel(100, bytes)
    for _ in range(10):
        send.offer(b"xx")
    assert len(await receive.receive_some(5)) == 3
    assert len(await receive.receive_some(100)) == 7


async def test_closing_is_the_message() -> None:
    send, receive = open_weighted_channel(100, bytes)
    send.offer(b"last")
    await send.aclose()
    assert await receive.receive_some(100) == [b"last"]
    with pytest.raises(trio.EndOfChannel):
        await receive.receive_some(100)


async def test_a_receiver_that_is_gone_is_an_error() -> None:
    send, receive = open_weighted_channel(100, bytes)
    await receive.aclose()
    with pytest.raises(trio.BrokenResourceError):
        send.offer(b"x")


async def test_the_receiver_waits_for_the_sender(autojump_clock: trio.testing.MockClock) -> None:
    send, receive = open_weighted_channel(100, bytes)

    async def later() -> None:
        await trio.sleep(5)
        send.offer(b"x")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(later)
        assert await receive.receive_some(1) == [b"x"]
    assert trio.current_time() == 5
