"""Virtual servers by firewall mark that an older agent left: they drain, and go with their last connection."""

from __future__ import annotations

from msgspec.structs import replace

from ipvsagent.address import Address
from ipvsagent.cluster.objects import EVERYTHING_KNOWN, BlindSpots, Changes
from ipvsagent.kernel.fake.kernel import FakeKernel
from ipvsagent.model import Protocol, VirtualServerId
from ipvsagent.reconcile.by_mark import LOOK_EVERY, ByMark
from ipvsagent.rows import Observed, Op, RealServerRow, Row, Verb, VirtualServerRow
from tests.support.generated_cluster import many
from tests.support.ipvs_pipeline import TIMEOUT, Agent

MARK = VirtualServerId(Protocol.FWM, Address("0.0.0.0"), 0x2F900000)
SERVER = VirtualServerRow(MARK, "rr", 0, 0)
ONE, TWO = (RealServerRow(MARK, Address(f"10.1.0.{n}"), 8080) for n in (1, 2))
REMOVAL = [Op(Verb.DELETE, ONE), Op(Verb.DELETE, TWO), Op(Verb.DELETE, SERVER)]


def seen(*, active: int = 0, inactive: int = 0, weight: int = 1) -> list[Observed]:
    rows = [replace(row, weight=weight) for row in (ONE, TWO)]
    return [Observed(SERVER), Observed(rows[0], active=active, inactive=inactive), Observed(rows[1])]


def test_without_a_connection_it_goes_at_once() -> None:
    left = ByMark()
    assert left.transform(MARK, seen(), REMOVAL, 0.0, 60.0) == REMOVAL
    assert MARK not in left and left.next_due() is None


def test_with_one_it_stays_at_weight_zero_and_is_looked_at_again() -> None:
    left = ByMark()
    quiet = [Op(Verb.SET, replace(row, weight=0)) for row in (ONE, TWO)]
    assert list(left.transform(MARK, seen(active=1), REMOVAL, 10.0, 60.0)) == quiet
    assert MARK in left and left.next_due() == 10.0 + LOOK_EVERY
    assert left.due(14.0) == [] and left.due(15.0) == [MARK]
    assert list(left.transform(MARK, seen(inactive=1, weight=0), REMOVAL, 15.0, 60.0)) == []
    assert left.next_due() == 20.0
    assert left.transform(MARK, seen(weight=0), REMOVAL, 20.0, 60.0) == REMOVAL
    assert MARK not in left and left.due(99.0) == []


def test_in_the_end_it_goes_with_its_connections() -> None:
    left = ByMark()
    left.transform(MARK, seen(active=1), REMOVAL, 10.0, 12.0)
    left.transform(MARK, seen(active=1, weight=0), REMOVAL, 20.0, 12.0)
    assert left.next_due() == 22.0, "the deadline, which is not put off"
    assert left.transform(MARK, seen(active=1, weight=0), REMOVAL, 22.0, 12.0) == REMOVAL


def test_without_a_timeout_nothing_is_waited_for() -> None:
    assert ByMark().transform(MARK, seen(active=1), REMOVAL, 10.0, 0.0) == REMOVAL


# With the pipeline and a kernel that an older agent worked on


def of_an_older_agent() -> FakeKernel:
    kernel = FakeKernel()
    kernel.ownership.ledger.claim([MARK])
    kernel.put(SERVER, ONE, TWO)
    return kernel


def by_mark(kernel: FakeKernel) -> set[Row]:
    rows = [SERVER, *kernel.real_servers.get(MARK, {}).values()]
    return set(rows) if MARK in kernel.virtual_servers else set()


def test_a_start_removes_one_that_has_no_connection() -> None:
    kernel = of_an_older_agent()
    Agent(kernel, many(1, local=True), 0.0, EVERYTHING_KNOWN)
    assert not by_mark(kernel)


def test_one_with_connections_drains_and_goes_with_the_last() -> None:
    kernel = of_an_older_agent()
    kernel.connect(MARK, ONE.address, 8080, 1)
    agent = Agent(kernel, many(1, local=True), 0.0, EVERYTHING_KNOWN)
    drained = {SERVER, *(replace(row, weight=0) for row in (ONE, TWO))}
    assert by_mark(kernel) == drained
    assert agent.pipeline.next_due() == LOOK_EVERY
    log = len(kernel.log)
    for now in (LOOK_EVERY, 2 * LOOK_EVERY):
        assert agent.round(now) == 0 and by_mark(kernel) == drained
        assert not agent.pipeline.audit.look(100, now).drift
    assert len(kernel.log) == log
    restarted = Agent(kernel, many(1, local=True), 12.0, EVERYTHING_KNOWN)
    assert restarted.written == 0 and by_mark(kernel) == drained
    kernel.connect(MARK, ONE.address, 8080, 0)
    restarted.round(12.0 + LOOK_EVERY)
    assert not by_mark(kernel) and restarted.round(100.0) == 0


def test_one_whose_connections_stay_goes_after_the_timeout() -> None:
    kernel = of_an_older_agent()
    kernel.connect(MARK, ONE.address, 8080, 1)
    agent = Agent(kernel, (), 0.0, EVERYTHING_KNOWN)
    now = 0.0
    while (due := agent.pipeline.next_due()) is not None:
        assert now < due <= TIMEOUT
        now = due
        agent.round(now)
    assert now == TIMEOUT and not kernel.virtual_servers


def test_blindness_holds_it() -> None:
    kernel = of_an_older_agent()
    agent = Agent(kernel, (), 0.0, BlindSpots(anything=True))
    assert by_mark(kernel) == {SERVER, ONE, TWO}
    agent.pipeline.apply_changes(Changes(blind=EVERYTHING_KNOWN), 1.0)
    agent.round(1.0)
    assert not by_mark(kernel)


def test_one_of_another_program_stays_as_it_is() -> None:
    kernel = FakeKernel()
    kernel.put(SERVER, ONE, TWO)
    agent = Agent(kernel, many(1, local=True), 0.0, EVERYTHING_KNOWN)
    agent.pipeline.audit.look(100, 1.0)
    assert by_mark(kernel) == {SERVER, ONE, TWO} and agent.round(2.0) == 0
