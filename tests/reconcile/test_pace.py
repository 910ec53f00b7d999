"""How much of the kernel each look of the audit reads."""

from __future__ import annotations

import pytest

from ipvsagent.reconcile.audit import Pace

QUICK, SLOW = 0.0001, 0.001  # seconds for one virtual server


def paced(*costs: float) -> Pace:
    pace = Pace()
    for cost in costs:
        pace.record(10, 10 * cost)
    return pace


@pytest.mark.parametrize(("servers", "count"), [(0, 1), (1, 1), (7, 7), (100, 20), (1000, 20), (10_000, 34)])
def test_a_pass_takes_seconds_when_they_are_few_and_minutes_when_they_are_many(servers, count):
    assert Pace().count(servers, 1.0) == count
    assert paced(QUICK / 2).count(servers, 1.0) == count


@pytest.mark.parametrize(("servers", "count"), [(1, 1), (100, 3), (1000, 3), (10_000, 12)])
def test_slow_reading_takes_longer_but_ends(servers, count):
    assert paced(SLOW).count(servers, 1.0) == count


def test_one_look_that_had_to_repair_slows_none_of_the_next():
    assert paced(QUICK / 2, 5.0, QUICK / 2).count(1000, 1.0) == 20
