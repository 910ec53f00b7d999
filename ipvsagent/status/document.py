"""Joins the kernel's rows and counters with the agent's snapshot into one document, which `status` shows.

`-o json` and `-o yaml` print it as it is, and the native view is made from it. Without an agent, it lacks only names
and conditions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from ipvsagent.address import pack
from ipvsagent.model import VirtualServerId
from ipvsagent.rows import (
    ONE_PACKET,
    PERSISTENT,
    Counters,
    Observed,
    Owner,
    RealServerRow,
    VirtualServerRow,
    scheduler_flag_names,
)
from ipvsagent.status.snapshot import DrainView, ServerView, Snapshot


class RealServerStatus(Struct, frozen=True, omit_defaults=True):
    """Describes a real server in the kernel."""

    address: str
    port: int
    weight: int
    forwarding: str
    active: int | None
    """Connections; None with the iptables backend, where nothing counts them."""
    inactive: int | None
    draining: DrainView | None = None


class VirtualServerStatus(Struct, frozen=True, omit_defaults=True):
    """Describes a virtual server, in the kernel or desired or both. clients, inside and error: see ServerView."""

    protocol: str
    address: str
    port: int
    service: str = ""
    frontend: str = ""
    condition: str = ""
    """As in ServerView, and for what is not desired: "held" = it is kept until every input can be read; "stale" = it is
    about to be removed; "foreign" = it is another program's. "missing" = desired, but not in the kernel. "" = not
    known, as no agent runs."""
    error: str = ""
    owner: str = ""
    clients: str = ""
    inside: str = ""
    scheduler: str = ""
    scheduler_flags: tuple[str, ...] = ()
    persistence_timeout: int | None = None
    """Seconds; None = not persistent."""
    one_packet: bool = False
    real_servers: tuple[RealServerStatus, ...] = ()
    counters: Counters | None = None


class StatusDocument(Struct, frozen=True):
    """Contains all that `status` shows."""

    backend: str
    """The name of the backend that serves here; "" if there is neither IPVS nor a Service on another backend nor an
    agent."""
    ipvs_version: str
    """ "" with the iptables backend."""
    connection_table_size: int
    agent: Snapshot | None
    """None if no agent runs here; its virtual servers are omitted, because `virtual_servers` has them."""
    virtual_servers: tuple[VirtualServerStatus, ...]


def document(
    backend: str,
    version: tuple[int, int, int] | None,
    size: int,
    entries: Iterable[tuple[Observed, list[Observed]]],
    snapshot: Snapshot | None,
    names: Mapping[VirtualServerId, tuple[str, str]] = {},
) -> StatusDocument:
    """Join what the kernel holds with an agent's snapshot.

    backend: its name. version: of IPVS, None if the backend does not use it. names: Service and frontend as the kernel
    has them, for when no agent runs.
    """
    views = {view.id: view for view in snapshot.virtual_servers} if snapshot else {}
    unclaimed = dict.fromkeys(snapshot.held, "held") if snapshot else {}
    found = []
    for server, real_servers in entries:
        assert isinstance(server.row, VirtualServerRow)
        view = views.pop(server.row.id, None)
        name = names.get(server.row.id, ("", "")) if snapshot is None else ("", "")
        found.append(
            _virtual_server(
                server,
                server.row,
                real_servers,
                view,
                name,
                unclaimed=unclaimed.get(server.row.id, "stale") if snapshot else "",
                counted=version is not None,
            )
        )
    found.extend(_missing(server_id, view) for server_id, view in views.items())
    agent = replace(snapshot, virtual_servers=(), held=()) if snapshot else None
    serves = bool(version or found or snapshot)
    return StatusDocument(backend if serves else "", ".".join(map(str, version or ())), size, agent, tuple(found))


def _virtual_server(
    server: Observed,
    row: VirtualServerRow,
    real_servers: list[Observed],
    view: ServerView | None,
    name: tuple[str, str],
    *,
    unclaimed: str,
    counted: bool,
) -> VirtualServerStatus:
    draining = {(d.address, d.port): d for d in view.draining} if view else {}
    if server.owner is Owner.FOREIGN:
        condition = "shadowed" if view else "foreign"
    elif view:
        condition = view.condition
    else:
        condition = unclaimed
    return VirtualServerStatus(
        protocol=row.id.protocol.value,
        address=row.id.address,
        port=row.id.port,
        service=view.service if view else name[0],
        frontend=view.frontend if view else name[1],
        condition=condition,
        error=view.error if view else "",
        owner=server.owner.value,
        clients=view.clients if view else "",
        inside=view.inside if view else "",
        scheduler=row.scheduler,
        scheduler_flags=tuple(scheduler_flag_names(row.scheduler, row.flags)),
        persistence_timeout=row.timeout if row.flags & PERSISTENT else None,
        one_packet=bool(row.flags & ONE_PACKET),
        real_servers=tuple(
            RealServerStatus(
                r.address,
                r.port,
                r.weight,
                r.forwarding.name.lower(),
                seen.active if counted else None,
                seen.inactive if counted else None,
                draining.get((r.address, r.port)),
            )
            for seen in sorted(real_servers, key=_place)
            if isinstance(r := seen.row, RealServerRow)
        ),
        counters=server.counters,
    )


def _place(seen: Observed) -> tuple[bytes, int]:
    assert isinstance(seen.row, RealServerRow)
    return pack(seen.row.address), seen.row.port


def _missing(server_id: VirtualServerId, view: ServerView) -> VirtualServerStatus:
    return VirtualServerStatus(
        protocol=server_id.protocol.value,
        address=server_id.address,
        port=server_id.port,
        service=view.service,
        frontend=view.frontend,
        condition="missing",
        error=view.error,
    )
