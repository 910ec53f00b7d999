"""The laws that hold whatever happens: a Hypothesis state machine, and checks of single laws.

1. The order of events does not matter, and 2. incremental equals from scratch: after any history the kernel holds what
   a fresh agent with the last objects alone would put into an empty one, plus drains at weight 0.
3. A second round writes nothing. 4. A restart writes nothing, also with drains under way.
5. After any finite faults, drift and crashes the kernel equals the desired state.
6. Rows that are not ours are never touched.
7. A virtual server that has real servers before and after is never without one in between: checked after every op.
8. One change costs the same at 10 and at 5,000 Services: calls, ops and rows are counted, not timed.
9. While the agent is blind, nothing that was only found is removed.

Convergence alone is a weak test, because stale belief heals itself by reading: so writes are counted as well.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any
from zlib import crc32

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from ipvsagent.address import Address, Family
from ipvsagent.cluster.objects import (
    EVERYTHING_KNOWN,
    BlindSpots,
    Changes,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Node,
    Object,
    ObjectKey,
    Service,
    ServiceKey,
    ServicePort,
)
from ipvsagent.kernel.fake.kernel import FakeKernel, Killed
from ipvsagent.model import Frontend, Protocol, VirtualServerId
from ipvsagent.reconcile.report import Report
from ipvsagent.rows import AddressRow, Op, RealServerRow, Row, TranslationRow, Verb, VirtualServerRow
from tests.support.generated_cluster import ENDPOINTS, IPS, NODE, many, services, slices
from tests.support.ipvs_pipeline import FOREIGN, FOREIGN_MARK, FOREIGN_ROWS, TIMEOUT, Agent, fresh_snapshot


class Laws(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = self.make_kernel()
        self.kernel.put(*FOREIGN_ROWS)
        self.foreign_rows = self.kernel.snapshot()
        self.objects: dict[ObjectKey, Object] = {}
        self.now = 1000.0
        self.blind = EVERYTHING_KNOWN
        self.agent = Agent(self.kernel, (), self.now, self.blind)
        self.kernel.after_each_op = self.check_never_empty
        self.guarded: set[VirtualServerId] = set()
        self.disturbed = False

    def make_kernel(self) -> Any:
        return FakeKernel()

    # Events

    @initialize(items=st.lists(st.one_of(services, slices), max_size=3), udp=st.booleans())
    def begin(self, items: list[Object], udp: bool) -> None:
        """Two Services at work, so that there is something to lose."""
        ports = (ServicePort("dns", Protocol.UDP, 53) if udp else ServicePort("http", Protocol.TCP, 80),)
        for name, piece, address, pods in (("a", "s1", IPS[0], ENDPOINTS[:3]), ("b", "s2", IPS[1], ENDPOINTS[2:5])):
            self.upsert(Service(namespace="ns", name=name, cluster_ips=(Address(address),), ports=ports))
            self.upsert(
                EndpointSlice(
                    namespace="ns",
                    name=piece,
                    service=name,
                    family=Family.IPV4,
                    ports=(EndpointPort("http", Protocol.TCP, 8080), EndpointPort("dns", Protocol.UDP, 5353)),
                    endpoints=tuple(Endpoint(Address(pod), ready=pod != pods[-1]) for pod in pods),
                )
            )
        self.round(0.0)
        for item in items:
            self.upsert(item)

    @rule(item=st.one_of(services, slices))
    def upsert(self, item: Object) -> None:
        self.objects[item.key] = item
        self.agent.pipeline.apply_changes(Changes(upserts=(item,)), self.now)

    @rule(choice=st.integers(0, 1000))
    def remove(self, choice: int) -> None:
        keys = sorted(key for key in self.objects if key.kind != "Node")
        if keys:
            key = keys[choice % len(keys)]
            del self.objects[key]
            self.agent.pipeline.apply_changes(Changes(removals=(key,)), self.now)

    @rule(zone=st.sampled_from(["", "z"]), address=st.sampled_from(["172.16.0.1", "10.96.0.1"]))
    def node_changes(self, zone: str, address: str) -> None:
        node = Node(name=NODE, addresses=(Address(address),), zone=zone)
        self.objects[node.key] = node
        self.agent.pipeline.apply_changes(Changes(upserts=(node,)), self.now)

    @rule(endpoint=st.integers(0, 5), name=st.sampled_from(["s1", "s2", "s3"]))
    def endpoint_leaves(self, endpoint: int, name: str) -> None:
        piece = self.objects.get(ObjectKey("EndpointSlice", "ns", name))
        if isinstance(piece, EndpointSlice):
            self.upsert(replace(piece, endpoints=tuple(e for e in piece.endpoints if e.address != ENDPOINTS[endpoint])))

    @rule(name=st.sampled_from(["s1", "s2", "s3"]))
    def endpoints_swap(self, name: str) -> None:
        """Ready endpoints become unready and the other way round, as in a rolling update, or when pods flap."""
        piece = self.objects.get(ObjectKey("EndpointSlice", "ns", name))
        if isinstance(piece, EndpointSlice):
            flipped = tuple(replace(e, ready=not e.ready, terminating=False) for e in piece.endpoints)
            self.upsert(replace(piece, endpoints=flipped))

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.2, 1.0, 30.0, 100.0]))
    def round(self, seconds: float) -> None:
        self.now += seconds
        self.guarded = self.with_real_servers()
        self.agent.round(self.now)
        self.guarded = set()

    @rule()
    def audit(self) -> None:
        self.now += 1.0
        self.agent.pipeline.audit.look(100, self.now)

    @rule(active=st.integers(0, 1))
    def connections_change(self, active: int) -> None:
        for server, reals in self.kernel.real_servers.items():
            for address, port in reals:
                self.kernel.connect(server, address, port, active)
        self.agent.pipeline.audit.poll_drains(10, self.now)

    # Trouble

    @rule(code=st.sampled_from([errno.EINVAL, errno.ENOMEM, errno.EEXIST, errno.ENOENT]), nth=st.integers(0, 4))
    def fault(self, code: int, nth: int) -> None:
        """The kernel refuses some ops, but never says of a row that is there and is deleted that it is not there."""
        self.disturbed = True

        def refused(op: Op) -> bool:
            lie = op.verb is Verb.DELETE and code == errno.ENOENT
            return not lie and crc32(str(op).encode()) % 5 == nth

        self.kernel.fail(refused, code)

    @rule()
    def heal(self) -> None:
        self.kernel.heal()

    @rule(wait=st.booleans())
    def rules_wait(self, wait: bool) -> None:
        self.agent.rules_wait = wait

    @rule(after=st.integers(0, 6), seconds=st.sampled_from([0.0, 0.2, 100.0]))
    def killed_and_restarted(self, after: int, seconds: float) -> None:
        self.now += seconds
        self.kernel.crash_after(after)
        try:
            self.agent.round(self.now)
        except Killed:
            self.disturbed = True
        self.kernel.heal()
        self.agent = Agent(self.kernel, self.objects.values(), self.now, self.blind)

    @rule(
        choice=st.integers(0, 1000),
        what=st.sampled_from(["drop", "edit", "flush", "flush sets", "stray", "stray server"]),
    )
    def somebody_interferes(self, choice: int, what: str) -> None:
        self.disturbed = True
        if what == "flush sets":
            self.kernel.drop(*self.kernel.set_members)
            return
        if what == "flush":
            ours = [r for r in self.kernel.virtual_servers.values() if r not in FOREIGN_ROWS]
            self.kernel.drop(*ours)
            return
        rows = sorted(self.kernel.snapshot() - self.foreign_rows, key=str)
        rows = [r for r in rows if not isinstance(r, TranslationRow)]  # the thread for packet rules repairs these
        if what == "stray server":
            rows = [r for r in rows if isinstance(r, VirtualServerRow) and r.id.address in self.kernel.bound]
        if not rows:
            return
        row = rows[choice % len(rows)]
        if what == "drop":
            self.kernel.drop(row)
        elif isinstance(row, RealServerRow) and what == "edit":
            self.kernel.put(replace(row, weight=row.weight + 7))
        elif isinstance(row, RealServerRow) and what == "stray":
            self.kernel.put(replace(row, address=Address("10.9.9.9")))
        elif isinstance(row, VirtualServerRow) and what == "stray server" and row.id.protocol is not Protocol.FWM:
            self.kernel.put(replace(row, id=replace(row.id, port=4711)))
            self.audit()  # it is ours by its address alone: to be seen before that goes
            self.audit()
        elif isinstance(row, VirtualServerRow) and what == "edit":
            self.kernel.put(replace(row, scheduler="wlc"))

    @precondition(lambda self: not self.blind.holds_virtual_servers)
    @rule(
        blind=st.sampled_from(
            [
                BlindSpots(anything=True),
                BlindSpots(services=True),
                BlindSpots(endpoints=frozenset({ServiceKey("ns", "a")})),
            ]
        )
    )
    def goes_blind(self, blind: BlindSpots) -> None:
        self.blind = blind
        self.agent.pipeline.apply_changes(Changes(blind=blind), self.now)

    @rule()
    def sees_again(self) -> None:
        self.blind = EVERYTHING_KNOWN
        self.agent.pipeline.apply_changes(Changes(blind=self.blind), self.now)

    @precondition(lambda self: self.blind.anything)
    @rule()
    def restart_while_blind_removes_nothing(self) -> None:
        before = self.kernel.snapshot()
        self.kernel.heal()
        self.agent = Agent(self.kernel, self.objects.values(), self.now, self.blind)
        after = {self.place(row) for row in self.kernel.snapshot()}
        assert {self.place(row) for row in before} <= after

    # What must hold

    @invariant()
    def others_are_left_alone(self) -> None:
        assert self.foreign_rows <= self.kernel.snapshot()
        assert len(self.kernel.real_servers[FOREIGN]) == len(self.kernel.real_servers[FOREIGN_MARK]) == 1

    @rule()
    def everything_settles(self) -> None:
        """Laws 1, 2, 3, 4 and 5."""
        self.kernel.heal()
        self.sees_again()
        self.agent.rules_wait = False
        self.quiesce()
        reconciler = self.agent.pipeline.reconciler
        drained = {row for i in reconciler.drains for row in reconciler.drains.rows(i)}
        assert self.ours() - drained == fresh_snapshot(self.objects.values())
        assert all(row.weight == 0 for row in drained)
        for server_id in self.agent.pipeline.desired:
            assert reconciler.states.confirmed[server_id] is self.agent.pipeline.desired.get(server_id)
            if reconciler.states.confirmed[server_id].frontend is not Frontend.NODE_CLIENTS:
                assert reconciler.states.confirmed[server_id].service.service == self.oldest_claimant(server_id)
        translated = [row for row in self.kernel.snapshot() if isinstance(row, TranslationRow)]
        assert set(translated) == {row for row in reconciler.shared if isinstance(row, TranslationRow)}
        assert len({row.source for row in translated}) == len(translated), "one address is translated to two"
        assert {row.target for row in translated} <= self.kernel.virtual_servers.keys()
        for row in translated:
            source, target = (self.agent.pipeline.desired.get(server_id) for server_id in (row.source, row.target))
            assert source and target and source.service == target.service, "translated to another Service"
        assert self.agent.round(self.now) == 0, "a second round writes"
        assert not self.agent.pipeline.audit.look(100, self.now).drift, "belief and kernel differ"
        restarted = Agent(self.kernel, self.objects.values(), self.now, EVERYTHING_KNOWN)
        assert restarted.written == 0, "a restart writes"
        self.agent = restarted
        self.now += 2 * TIMEOUT + 1
        self.quiesce()
        left = {
            row for i in restarted.pipeline.reconciler.drains for row in restarted.pipeline.reconciler.drains.rows(i)
        }
        listed = {d for i in restarted.pipeline.reconciler.drains for d in restarted.pipeline.reconciler.drains.of(i)}
        assert all(d.phase == "listed" for d in listed)
        assert self.ours() - left == fresh_snapshot(self.objects.values())

    def oldest_claimant(self, server_id: VirtualServerId) -> str:
        claimants = [
            s
            for s in self.objects.values()
            if isinstance(s, Service)
            and server_id.address in (*s.cluster_ips, *(ingress.address for ingress in s.ingress))
            and server_id.family in s.families
            and any((p.protocol, p.port) == (server_id.protocol, server_id.port) for p in s.ports)
        ]
        return min(claimants, key=lambda s: (s.created is None, s.created, s.name)).name

    def quiesce(self) -> None:
        reconciler = self.agent.pipeline.reconciler
        for _ in range(12):
            self.now += 40.0 if reconciler.states.suspects or reconciler.shared.retry else 0.2
            self.agent.round(self.now)
            drift = self.agent.pipeline.audit.look(100, self.now).drift
            assert self.disturbed or not drift, "nobody interfered, and yet the kernel has drifted"
            # Report addresses that were bound or unbound, as the address monitor does.
            for row in [*(AddressRow(a) for a in self.kernel.bound), *reconciler.shared]:
                if isinstance(row, AddressRow):
                    reconciler.shared_changed(row, row.address in self.kernel.bound, self.now)
            reconciler.shared.check_sizes(self.now)
        assert not reconciler.states.suspects and not reconciler.shared.retry
        self.disturbed = False

    def ours(self) -> frozenset[Row]:
        return self.kernel.snapshot() - self.foreign_rows

    def place(self, row: Row) -> object:
        return (type(row), row.server, row.key) if isinstance(row, RealServerRow) else (type(row), row.key)

    def with_real_servers(self) -> set[VirtualServerId]:
        """Return the virtual servers that have real servers in the kernel now, and are to have some after the round."""
        pipeline = self.agent.pipeline
        pipeline._recompute(sorted(pipeline._dirty), Report())  # otherwise this would be the state of the last round
        desired = pipeline.desired
        return {
            i for i, reals in self.kernel.real_servers.items() if reals and (s := desired.get(i)) and s.real_servers
        }

    def check_never_empty(self, op: Op) -> None:
        """Law 7."""
        for server_id in self.guarded & self.kernel.virtual_servers.keys():
            assert self.kernel.real_servers[server_id], f"{op} left {server_id} without a real server"


def a_removed_slice_takes_its_real_servers_along() -> None:
    laws = Laws()
    laws.begin(items=[], udp=True)
    laws.remove(choice=0)
    laws.everything_settles()
    server_id = VirtualServerId(Protocol.UDP, Address(IPS[0]), 53)
    assert laws.kernel.real_servers[server_id] == {}


def clients_are_not_translated_to_what_an_older_service_takes() -> None:
    """An older Service claims the cluster IP, which is used again when that Service goes."""
    service, piece = many(1, local=True)
    assert isinstance(service, Service)
    kernel = FakeKernel()
    agent = Agent(kernel, [replace(service, created=2), piece], 0.0, EVERYTHING_KNOWN)
    (row,) = kernel.translated
    older = replace(service, name="older", created=1, external_local=False, ingress=())
    for step, (changes, expected) in enumerate(
        [(Changes(upserts=(older,)), set()), (Changes(removals=(older.key,)), {row})], 1
    ):
        agent.pipeline.apply_changes(changes, float(step))
        agent.round(float(step))
        assert set(kernel.translated) == expected


def cost_of(count: int, *, local: bool) -> dict[str, tuple[int, int, int]]:
    """Return calls, ops and rows read for one change of each kind, with that many Services."""
    kernel = FakeKernel()
    objects = many(count, local=local)
    agent = Agent(kernel, objects, 0.0, EVERYTHING_KNOWN)
    service, piece = objects[-2], objects[-1]
    assert isinstance(service, Service) and isinstance(piece, EndpointSlice)
    gone, *rest = piece.endpoints
    steps = {
        "endpoint terminating": Changes(
            upserts=(replace(piece, endpoints=(replace(gone, ready=False, terminating=True), *rest)),)
        ),
        "endpoint gone": Changes(upserts=(replace(piece, endpoints=tuple(rest)),)),
        "none here": Changes(upserts=(replace(piece, endpoints=tuple(e for e in rest if e.node != NODE)),)),
        "endpoint back": Changes(upserts=(piece,)),
        "service edited": Changes(upserts=(replace(service, affinity_timeout=100),)),
        "service gone": Changes(removals=(service.key,)),
        "service back": Changes(upserts=(service,)),
        "nothing": Changes(upserts=(service, piece)),
    }
    costs = {}
    now = 10.0
    for name, changes in steps.items():
        kernel.calls = kernel.ops_written = kernel.rows_read = 0
        agent.pipeline.apply_changes(changes, now)
        for _ in range(3):
            now += 1.0
            agent.round(now)
        costs[name] = (kernel.calls, kernel.ops_written, kernel.rows_read)
    return costs


def one_change_costs_the_same_however_many_services_there_are() -> None:
    """Law 8."""
    few, crowd = cost_of(10, local=False), cost_of(5000, local=False)
    assert few == crowd
    assert few["endpoint terminating"] == (1, 1, 0)
    assert few["nothing"] == (0, 0, 0)


def an_audit_finds_and_counts_drift(kind: str) -> None:
    kernel = FakeKernel()
    agent = Agent(kernel, many(20), 0.0, EVERYTHING_KNOWN)
    before = kernel.snapshot()
    row = next(r for r in sorted(before, key=str) if isinstance(r, RealServerRow))
    if kind == "drop":
        kernel.drop(row)
    elif kind == "edit":
        kernel.put(replace(row, weight=9))
    else:
        kernel.flush()
    drift: Counter[str] = Counter()
    for second in range(10):
        drift.update(d.kind for d in agent.pipeline.audit.look(4, float(second)).drift)
    assert kernel.snapshot() == before
    assert drift == {"drop": {"lost": 1}, "edit": {"edited": 1}, "flush": {"lost": 100}}[kind]
    writes = kernel.ops_written
    for second in range(10):
        assert not agent.pipeline.audit.look(4, float(second)).drift
    assert kernel.ops_written == writes


def a_flush_is_repaired_by_the_first_slice_that_sees_it() -> None:
    kernel = FakeKernel()
    agent = Agent(kernel, many(50), 0.0, EVERYTHING_KNOWN)
    before = kernel.snapshot()
    kernel.flush()
    agent.pipeline.audit.look(1, 1.0)
    assert kernel.snapshot() == before


def draining_survives_a_restart_without_a_write() -> None:
    """Law 4, with a drain under way in each phase that weighs 0."""
    kernel = FakeKernel()
    objects = many(1)
    agent = Agent(kernel, objects, 0.0, EVERYTHING_KNOWN)
    piece = objects[1]
    assert isinstance(piece, EndpointSlice)
    first, second, *rest = piece.endpoints
    kernel.connect(next(iter(kernel.virtual_servers)), first.address, 8080, 3)
    changed = replace(piece, endpoints=(replace(first, ready=False, terminating=True), *rest))
    agent.pipeline.apply_changes(Changes(upserts=(changed,)), 1.0)
    for now in (1.0, 2.0):
        agent.round(now)
    weights = {r.address: r.weight for r in kernel.snapshot() if isinstance(r, RealServerRow)}
    assert weights[first.address] == 0 and weights[second.address] == 0
    log = len(kernel.log)
    restarted = Agent(kernel, [objects[0], changed], 3.0, EVERYTHING_KNOWN)
    assert restarted.written == 0 and len(kernel.log) == log
    assert {
        d.row.address: d.phase.value
        for i in restarted.pipeline.reconciler.drains
        for d in restarted.pipeline.reconciler.drains.of(i)
    } == {
        first.address: "listed",
        second.address: "leaving",
    }


def a_full_swap_of_endpoints_never_passes_through_none(protocol: Protocol) -> None:
    """Law 7, where it is hardest: UDP does not drain, so that all old ones go in the round that brings the new."""
    service, piece = many(1)
    assert isinstance(service, Service) and isinstance(piece, EndpointSlice)
    service = replace(service, ports=(ServicePort("http", protocol, 80),))
    old = replace(piece, ports=(EndpointPort("http", protocol, 8080),))
    moved = tuple(replace(e, address=Address(e.address.replace("10.", "11."))) for e in old.endpoints)
    unready = tuple(replace(e, ready=False, serving=False) for e in old.endpoints)
    kernel = FakeKernel()
    agent = Agent(kernel, [service, old], 0.0, EVERYTHING_KNOWN)
    fewest: list[int] = []
    kernel.after_each_op = lambda op: fewest.append(min(len(reals) for reals in kernel.real_servers.values()))
    agent.pipeline.apply_changes(Changes(upserts=(replace(old, endpoints=(*unready, *moved)),)), 1.0)
    agent.round(1.0)
    assert min(fewest) >= 4
    (reals,) = kernel.real_servers.values()
    assert {r.address for r in reals.values() if r.weight} == {e.address for e in moved}


def what_blindness_held_back_goes_when_everything_is_known() -> None:
    """Law 9: nothing that was only found is removed while blind; afterwards it goes by itself, without an audit."""
    kernel = FakeKernel()
    objects = many(2)
    Agent(kernel, objects, 0.0, EVERYTHING_KNOWN)
    before = kernel.snapshot()
    agent = Agent(kernel, objects[:2], 1.0, BlindSpots(services=True))
    assert agent.written == 0 and kernel.snapshot() == before
    agent.pipeline.apply_changes(Changes(blind=EVERYTHING_KNOWN), 2.0)
    agent.round(2.0)
    assert kernel.snapshot() == fresh_snapshot(objects[:2])


def real_servers_are_never_put_behind_a_virtual_server_of_others() -> None:
    """One appears between our reading and our writing: the addition fails, and no real server of ours may follow."""
    kernel = FakeKernel()
    agent = Agent(kernel, (), 0.0, EVERYTHING_KNOWN)
    objects = many(1)
    server = VirtualServerId(Protocol.TCP, Address("10.96.0.1"), 80)
    theirs = VirtualServerRow(server, "wlc", 0, 0)
    kernel.put(theirs)
    agent.pipeline.apply_changes(Changes(upserts=tuple(objects)), 1.0)
    for now in (1.0, 2.0, 3.0):
        agent.round(now)
    assert kernel.snapshot() == {theirs}
    assert server in agent.pipeline.reconciler.states.foreign
    kernel.drop(theirs)
    agent.pipeline.audit.look(10, 4.0)
    assert kernel.snapshot() == fresh_snapshot(objects)
    assert not any(op.verb is Verb.DELETE for op in kernel.log)


# Each must fail for some planted bug; the cheap ones first.
CHECKS: tuple[Callable[[], None], ...] = (
    one_change_costs_the_same_however_many_services_there_are,
    *(partial(an_audit_finds_and_counts_drift, kind) for kind in ("drop", "edit", "flush")),
    a_flush_is_repaired_by_the_first_slice_that_sees_it,
    *(
        partial(a_full_swap_of_endpoints_never_passes_through_none, protocol)
        for protocol in (Protocol.TCP, Protocol.UDP)
    ),
    what_blindness_held_back_goes_when_everything_is_known,
    a_removed_slice_takes_its_real_servers_along,
    clients_are_not_translated_to_what_an_older_service_takes,
    draining_survives_a_restart_without_a_write,
    real_servers_are_never_put_behind_a_virtual_server_of_others,
)
