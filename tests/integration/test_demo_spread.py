"""Whether a spread is even, and who answered: the demo's judgement, on counts made up here."""

import pytest

from integration.demo.cluster import ServicePort
from integration.demo.spread import Spread
from integration.lab import Failure, Outcome, Report, Server, Target

VIP = Target("10.96.0.1", 80)
ENDPOINTS = (Server("a", "10.0.0.1", 80), Server("b", "10.0.0.2", 80))
PORT = ServicePort("shop", "cart", "http", VIP, (), ENDPOINTS)


def report(lost=0, **answers):
    outcomes = [Outcome(VIP, 0.0, 0.1, name, "c") for name, count in answers.items() for _ in range(count)]
    return Report((*outcomes, *[Outcome(VIP, 0.0, 0.1, failure=Failure.TIMEOUT)] * lost))


@pytest.mark.parametrize(
    ("reports", "even"),
    [
        ([report(a=30, b=30)], True),
        ([report(a=20, b=10), report(a=10, b=20)], True),
        ([report(a=31, b=29)], True),
        ([report(a=33, b=27)], True),
        ([report(a=34, b=26)], False),
        ([report(a=2, b=1)], True),
        ([report(a=60)], False),
        ([report(a=30, b=20, lost=10)], False),
        ([report(lost=60)], False),
    ],
)
def test_even(reports, even):
    assert Spread(PORT, tuple(reports)).is_even is even


def test_answers_by_others_are_no_answers():
    spread = Spread(PORT, (report(a=10, b=10, c=1),))
    assert spread.answers == [10, 10]
    assert spread.strangers == ["c"]
    assert spread.share == 10.5


@pytest.mark.parametrize(("a", "b", "even"), [(120, 120, True), (100, 140, True), (75, 165, False), (240, 0, False)])
def test_even_as_far_as_chance_goes(a, b, even):
    assert Spread(PORT, (report(a=a, b=b),), at_random=True).is_even is even
