"""What appears and goes away in a `FindingBook`, and what that costs."""

from __future__ import annotations

from typing import Any

from ipvsagent.findings import Finding, FindingBook, FindingKind


def finding(number: int) -> Finding:
    return Finding(FindingKind.INVALID_OBJECT, f"Service shop/s{number}", "is nonsense")


class Counted:
    """Stands for a finding, and counts how often it is compared."""

    compared = 0

    def __init__(self, number: int) -> None:
        self.number = number

    def __hash__(self) -> int:
        return hash(self.number)

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return isinstance(other, Counted) and self.number == other.number


def test_what_appears_and_what_is_over() -> None:
    book = FindingBook()
    assert book.replace("x", [finding(1), finding(2)]) == ((finding(1), finding(2)), ())
    assert book.replace("x", [finding(1), finding(2)]) == ((), ())
    assert book.replace("y", [finding(2)]) == ((finding(2),), ())
    assert book.replace("x", [finding(3), finding(2)]) == ((finding(3),), (finding(1),))
    assert book.current() == [finding(2), finding(3)]
    assert book.replace("x", []) == ((), (finding(3), finding(2)))
    assert book.current() == [finding(2)]


def test_each_is_compared_a_few_times_however_many_there_are() -> None:
    book = FindingBook()
    many: list[Any] = [Counted(number) for number in range(2000)]
    others: list[Any] = [Counted(number) for number in range(1, 2001)]
    book.replace("x", many)
    Counted.compared = 0
    appeared, cleared = book.replace("x", others)
    assert [f.number for f in appeared] == [2000] and [f.number for f in cleared] == [0]
    assert Counted.compared < 10 * 2000
