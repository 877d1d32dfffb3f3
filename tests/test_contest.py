"""When another holder of a cursor is taken for dead."""

from polygon_live.contest import Contest


def test_who_does_not_move_for_long_enough_is_dead() -> None:
    contest = Contest(30.0)
    assert not contest.is_dead("a", 1000.0)
    assert not contest.is_dead("a", 1029.9)
    assert not contest.moved
    assert contest.is_dead("a", 1030.0)


def test_every_move_begins_the_time_anew() -> None:
    contest = Contest(30.0)
    assert not contest.is_dead(1, 0.0)
    assert not contest.is_dead(2, 29.0)
    assert contest.moved
    assert not contest.is_dead(2, 58.9)
    assert contest.is_dead(2, 59.0)


def test_time_in_which_nobody_could_move_does_not_count() -> None:
    contest = Contest(30.0)
    assert not contest.is_dead(1, 0.0)
    contest.lose_sight()
    assert not contest.is_dead(1, 40.0)
    assert not contest.moved
    assert contest.is_dead(1, 70.0)
