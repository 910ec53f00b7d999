"""Reports what a Service asks for that IPVS can do only in part, and what IPVS does instead."""

from __future__ import annotations

from ipvsagent.cluster.objects import Service
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.model import Protocol
from ipvsagent.policy.annotations import FLAGS, ONE_PACKET_FLAG

TIME_WAIT = 120
"""Seconds that IPVS keeps a closed TCP connection, a constant of the kernel (net/netfilter/ipvs/ip_vs_proto_tcp.c)."""
UDP_TIMEOUT = 300
"""Seconds that IPVS keeps an idle UDP flow, by default."""
MAX_RANGE_MEMBERS = 1 << 16
"""How many members one Service and family may have in the set of source ranges, which holds 1 << 20."""
_TIMER_SECONDS = 60


def limit_findings(service: Service, *, one_packet: bool, udp_timeout: int) -> list[Finding]:
    """Return findings about what IPVS does differently from what a Service asks for.

    one_packet: an annotation asks for one-packet scheduling. udp_timeout: seconds that IPVS keeps an idle UDP flow.
    """
    protocols = {port.protocol for port in service.ports}
    findings = []
    if one_packet:
        findings.append(_one_packet(str(service.key), protocols))
    floors = {Protocol.TCP: TIME_WAIT, Protocol.UDP: udp_timeout}
    low = {p: floor for p, floor in floors.items() if p in protocols and 0 < service.affinity_timeout < floor}
    if low:
        findings.append(_affinity(str(service.key), service.affinity_timeout, low))
    return findings


def _one_packet(subject: str, protocols: set[Protocol]) -> Finding:
    field = f"metadata.annotations[{FLAGS}]"
    if Protocol.UDP not in protocols:
        reason = f"{ONE_PACKET_FLAG!r} works for UDP only, and the Service has no UDP port"
        return Finding(FindingKind.INVALID_ANNOTATION, subject, reason, field)
    reason = (
        f"{ONE_PACKET_FLAG!r} balances every datagram by itself, and replies are not translated back: they have "
        "the pod's address, and do not arrive where the client was masqueraded. Use it for one-way traffic only"
    )
    return Finding(FindingKind.ONE_WAY, subject, reason, field)


def _affinity(subject: str, timeout: int, floors: dict[Protocol, int]) -> Finding:
    """Return the finding of an affinity timeout that is too short.

    While a template controls any connection entry, the kernel restarts its timer with a minute (ip_vs_conn_expire(),
    net/netfilter/ipvs/ip_vs_conn.c), and entries outlive the connection.
    """
    lasts = " and ".join(f"{floor} s after the last packet over {protocol}" for protocol, floor in floors.items())
    reason = (
        f"affinity of {timeout} s lasts longer: the kernel keeps it while it has an entry of any connection of the "
        f"client, which is {lasts}, and checks every {_TIMER_SECONDS} s"
    )
    field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
    return Finding(FindingKind.AFFINITY_FLOOR, subject, reason, field)
