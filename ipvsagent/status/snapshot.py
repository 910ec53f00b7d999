"""Defines the agent's snapshot of its own state, a document that the loop makes on request.

It contains what is desired and what is believed. It does not contain counters of the kernel: the client can read them
itself, and reading them must not delay the loop.
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
    """Describes a real server that drains."""

    address: str
    port: int
    phase: str
    remaining: float | None
    """Seconds until it is deleted even if it has connections; None = until its slice changes."""


class ServerView(Struct, frozen=True, omit_defaults=True):
    """Describes a desired virtual server, and what is believed about it."""

    id: VirtualServerId
    service: str
    frontend: str
    condition: str
    """shadowed, suspect, pending, held or confirmed."""
    error: str = ""
    """The last error of the kernel, if suspect."""
    when_empty: str = "refuse"
    clients: str = ""
    """Which clients it serves: those "outside" this node or those on this "node"; "" = all."""
    inside: str = ""
    """Where clients on this node are translated to, `TCP 10.96.0.4:80`; "" = nowhere, as always on iptables."""
    draining: tuple[DrainView, ...] = ()


class Totals(Struct, frozen=True):
    """Counts objects, virtual servers and real servers."""

    services: int
    endpoint_slices: int
    virtual_servers: int
    real_servers: int
    confirmed: int
    suspect: int
    shadowed: int
    draining: int


class Programming(Struct, frozen=True):
    """Summarizes how long changes of endpoints took, in seconds, from their cause (a pod became ready) to the kernel's
    acknowledgement. Most sources give the time of the cause in whole seconds."""

    changes: int = 0
    """The number of changes since the agent started."""
    total: float = 0.0
    last: float = 0.0
    worst: float = 0.0

    def with_sample(self, seconds: float) -> Programming:
        return Programming(self.changes + 1, self.total + seconds, seconds, max(self.worst, seconds))


class Snapshot(Struct, frozen=True):
    """Describes the state of the agent. Times are in seconds; counts begin when the agent starts."""

    version: str
    pid: int
    node: str
    backend: str
    interface: str
    source: SourceView
    uptime: float
    in_sync: bool
    """Everything desired is confirmed."""
    seconds_since_change: float | None
    start_writes: int
    """Rows written by the comparison at start, and its duration."""
    start_seconds: float
    ops_written: int
    rows_read: int
    drift: dict[str, int]
    """Differences that were repaired, by kind: lost, edited, stray, rules, sysctl."""
    programming: Programming
    totals: Totals
    virtual_servers: tuple[ServerView, ...]
    findings: tuple[Finding, ...]
    conn_reuse: ConnReuse | None = None
    """How IPVS treats ports that clients use again; None without IPVS."""
    held: tuple[VirtualServerId, ...] = ()
    """Virtual servers that no Service asks for, and that are kept until every input can be read."""


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
    """Return how many Services with that policy Local have endpoints, but none on this node; each counts once."""
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
    """Return the virtual servers that no Service asks for, and that are kept until every input can be read."""
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
    """Return the first condition that applies, as several may."""
    if state.foreign:
        return "shadowed"
    if state.suspect:
        return "suspect"
    if state.confirmed != server:
        return "pending"
    return "held" if state.held else "confirmed"


def _clients(server: VirtualServer) -> str:
    """Return which clients a virtual server serves. On iptables one virtual server has the endpoints of both kinds;
    those for clients outside are shown, if there are any."""
    elsewhere = bool(server.node_real_servers) and not server.real_servers
    if server.frontend is Frontend.NODE_CLIENTS or server.node_only or elsewhere:
        return "node"
    differ = server.node_real_servers is not None and set(server.node_real_servers) != set(server.real_servers)
    return "outside" if server.inside or differ else ""
