"""The laws of tests/support/laws.py against the fake kernel: the state machine, and each check by itself."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import settings
from msgspec.structs import replace

from ipvsagent.address import Address
from ipvsagent.cluster.objects import (
    EVERYTHING_KNOWN,
    BlindSpots,
    Changes,
    EndpointPort,
    EndpointSlice,
    Service,
    ServiceKey,
    ServicePort,
)
from ipvsagent.kernel.fake.kernel import FakeKernel
from ipvsagent.model import Protocol
from ipvsagent.rows import AddressRow, Op, Verb
from tests.support.generated_cluster import many
from tests.support.ipvs_pipeline import Agent, fresh_snapshot
from tests.support.laws import CHECKS, Laws, cost_of


def test_a_stray_that_is_held_stays_ours_without_its_address() -> None:
    """Found by the machine: held while blind, it lost its address with a Service that went, and was left for ever."""
    laws = Laws()
    laws.begin(items=[], udp=False)
    laws.remove(choice=2)
    laws.goes_blind(blind=BlindSpots(anything=True))
    laws.somebody_interferes(choice=0, what="stray server")
    laws.killed_and_restarted(after=1, seconds=0.0)
    laws.everything_settles()


def name_of(check: Callable[[], None] | partial[None]) -> str:
    return f"{check.func.__name__}-{check.args[0]}" if isinstance(check, partial) else check.__name__


@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_law(check: Callable[[], None]) -> None:
    check()


TestLaws = Laws.TestCase
TestLaws.settings = settings(max_examples=400, stateful_step_count=30, deadline=None)


def test_nor_does_it_matter_with_local_policies() -> None:
    """Law 8."""
    few, crowd = cost_of(10, local=True), cost_of(5000, local=True)
    assert few == crowd
    assert few["endpoint terminating"] == (1, 2, 0)
    assert few["nothing"] == (0, 0, 0)


def test_old_endpoints_serve_until_the_new_ones_are_accepted() -> None:
    """UDP does not drain: the kernel refuses every new real server, and the old ones would be deleted after them."""
    service, piece = many(1)
    assert isinstance(service, Service) and isinstance(piece, EndpointSlice)
    service = replace(service, ports=(ServicePort("http", Protocol.UDP, 80),))
    old = replace(piece, ports=(EndpointPort("http", Protocol.UDP, 8080),))
    moved = [replace(e, address=Address(e.address.replace("10.", "11."))) for e in old.endpoints]
    new = replace(old, endpoints=tuple(moved))
    kernel = FakeKernel()
    agent = Agent(kernel, [service, old], 0.0, EVERYTHING_KNOWN)
    kernel.fail(lambda op: op.verb is Verb.ADD, errno.ENOMEM)
    agent.pipeline.apply_changes(Changes(upserts=(new,)), 1.0)
    for now in (1.0, 2.0, 40.0):
        agent.round(now)
        assert all(kernel.real_servers.values())
    kernel.heal()
    agent.round(100.0)
    assert kernel.snapshot() == fresh_snapshot([service, new])


def test_an_address_stays_bound_when_one_port_goes_and_another_comes() -> None:
    kernel = FakeKernel()
    service = many(1)[0]
    assert isinstance(service, Service)
    agent = Agent(kernel, [service], 0.0, EVERYTHING_KNOWN)
    changed = replace(service, ports=(ServicePort("dns", Protocol.UDP, 53),))
    agent.pipeline.apply_changes(Changes(upserts=(changed,)), 1.0)
    unbound: list[Op] = []
    kernel.after_each_op = lambda op: unbound.append(op) if not kernel.bound else None
    agent.round(1.0)
    assert not unbound and kernel.snapshot() == fresh_snapshot([changed])


def test_blindness_holds_addresses_and_members_whatever_looks_at_them() -> None:
    kernel = FakeKernel()
    objects = many(1)
    Agent(kernel, objects, 0.0, EVERYTHING_KNOWN)
    before = kernel.snapshot()
    agent = Agent(kernel, objects[1:], 1.0, BlindSpots(services=True))
    reconciler = agent.pipeline.reconciler
    reconciler.shared_changed(AddressRow(Address("10.96.0.1")), True, 2.0)
    for now in (2.0, 40.0):
        reconciler.shared.check_sizes(now)
        agent.round(now)
    assert kernel.snapshot() == before
    agent.pipeline.apply_changes(Changes(blind=EVERYTHING_KNOWN), 50.0)
    agent.round(50.0)
    assert not kernel.snapshot()


def test_real_servers_that_blindness_holds_are_not_refused() -> None:
    kernel = FakeKernel()
    objects = many(1)
    Agent(kernel, objects, 0.0, EVERYTHING_KNOWN)
    before = kernel.snapshot()
    agent = Agent(kernel, objects[:1], 1.0, BlindSpots(endpoints=frozenset({ServiceKey("ns", "s0")})))
    assert kernel.snapshot() == before
    assert isinstance(objects[0], Service)
    agent.pipeline.apply_changes(Changes(removals=(objects[0].key,)), 2.0)
    agent.round(2.0)
    assert not kernel.snapshot(), "a wish that was withdrawn holds nothing"
