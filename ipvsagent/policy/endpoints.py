"""Chooses the endpoints that serve a Service port on this node.

The rules and their terms are those of Kubernetes' `CategorizeEndpoints` (pkg/proxy/topology.go) and of its slice cache
(pkg/proxy/endpointslicecache.go):

*cluster* endpoints serve traffic under policy Cluster: every ready endpoint that the topology hints allow; if
there is none, every serving-terminating endpoint, which is one that still serves while it terminates.
*local* endpoints serve traffic under policy Local: those of this node, with the same fallback; hints are ignored.

An endpoint that is listed but in neither set gets no new connections; reconcile/drain.py decides what happens to the
connections that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum

from msgspec import Struct

from ipvsagent.address import Address, Family
from ipvsagent.cluster.objects import Endpoint, EndpointSlice, ServicePort


class Candidate(Struct, frozen=True, gc=False):
    """Holds an endpoint joined to a Service port."""

    endpoint: Endpoint
    port: int
    """The number that the slice gives, 1 to 65535."""


class Reason(StrEnum):
    """Names why a candidate is, or is not, in a set."""

    READY = "ready"
    FALLBACK_TERMINATING = "terminating, but nothing better is there"
    TERMINATING = "terminating while others serve"
    NOT_READY = "not ready"
    OTHER_NODE = "on another node"
    HINTED_ELSEWHERE = "hinted for another zone or node"


class Choice(Struct, frozen=True, gc=False):
    """Holds the candidates of one Service port, and the two sets chosen from them."""

    candidates: tuple[Candidate, ...]
    cluster: tuple[Candidate, ...]
    local: tuple[Candidate, ...]
    has_usable_endpoints_anywhere: bool
    """Some endpoint on some node could serve, whatever the traffic policies are."""


def join(port: ServicePort, slices: Iterable[EndpointSlice], family: Family) -> tuple[Candidate, ...]:
    """Return all endpoints of one family behind a Service port, one for each address and port, sorted.

    A slice port belongs to the Service port of the same name and protocol; numbers are never compared, and
    `targetPort` is never read. Two slices list the same address and port for a moment when an endpoint moves between
    slices; then the entry that is more usable counts.
    """
    found: dict[tuple[Address, int], Endpoint] = {}
    for endpoint_slice in slices:
        if endpoint_slice.family is not family:
            continue
        for slice_port in endpoint_slice.ports:
            if slice_port.name != port.name or slice_port.protocol is not port.protocol:
                continue
            number = slice_port.port
            for endpoint in endpoint_slice.endpoints:
                key = (endpoint.address, number)
                other = found.get(key)
                if other is None or _usability(endpoint) > _usability(other):
                    found[key] = endpoint
    return tuple([Candidate(found[key], key[1]) for key in sorted(found)])


def choose(candidates: tuple[Candidate, ...], node: str, zone: str) -> Choice:
    """Sort the candidates of one Service port into the two sets. `node` and `zone` are this node's, "" if unknown."""
    ready = tuple([c for c in candidates if c.endpoint.ready])
    fallback = (
        tuple([c for c in candidates if _is_serving_terminating(c.endpoint)]) if len(ready) < len(candidates) else ()
    )
    if ready:
        allowed = _hint_filter(ready, node, zone)
        cluster = ready if allowed is None else tuple([c for c in ready if allowed(c.endpoint)])
    else:
        cluster = fallback
    local: tuple[Candidate, ...] = ()
    if node:
        local = tuple([c for c in ready if c.endpoint.node == node]) or tuple(
            [c for c in fallback if c.endpoint.node == node]
        )
    return Choice(candidates, cluster, local, has_usable_endpoints_anywhere=bool(ready or fallback))


def why(candidate: Candidate, chosen: Sequence[Candidate], *, local: bool, node: str) -> Reason:
    """Return why a candidate is, or is not, among `chosen`: the local set if `local`, otherwise the cluster set."""
    endpoint = candidate.endpoint
    if candidate in chosen:
        return Reason.READY if endpoint.ready else Reason.FALLBACK_TERMINATING
    if local and endpoint.node != node:
        return Reason.OTHER_NODE
    if endpoint.ready:
        return Reason.HINTED_ELSEWHERE
    return Reason.TERMINATING if _is_serving_terminating(endpoint) else Reason.NOT_READY


def _is_serving_terminating(endpoint: Endpoint) -> bool:
    return endpoint.serving and endpoint.terminating and not endpoint.ready


def _usability(endpoint: Endpoint) -> int:
    return (not endpoint.terminating) << 2 | endpoint.ready << 1 | endpoint.serving


def _hint_filter(ready: Sequence[Candidate], node: str, zone: str) -> Callable[[Endpoint], bool] | None:
    """Return the filter that topology hints ask for, or None: one ready endpoint without a hint disables all hints."""
    if node and all(c.endpoint.node_hints for c in ready):

        def for_node(endpoint: Endpoint) -> bool:
            return node in endpoint.node_hints

        if any(for_node(c.endpoint) for c in ready):
            return for_node
    if zone and all(c.endpoint.zone_hints for c in ready):

        def for_zone(endpoint: Endpoint) -> bool:
            return zone in endpoint.zone_hints

        if any(for_zone(c.endpoint) for c in ready):
            return for_zone
    return None
