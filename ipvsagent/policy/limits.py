"""What a Service asks for and IPVS cannot do to the letter: done as well as can be, and said."""

from __future__ import annotations

from ipvsagent.cluster.objects import Service
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.model import Protocol
from ipvsagent.policy.annotations import FLAGS, ONE_PACKET_WORD

TIME_WAIT = 120
"""Seconds that IPVS keeps a closed TCP connection; no setting (net/netfilter/ipvs/ip_vs_proto_tcp.c)."""
UDP_TIMEOUT = 300
"""Seconds that IPVS keeps an idle UDP flow, unless it is told otherwise."""
MAX_RANGE_MEMBERS = 1 << 16
"""Of one Service and family in the set of source ranges, which holds 1 << 20 of all Services."""
_REARMED = 60


def limit_findings(service: Service, *, one_packet: bool, udp_timeout: int) -> list[Finding]:
    """one_packet: by annotation. udp_timeout: seconds that IPVS keeps an idle UDP flow."""
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
        reason = f"{ONE_PACKET_WORD!r} works for UDP only, and the Service has no UDP port"
        return Finding(FindingKind.INVALID_ANNOTATION, subject, reason, field)
    reason = (
        f"{ONE_PACKET_WORD!r} balances every datagram by itself, and answers are not translated back: they have "
        "the pod's address, and do not arrive where the client was masqueraded. It is for one-way traffic"
    )
    return Finding(FindingKind.ONE_WAY, subject, reason, field)


def _affinity(subject: str, timeout: int, floors: dict[Protocol, int]) -> Finding:
    """While a template controls any connection entry, its timer is set to a minute again (ip_vs_conn_expire(),
    net/netfilter/ipvs/ip_vs_conn.c), and entries outlive the connection."""
    lasts = " and ".join(f"{floor} s after the last packet over {protocol}" for protocol, floor in floors.items())
    reason = (
        f"affinity of {timeout} s lasts longer than that: the kernel keeps it while it remembers any connection of the "
        f"client, which is {lasts}, and looks once in {_REARMED} s"
    )
    field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
    return Finding(FindingKind.AFFINITY_FLOOR, subject, reason, field)
