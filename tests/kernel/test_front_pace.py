"""How often a jump is put in front again, by a clock of the test's."""

from __future__ import annotations

from ipvsagent.kernel.iptables.front_pace import FIRST, LONGEST, FrontPace


def test_the_first_answer_is_at_once() -> None:
    assert FrontPace().may_move(0.0)


def test_each_answer_doubles_the_time_to_the_next() -> None:
    pace, now = FrontPace(), 1000.0
    waits: list[float] = []
    pace.moved(now)
    for _ in range(9):
        wait = next(float(s) for s in range(1, 10_000) if pace.may_move(now + s))
        waits.append(wait)
        now += wait
        pace.moved(now)
    assert waits == [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0, 3600.0]
    assert (FIRST, LONGEST) == (60.0, 3600.0)


def test_after_a_calm_time_it_begins_again() -> None:
    pace = FrontPace()
    for now in (0.0, 60.0, 180.0):
        assert pace.may_move(now)
        pace.moved(now)
    assert not pace.may_move(180.0 + 239.0) and pace.may_move(180.0 + 240.0)
    pace.moved(180.0 + 480.0)
    assert not pace.may_move(660.0 + 479.0), "twice the delay is no calm yet"
    pace.moved(660.0 + 961.0)
    assert not pace.may_move(1621.0 + 59.0) and pace.may_move(1621.0 + 60.0)
