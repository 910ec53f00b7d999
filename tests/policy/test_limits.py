"""What IPVS cannot do to the letter, by Service."""

from __future__ import annotations

import pytest

from ipvsagent.cluster.objects import Service, ServicePort
from ipvsagent.findings import FindingKind
from ipvsagent.model import Protocol
from ipvsagent.policy.limits import limit_findings


def service(*protocols: Protocol, affinity: int = 0) -> Service:
    ports = tuple(ServicePort(name=p.lower(), protocol=p, port=80) for p in protocols)
    return Service(namespace="shop", name="cart", ports=ports, affinity_timeout=affinity)


@pytest.mark.parametrize(
    ("protocols", "affinity", "udp_timeout", "named"),
    [
        ("TCP", 0, 300, ""),
        ("TCP", 119, 300, "120 s after the last packet over TCP"),
        ("TCP", 120, 300, ""),
        ("UDP", 120, 300, "300 s after the last packet over UDP"),
        ("UDP", 120, 30, ""),
        ("UDP", 10, 30, "30 s after the last packet over UDP"),
        ("TCP UDP", 10, 300, "120 s after the last packet over TCP and 300 s after the last packet over UDP"),
        ("TCP UDP", 10800, 300, ""),
        ("SCTP", 10, 300, ""),
    ],
)
def test_affinity_below_what_the_kernel_can(protocols, affinity, udp_timeout, named):
    found = limit_findings(
        service(*map(Protocol, protocols.split()), affinity=affinity), one_packet=False, udp_timeout=udp_timeout
    )
    assert [f.kind for f in found] == ([FindingKind.AFFINITY_FLOOR] if named else [])
    assert all(named in f.reason and f"affinity of {affinity} s" in f.reason for f in found)


def test_one_packet_is_for_one_way_udp():
    (finding,) = limit_findings(service(Protocol.UDP, Protocol.TCP), one_packet=True, udp_timeout=300)
    assert finding.kind is FindingKind.ONE_WAY and "one-way" in finding.reason
    (finding,) = limit_findings(service(Protocol.TCP), one_packet=True, udp_timeout=300)
    assert finding.kind is FindingKind.INVALID_ANNOTATION
