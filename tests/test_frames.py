from polygon_live.frames import Heard, Intake, open_frames, parted
from polygon_live.model import Interruption
from polygon_live.wire import Frame

CUT = Interruption("disconnect", "cut")


def test_parted_keeps_the_order_and_joins_what_nothing_interrupts() -> None:
    one, two, three = (Frame(str(n), n) for n in range(3))
    assert list(parted([])) == []
    assert list(parted([one, two, three])) == [[one, two, three]]
    assert list(parted([CUT, one, CUT, CUT, two, three, CUT])) == [CUT, [one], CUT, CUT, [two, three], CUT]


async def test_each_loss_is_marked_once_at_its_place_whatever_is_read_meanwhile() -> None:
    channel, reading = open_frames(80)
    intake = Intake(channel)
    came: list[Heard] = []
    for now_ms in range(400):
        intake.take("x" * 8, now_ms)
        if now_ms % 2:
            came += await reading.receive_some(1)
    came += await reading.receive_some(10**6)
    frames = [item for item in came if isinstance(item, Frame)]
    assert intake.count == 400
    assert intake.characters == 3200
    assert intake.dropped == 400 - len(frames) > 0
    expected, marks = 0, 0
    marked = False
    for item in came:
        if isinstance(item, Interruption):
            assert not marked
            marked = True
            marks += 1
        else:
            assert (item.received_ms > expected) == marked, "a mark where something is missing, and nowhere else"
            expected, marked = item.received_ms + 1, False
    assert marked == (expected < 400)
    assert 1 < marks <= 1 + intake.dropped // 2, "not one for each: an eighth of the room is one frame, and one more"


async def test_a_loss_is_marked_even_if_nothing_comes_after_it() -> None:
    channel, reading = open_frames(10)
    intake = Intake(channel)
    for now_ms in range(3):
        intake.take("x" * 10, now_ms)
    assert await reading.receive_some(10**6) == [
        Frame("x" * 10, 0),
        Interruption("overflow", "the memory for messages was full"),
    ]
    assert intake.dropped_ms == 2
