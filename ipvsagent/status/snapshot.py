"""The agent's account of itself: one document, made when somebody asks, by the loop that owns the state.

It says what is wanted and what is believed; counters of the kernel are not in it, because whoever asks can read
those, and the loop must not stand still for it.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from ipvsagent.address import Family
from ipvsagent.findings import Finding
from ipvsagent.kernel.sysctls import ConnReuse
from ipvsagent.model import Frontend, VirtualServer, VirtualServerId, WhenEmpty
from ipvsagent.pipeline import Pipeline
from ipvsagent.reconcile.states import State
from ipvsagent.sources.view import SourceView

TrafficPolicy = Literal["internal", "external"]


class DrainView(Struct, frozen=True):
    """remaining: seconds until the real server is deleted whatever it serves; None = until its slice changes."""

    address: str
    port: int
    phase: str
    remaining: float | None


class ServerView(Struct, frozen=True, omit_defaults=True):
    """One desired virtual server, and what is believed of it."""

    id: VirtualServerId
    service: str
    frontend: str
    condition: str
    """shadowed, suspect, pending, held or confirmed."""
    error: str = ""
    """What the kernel said last, of a suspect."""
    when_empty: str = "refuse"
    clients: str = ""
    """Which clients it serves: those "outside" this node or those on this "node"; "" = all."""
    inside: str = ""
    """Where clients on this node are translated to, `TCP 10.96.0.4:80`; "" = nowhere, as always on iptables."""
    draining: tuple[DrainView, ...] = ()


class Totals(Struct, frozen=True):
    services: int
    endpoint_slices: int
    virtual_servers: int
    real_servers: int
    confirmed: int
    suspect: int
    shadowed: int
    draining: int


class Programming(Struct, frozen=True):
    """How long changes of endpoints took, in seconds, from what caused them (a pod became ready) to the kernel's
    acknowledgement. changes: how many, since the agent started. What caused them is told in whole seconds by most."""

    changes: int = 0
    total: float = 0.0
    last: float = 0.0
    worst: float = 0.0

    def with_sample(self, seconds: float) -> Programming:
        return Programming(self.changes + 1, self.total + seconds, seconds, max(self.worst, seconds))


class Snapshot(Struct, frozen=True):
    """Times in seconds. in_sync: everything wanted is confirmed. start_*: of the comparison at start.

    ops_written and drift count since the agent started; drift by kind: lost, edited, stray, rules, sysctl.
    conn_reuse: what is done about ports that clients use again; None without IPVS.
    """

    version: str
    pid: int
    node: str
    backend: str
    interface: str
    source: SourceView
    uptime: float
    in_sync: bool
    seconds_since_change: float | None
    start_writes: int
    start_seconds: float
    ops_written: int
    rows_read: int
    drift: dict[str, int]
    programming: Programming
    totals: Totals
    virtual_servers: tuple[ServerView, ...]
    findings: tuple[Finding, ...]
    conn_reuse: ConnReuse | None = None
    held: tuple[VirtualServerId, ...] = ()
    """Virtual servers that no Service asks for, and that stay until every input can be read."""


def totals_of(pipeline: Pipeline) -> Totals:
    reconciler, desired = pipeline.reconciler, pipeline.desired
    states = reconciler.states
    return Totals(
        services=len(pipeline.table.services),
        endpoint_slices=pipeline.table.slice_count(),
        virtual_servers=len(desired),
        real_servers=sum(len(s.real_servers) for i in desired if (s := desired.get(i))),
        confirmed=len(states.confirmed),
        suspect=len(states.suspects),
        shadowed=len(states.foreign),
        draining=len(reconciler.drains),
    )


def without_local_endpoints(pipeline: Pipeline) -> dict[tuple[Family, TrafficPolicy], int]:
    """How many Services have that policy Local and endpoints, but none on this node; each counts once."""
    found: dict[tuple[Family, TrafficPolicy], set[tuple[str, str]]] = {}
    for server_id in pipeline.desired:
        server = pipeline.desired.get(server_id)
        if server is not None and (server.node_only or server.when_empty is WhenEmpty.DROP):
            policy: TrafficPolicy = "internal" if server.frontend is Frontend.CLUSTER_IP else "external"
            names = found.setdefault((server_id.family, policy), set())
            names.add((server.service.namespace, server.service.service))
    return {key: len(names) for key, names in found.items()}


def server_views(pipeline: Pipeline, now: float) -> tuple[ServerView, ...]:
    desired = pipeline.desired
    return tuple(_server_view(pipeline, server, now) for i in sorted(desired) if (server := desired.get(i)))


def held_ids(pipeline: Pipeline) -> tuple[VirtualServerId, ...]:
    """Virtual servers that no Service asks for, and that stay until every input can be read."""
    return tuple(sorted(i for i in pipeline.reconciler.states.held if i not in pipeline.desired))


def in_sync(pipeline: Pipeline) -> bool:
    reconciler = pipeline.reconciler
    due = pipeline.next_due()
    uncertain = reconciler.states.suspects or reconciler.shared.retry
    return reconciler.started and not uncertain and (due is None or due > 0)


def _server_view(pipeline: Pipeline, server: VirtualServer, now: float) -> ServerView:
    reconciler = pipeline.reconciler
    state = reconciler.states.of(server.id)
    return ServerView(
        id=server.id,
        service=str(server.service),
        frontend=server.frontend.value,
        condition=_condition(state, server),
        error=state.suspect.error if state.suspect else "",
        when_empty=server.when_empty.value,
        clients=_clients(server),
        inside=str(server.inside) if server.inside else "",
        draining=tuple(
            DrainView(d.row.address, d.row.port, d.phase.value, None if d.until is None else max(0.0, d.until - now))
            for d in reconciler.drains.of(server.id)
        ),
    )


def _condition(state: State, server: VirtualServer) -> str:
    """The first that applies, as several may."""
    if state.foreign:
        return "shadowed"
    if state.suspect:
        return "suspect"
    if state.confirmed != server:
        return "pending"
    return "held" if state.held else "confirmed"


def _clients(server: VirtualServer) -> str:
    """On iptables one virtual server has the endpoints of both; those for clients outside are shown, if any."""
    elsewhere = bool(server.node_real_servers) and not server.real_servers
    if server.frontend is Frontend.NODE_CLIENTS or server.node_only or elsewhere:
        return "node"
    differ = server.node_real_servers is not None and set(server.node_real_servers) != set(server.real_servers)
    return "outside" if server.inside or differ else ""
