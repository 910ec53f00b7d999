"""Formats the native view of `status`, by Service, as lines with a style each; the caller colours them."""

from __future__ import annotations

from collections.abc import Iterator

from ipvsagent.address import Address, endpoint_text
from ipvsagent.model import Frontend
from ipvsagent.sources.view import SourceView
from ipvsagent.status.document import RealServerStatus, StatusDocument, VirtualServerStatus
from ipvsagent.status.snapshot import Snapshot

Line = tuple[str, str]

_STYLE = {
    "suspect": "red",
    "missing": "red",
    "shadowed": "yellow",
    "stale": "yellow",
    "held": "yellow",
    "pending": "yellow",
    "foreign": "dim",
}
_MEANING = {
    "suspect": "not confirmed",
    "missing": "desired, but not in the kernel",
    "shadowed": "held by another program",
    "stale": "no Service asks for it; about to be removed",
    "held": "nothing of it is removed until every input can be read",
    "pending": "about to change",
    "foreign": "another program's",
}

NODE_CLIENTS = Frontend.NODE_CLIENTS.value
_FOR = {
    "outside": " (for clients outside this node)",
    "node": " (no endpoint on this node: packets of clients outside are dropped)",
}


def lines(document: StatusDocument) -> Iterator[Line]:
    yield from _head(document)
    servers = sorted(
        document.virtual_servers,
        key=lambda s: (s.service == "", s.service, s.frontend == NODE_CLIENTS, s.frontend, s.address, s.port),
    )
    width = max((len(endpoint_text(Address(r.address), r.port)) for s in servers for r in s.real_servers), default=0)
    title = None
    for server in servers:
        if (server.service, server.frontend) != title:
            title = (server.service, server.frontend)
            yield "", ""
            yield _title(server), "bold"
        yield from _server(server, width)
    if document.agent and document.agent.findings:
        yield "", ""
        yield f"Findings ({len(document.agent.findings)})", "bold"
        for finding in document.agent.findings:
            yield f"  {finding}", "yellow"


_ALONE = {
    "ipvs": ": names and conditions are not known. ",
    "": ", and it left no Services: the kernel has no IPVS, and no rules of Services are on ",
}
_WITHOUT_IPVS = ": conditions are not known. Services are on "


def _head(document: StatusDocument) -> Iterator[Line]:
    agent = document.agent
    where = document.backend or "iptables"
    if document.ipvs_version:
        where = f"IPVS {document.ipvs_version}, connection table of {document.connection_table_size}"
    if agent is None:
        yield f"No agent is running here{_ALONE.get(document.backend, _WITHOUT_IPVS)}{where}", "yellow"
        return
    totals = agent.totals
    text = (
        f"{totals.services} Services, {totals.virtual_servers} virtual servers, {totals.real_servers} real servers"
        + (f", {totals.draining} draining" if totals.draining else "")
    )
    yield f"{agent.node}: {_state(agent)}; {text}", "green" if agent.in_sync and not _lost(agent.source) else "red"
    drift = sum(agent.drift.values())
    yield (
        (
            f"ipvsagent {agent.version} (pid {agent.pid}, up {span(agent.uptime)}), {where}, "
            f"{agent.ops_written} writes since start" + (f", {drift} rows repaired after drift" if drift else "")
        ),
        "dim",
    )
    if agent.source.kinds:
        yield _api(agent.source)


def _api(source: SourceView) -> Line:
    """Return the line that shows whether the API server is connected, and how old the state of each kind may be."""
    if not _lost(source):
        oldest = max((kind.heard or 0.0) for kind in source.kinds)
        return f"API server {source.subject}: connected, last heard of every kind {span(oldest)} ago", "dim"
    words = [f"{kind.kind} {'never' if kind.heard is None else f'{span(kind.heard)} ago'}" for kind in source.kinds]
    return f"API server {source.subject or 'unknown'}: NOT connected; last heard of {', '.join(words)}", "red"


def _lost(source: SourceView) -> bool:
    return any(not kind.connected for kind in source.kinds)


def _state(agent: Snapshot) -> str:
    """Describe the source first: what the kernel is in sync with may be stale, or may not exist yet."""
    if not _lost(agent.source):
        return _kernel(agent) if agent.source.synced else "the source is NOT read yet, nothing is changed"
    if not agent.source.synced:
        return "API server NOT reached yet, nothing is changed"
    return f"API server NOT connected; with what it reported last, {_kernel(agent)}"


def _kernel(agent: Snapshot) -> str:
    if agent.in_sync:
        return "in sync"
    waiting = agent.totals.virtual_servers - agent.totals.confirmed - agent.totals.shadowed
    return f"NOT in sync: {max(waiting, agent.totals.suspect)} virtual servers wait for the kernel"


def _title(server: VirtualServerStatus) -> str:
    if server.frontend == NODE_CLIENTS:
        return f"{server.service}  every external address, for pods and processes of this node"
    if server.service:
        return f"{server.service}  {server.frontend}"
    return "No Service" if server.condition != "foreign" else "Other programs"


def _server(server: VirtualServerStatus, width: int) -> Iterator[Line]:
    name = (
        f"FWM {server.port}{' IPv6' if ':' in server.address else ''}"
        if server.protocol == "FWM"
        else (f"{server.protocol} {endpoint_text(Address(server.address), server.port)}")
    )
    words = [name, server.scheduler]
    if server.scheduler_flags:
        words.append(f"({','.join(server.scheduler_flags)})")
    if server.persistence_timeout is not None:
        words.append(f"persistent {server.persistence_timeout}s")
    if server.one_packet:
        words.append("one-packet")
    if server.frontend != NODE_CLIENTS:
        words.append(_FOR.get(server.clients, ""))
    if server.inside:
        words.append(f" (pods and processes of this node: {server.inside})")
    meaning = _MEANING.get(server.condition)
    if meaning:
        words.append(f" [{meaning}{': ' + server.error if server.error else ''}]")
    yield "  " + " ".join(w for w in words if w), _STYLE.get(server.condition, "")
    if not server.real_servers and server.condition != "missing":
        yield "    no endpoints", "yellow"
    for real in server.real_servers:
        yield _real_server(real, width)


def _real_server(real: RealServerStatus, width: int) -> Line:
    text = (
        f"    {endpoint_text(Address(real.address), real.port):<{width}}  weight {real.weight:<3} "
        f"active {_count(real.active):<5} inactive {_count(real.inactive)}"
    )
    if real.forwarding != "masquerade":
        text += f"  {real.forwarding}"
    drain = real.draining
    if drain is None:
        return text, "" if real.weight else "dim"
    end = "until its slice changes or it is idle" if drain.remaining is None else f"{span(drain.remaining)} left"
    return f"{text}  draining ({drain.phase}), {end}", "cyan"


def _count(connections: int | None) -> str:
    return "-" if connections is None else str(connections)


def span(seconds: float) -> str:
    """Format a duration as `4s`, `3m12s`, `2h05m` or `3d04h`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole // 60 % 60:02}m"
    return f"{whole // 86400}d{whole // 3600 % 24:02}h"
