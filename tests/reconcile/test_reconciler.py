"""What the laws do not single out: when the reconciler tries again, and what it lets go of."""

from __future__ import annotations

import errno
from collections.abc import Callable

from msgspec.structs import replace

from ipvsagent.address import Address
from ipvsagent.cluster.objects import EVERYTHING_KNOWN, Changes
from ipvsagent.errors import KernelError
from ipvsagent.kernel.fake.kernel import FakeKernel
from ipvsagent.model import Protocol, VirtualServerId
from ipvsagent.rows import Op, RealServerRow, SetMemberRow, Verb
from tests.support.history import A_PODS, A, B, piece
from tests.support.ipvs_pipeline import WINDOW, Agent

SERVER = VirtualServerId(Protocol.TCP, Address("10.96.0.1"), 80)


def driven(agent: Agent, now: float, seconds: float) -> int:
    """Rounds when they are due, a window apart at least, as the loop does; how many."""
    end, rounds = now + seconds, 0
    while (due := agent.pipeline.next_due()) is not None and (now := max(now + WINDOW, due)) <= end:
        agent.round(now)
        rounds += 1
    return rounds


def refuses(verb: Verb, row: type) -> Callable[[Op], bool]:
    return lambda op: op.verb is verb and type(op.row) is row


def test_the_end_of_a_drain_does_not_ask_a_table_that_cannot_be_read_again_and_again() -> None:
    kernel = FakeKernel()
    agent = Agent(kernel, (A, A_PODS), 0.0, EVERYTHING_KNOWN)
    kernel.fail(refuses(Verb.ADD, RealServerRow), errno.ENOMEM)
    agent.pipeline.apply_changes(Changes(upserts=(piece("a", "10.1.0.2", "10.1.0.9"),)), 1.0)
    agent.round(1.0)
    assert SERVER in agent.pipeline.reconciler.states.suspects and SERVER in agent.pipeline.reconciler.drains
    kernel.read_error = KernelError.of(errno.ENOMEM)
    assert driven(agent, 1.0, 60.0) < 20, "0.5, 1, 2, 4, ... 30 s"

    kernel.heal()
    driven(agent, 61.0, 40.0)
    agent.round(200.0)
    agent.round(200.2)
    held = {row.address for row in kernel.real_servers[SERVER].values()}
    assert held == {"10.1.0.2", "10.1.0.9"} and not len(agent.pipeline.reconciler.drains)


def test_a_member_in_place_of_another_is_seen_in_a_pass_of_the_audit() -> None:
    kernel = FakeKernel()
    agent = Agent(kernel, (A, A_PODS), 0.0, EVERYTHING_KNOWN)
    wanted = kernel.snapshot()
    victim = min(row for row in kernel.set_members if row.member == "10.96.0.1,tcp:80")
    kernel.drop(victim)
    kernel.put(replace(victim, member="10.96.0.7,tcp:80"))
    shared = agent.pipeline.reconciler.shared
    shared.check_sizes(1.0)
    agent.round(1.0)
    assert kernel.snapshot() != wanted, "its size is what it was"
    for second in (2.0, 3.0):
        agent.pipeline.audit.look(100, second)
        agent.round(second)
    assert kernel.snapshot() == wanted and not shared.retry

    spent = []
    for second in range(4, 4 + 3 * len(agent.pipeline.desired)):
        calls = kernel.calls
        agent.pipeline.audit.look(1, float(second))
        spent.append(kernel.calls - calls)
    assert sum(calls > 1 for calls in spent) <= 4, "only the end of a pass reads the sets"


def test_a_member_that_is_refused_does_not_have_everything_read_once_a_second() -> None:
    kernel = FakeKernel()
    agent = Agent(kernel, (A, A_PODS), 0.0, EVERYTHING_KNOWN)
    kernel.fail(refuses(Verb.ADD, SetMemberRow), errno.ERANGE)
    agent.pipeline.apply_changes(Changes(upserts=(B,)), 1.0)
    agent.round(1.0)
    shared = agent.pipeline.reconciler.shared
    refused = set(shared.retry)
    assert refused and all(isinstance(row, SetMemberRow) for row in refused)
    calls = kernel.calls
    for second in range(2, 12):
        shared.check_sizes(float(second))
    assert kernel.calls - calls <= 10, "only the sizes"

    victim = min(row for row in kernel.set_members if row.member == "10.96.0.1,tcp:80")
    kernel.drop(victim)
    shared.check_sizes(12.0)
    assert set(shared.retry) == refused | {victim}, "a difference beside it is seen"

    kernel.heal()
    driven(agent, 12.0, 40.0)
    assert victim in kernel.set_members and not shared.retry

    extra = replace(victim, member="10.96.0.7,tcp:80")
    kernel.put(extra)
    shared.check_sizes(60.0)
    assert set(shared.retry) == {extra}
