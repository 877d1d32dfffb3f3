"""When a disk will be full: a pure estimator, on simulated hours."""

import os
from pathlib import Path

import pytest

from polygon_live.room import AHEAD, LEAST_SECONDS, UNSEEN, Room, RoomSnapshot, free_bytes

GiB = 2**30
HOUR = 3600


def watched(*looks: tuple[float, int]) -> Room:
    room = Room()
    for at, free in looks:
        room.see(at, free)
    return room


def test_what_was_never_seen_says_nothing() -> None:
    assert Room().snapshot() == UNSEEN
    assert watched((0, GiB)).snapshot() == RoomSnapshot(free_bytes=GiB, seconds_until_full=None)


def test_a_steady_rate_gives_the_exact_time() -> None:
    room = watched(*((float(at), GiB - at * 2**20) for at in range(601)))
    assert room.seconds_until_full() == 424.0
    assert room.snapshot() == RoomSnapshot(free_bytes=424 * 2**20, seconds_until_full=424.0)


@pytest.mark.parametrize("free", [0, -1])
def test_a_full_disk_is_full_now(free: int) -> None:
    assert watched((0, free)).seconds_until_full() == 0.0


def test_a_disk_that_empties_or_stays_is_never_full() -> None:
    assert watched(*((float(at), GiB + at) for at in range(1000))).seconds_until_full() is None
    assert watched(*((float(at), GiB) for at in range(1000))).seconds_until_full() is None


def test_nothing_is_said_before_enough_was_seen() -> None:
    room = Room()
    for at in range(round(LEAST_SECONDS)):
        room.see(at, 1000 - 50 * at)
        assert room.seconds_until_full() is None
    room.see(LEAST_SECONDS, 500)
    assert room.seconds_until_full() == 10.0


def test_a_rate_is_believed_four_times_as_far_as_it_was_seen() -> None:
    begun = 100 * 60
    room = watched(*((float(at), begun - at) for at in range(begun // 5)))
    assert room.seconds_until_full() is None
    room.see(begun / 5, begun - begun // 5)
    assert room.seconds_until_full() == AHEAD * begun / 5


def test_a_burst_of_a_minute_on_a_large_disk_is_no_alarm_and_on_a_small_one_it_is() -> None:
    def burst(disk: int) -> float | None:
        quiet = [(float(at), disk) for at in range(0, 6 * HOUR, 10)]
        return watched(*quiet, *((6.0 * HOUR + at, disk - at * 10 * 2**20) for at in range(1, 61))).seconds_until_full()

    assert burst(500 * GiB) is None
    assert burst(2 * GiB) == pytest.approx((2048 - 600) / 10, abs=3)


def test_a_slow_leak_is_seen_over_hours_through_hourly_steps_of_what_is_let_go() -> None:
    """The table takes 60 MB an hour, minute by minute, and lets go of 50 MB at each full hour."""
    mb = 1_000_000

    def free(minute: int) -> int:
        return 200 * mb - minute * mb + (minute // 60) * 50 * mb

    room = Room()
    for minute in range(6 * 60 + 1):
        room.see(minute * 60.0, free(minute))
    left = room.seconds_until_full()
    assert left is not None
    assert free(360) == 140 * mb
    assert left == pytest.approx(14 * HOUR, rel=0.01)


def test_steps_that_end_where_they_began_are_no_leak_over_hours() -> None:
    """Full and let go of by the hour, with room for days."""
    mb = 1_000_000
    room = Room()
    for minute in range(24 * 60 + 1):
        room.see(minute * 60.0, 20_000 * mb - (minute % 60) * mb)
        assert room.seconds_until_full() is None


def test_it_is_said_once_and_again_after_it_was_over_for_ten_minutes() -> None:
    room = Room()
    said = [at for at in range(30) if room.see(float(at), 3000 - 100 * at) is not None]
    assert said == [10]
    for at in range(30, 1000):
        assert room.see(float(at), 3000) is None
    assert [at for at in range(1000, 1030) if room.see(float(at), 3000 - 100 * (at - 1000)) is not None] == [1006]


@pytest.mark.parametrize("look", [(5.0, 400), (30.0, None)])
def test_a_clock_set_back_or_a_disk_out_of_sight_begins_anew(look: tuple[float, int | None]) -> None:
    room = watched(*((float(at), 1000 - 20 * at) for at in range(20)))
    assert room.seconds_until_full() == pytest.approx(31, abs=1)
    room.see(*look)
    assert room.snapshot() == RoomSnapshot(look[1], None)


def test_what_is_left_on_a_disk(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    assert free_bytes(tmp_path) == pytest.approx(disk.f_bavail * disk.f_frsize, rel=0.1)
    with pytest.raises(FileNotFoundError):
        free_bytes(tmp_path / "nowhere")
