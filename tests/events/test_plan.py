"""When Events are written, by one node and by five thousand."""

from __future__ import annotations

import heapq
import random
from collections import Counter

from ipvsagent.events.plan import AGAIN, BURST, CONFIRM_AFTER, LOOK_AGAIN, MOST, PER_SECOND, EventPlan, Outcome, Write
from ipvsagent.findings import Finding, FindingKind


def bad(name: str = "cart", reason: str = "is wrong") -> Finding:
    return Finding(FindingKind.INVALID_ANNOTATION, f"Service shop/{name}", reason)


FALLBACK = Finding(FindingKind.FALLBACK, "backend", "no IPVS")


def plan(nodes: int | None = 1, node: str = "node-1", chance=lambda: 0.0) -> EventPlan:
    made = EventPlan(node, "start", chance)
    if nodes is not None:
        made.set_cluster_size(nodes)
    return made


def write(made: EventPlan, now: float, outcome: Outcome) -> Write:
    found = made.next(now)
    assert found, made.due_at()
    made.wrote(found, outcome, now)
    return found


def test_a_finding_is_written_once_and_that_it_still_holds_every_half_hour():
    made = plan()
    made.found([bad()], [], 0.0)
    assert write(made, 0.0, Outcome.CREATED).count == 0
    assert made.next(CONFIRM_AFTER - 1) is None and made.due_at() == CONFIRM_AFTER
    assert write(made, CONFIRM_AFTER, Outcome.REPEATED).count == 1
    assert write(made, 2 * CONFIRM_AFTER, Outcome.REPEATED).count == 2


def test_nothing_is_written_of_what_is_over():
    made = plan()
    made.found([bad()], [], 0.0)
    made.found([], [bad()], 0.0)
    assert made.next(0.0) is None and made.due_at() == float("inf")
    made.found([bad()], [], 1.0)
    write(made, 1.0, Outcome.CREATED)
    made.found([], [bad()], 2.0)
    assert made.due_at() == float("inf")


def test_what_two_origins_say_is_over_when_both_have_stopped():
    made = plan()
    made.found([bad(), bad()], [], 0.0)
    made.found([], [bad()], 0.0)
    assert write(made, 0.0, Outcome.CREATED)
    made.found([], [bad()], 1.0)
    assert made.due_at() == float("inf")


def test_what_another_node_has_said_is_left_to_it_for_an_hour():
    made = plan()
    made.found([bad()], [], 0.0)
    write(made, 0.0, Outcome.KNOWN)
    assert made.due_at() == LOOK_AGAIN
    assert write(made, LOOK_AGAIN, Outcome.CREATED).count == 0, "that node is gone"
    assert made.due_at() == LOOK_AGAIN + CONFIRM_AFTER


def test_an_event_that_expired_is_made_again():
    made = plan()
    made.found([bad()], [], 0.0)
    write(made, 0.0, Outcome.CREATED)
    assert write(made, CONFIRM_AFTER, Outcome.GONE).count == 1
    assert write(made, CONFIRM_AFTER + 1, Outcome.CREATED).count == 0


def test_a_failure_is_tried_again_and_costs_nothing():
    made = plan()
    made.found([bad()], [], 0.0)
    for second in range(3 * BURST):
        write(made, float(second), Outcome.FAILED)
    write(made, 100.0, Outcome.CREATED)


def test_something_new_of_the_same_kind_is_an_event_of_its_own():
    made = plan()
    made.found([bad()], [], 0.0)
    first = write(made, 0.0, Outcome.CREATED)
    made.found([bad(reason="otherwise")], [bad()], 10.0)
    second = write(made, 10.0, Outcome.CREATED)
    assert second.event.name != first.event.name and second.count == 0


def test_what_comes_and_goes_is_told_a_few_times_and_then_seldom():
    made = plan()
    told = 0
    for second in range(3600):
        made.found([bad()], [], float(second))
        while found := made.next(float(second)):
            made.wrote(found, Outcome.REPEATED if found.count else Outcome.CREATED, float(second))
            told += 1
        made.found([], [bad()], second + 0.5)
    assert BURST < told <= BURST + 3600 / AGAIN


def test_own_events_wait_for_nobody_and_shared_ones_for_the_number_of_nodes():
    made = plan(nodes=None)
    made.starts("serves")
    made.found([FALLBACK, bad()], [], 0.0)
    assert write(made, 0.0, Outcome.CREATED).event.topic.reason == "Starting"
    assert write(made, 0.0, Outcome.CREATED).event.topic.reason == "Fallback"
    assert made.next(1000.0) is None
    made.set_cluster_size(3)
    assert write(made, 1000.0, Outcome.CREATED).event.topic.regarding.name == "cart"


def test_only_so_many_topics_are_kept_and_those_that_are_over_go_first():
    made = plan()
    assert made.found([bad(f"s{i}") for i in range(MOST + 7)], [], 0.0) == 7
    made.found([], [bad("s0")], 1.0)
    assert made.found([bad("late")], [], 2.0) == 0


def test_five_thousand_nodes_with_the_same_broken_services_ask_ten_times_a_second():
    """And a person sees each of these Events within seconds."""
    nodes, services = 5000, 5
    chance = random.Random(1).random
    plans = [plan(nodes, f"node-{i}", chance) for i in range(nodes)]
    broken = [bad(f"s{i}") for i in range(services)]
    there: dict[str, float] = {}
    asked: Counter[int] = Counter()
    for each in plans:
        each.found(broken, [], 0.0)
    due = [(each.due_at(), number) for number, each in enumerate(plans)]
    heapq.heapify(due)
    while due[0][0] < 300.0:
        now, number = heapq.heappop(due)
        found = plans[number].next(now)
        assert found
        asked[int(now // 10)] += 1
        outcome = Outcome.KNOWN if found.event.name in there else Outcome.CREATED
        plans[number].wrote(found, outcome, now)
        there.setdefault(found.event.name, now)
        heapq.heappush(due, (plans[number].due_at(), number))
    assert len(there) == services and max(there.values()) < 10.0
    assert 0.5 * 10 * PER_SECOND < max(asked.values()) < 1.5 * 10 * PER_SECOND
