"""Defines virtual and real servers as IPVS holds them; their text is ipvsadm's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from msgspec import Struct

from ipvsagent.address import Address, Family, endpoint_text
from ipvsagent.model import Forwarding, Protocol, VirtualServerId
from ipvsagent.rows.server_row import ServerRow
from ipvsagent.rows.verb import Verb

PERSISTENT = 0x1
HASHED = 0x2
ONE_PACKET = 0x4
SCHED1, SCHED2, SCHED3 = 0x8, 0x10, 0x20
SCHEDULER_FLAGS = SCHED1 | SCHED2 | SCHED3

_FLAG_NAMES = {
    "sh": {SCHED1: "sh-fallback", SCHED2: "sh-port", SCHED3: "flag-3"},
    "mh": {SCHED1: "mh-fallback", SCHED2: "mh-port", SCHED3: "flag-3"},
}
_OTHER_FLAG_NAMES = {SCHED1: "flag-1", SCHED2: "flag-2", SCHED3: "flag-3"}
_SERVICE_OPTION = {Protocol.TCP: "-t", Protocol.UDP: "-u", Protocol.SCTP: "--sctp-service", Protocol.FWM: "-f"}
FULL_MASK = 0xFFFFFFFF
FULL_PREFIX = 128


def scheduler_flag_names(scheduler: str, flags: int) -> list[str]:
    """Return the names that ipvsadm gives to the scheduler bits of `flags`, in its order."""
    names = _FLAG_NAMES.get(scheduler, _OTHER_FLAG_NAMES)
    return [name for bit, name in names.items() if flags & bit]


def service_option(server: VirtualServerId) -> str:
    """Return `-t 10.0.0.1:80`, as ipvsadm names a virtual server on its command line."""
    option = _SERVICE_OPTION[server.protocol]
    if server.protocol is Protocol.FWM:
        return f"{option} {server.port}{' -6' if server.family is Family.IPV6 else ''}"
    return f"{option} {endpoint_text(server.address, server.port)}"


class VirtualServerRow(ServerRow, frozen=True, gc=False):
    """Describes a virtual server as IPVS holds it."""

    scheduler: str
    flags: int = 0
    """IP_VS_SVC_F_* without HASHED, which the kernel sets itself."""
    timeout: int = 0
    """Seconds of persistence."""
    mask: int = FULL_MASK
    """Clients that are equal under it are one persistent client. A 32-bit mask in host order for IPv4, a prefix length
    for IPv6."""
    pe_name: str = ""

    def command(self, verb: Verb) -> str:
        if verb is Verb.DELETE:
            return f"ipvsadm -D {service_option(self.id)}"
        return f"ipvsadm {'-A' if verb is Verb.ADD else '-E'}{str(self)[2:]}"

    def __str__(self) -> str:
        words = [f"-A {service_option(self.id)} -s {self.scheduler}"]
        if self.flags & PERSISTENT:
            words.append(f"-p {self.timeout}")
            if self.id.family is Family.IPV4 and self.mask != FULL_MASK:
                words.append("-M " + ".".join(str(self.mask >> s & 255) for s in (24, 16, 8, 0)))
            elif self.id.family is Family.IPV6 and self.mask != FULL_PREFIX:
                words.append(f"-M {self.mask}")
        if self.pe_name:
            words.append(f"--pe {self.pe_name}")
        if self.flags & ONE_PACKET:
            words.append("-o")
        if self.flags & SCHEDULER_FLAGS:
            words.append("-b " + ",".join(scheduler_flag_names(self.scheduler, self.flags)))
        return " ".join(words)


class Tunnel(Struct, frozen=True, gc=False):
    """Describes how a TUNNEL real server is reached."""

    kind: int = 0
    """0 ipip, 1 gue, 2 gre"""
    port: int = 0
    flags: int = 0
    """0 no checksum, 1 checksum, 2 remote checksum"""


def tunnel_options(tunnel: Tunnel) -> str:
    """Return ipvsadm's options for a tunnel, each after a space; nothing for a kind that ipvsadm has no option for."""
    if tunnel.kind == 0:
        return " --tun-type ipip"
    checksum = {0: " --tun-nocsum", 1: " --tun-csum", 2: " --tun-remcsum"}.get(tunnel.flags, "")
    if tunnel.kind == 1:
        return f" --tun-type gue --tun-port {tunnel.port}{checksum}"
    return f" --tun-type gre{checksum}" if tunnel.kind == 2 else ""


class RealServerRow(Struct, frozen=True, gc=False):
    """Describes a real server as IPVS holds it. Thresholds are numbers of connections; 0 = none."""

    noun: ClassVar[str] = "real server"
    rank: ClassVar[Mapping[Verb, int]] = {Verb.ADD: 1, Verb.SET: 1, Verb.DELETE: 6}

    server: VirtualServerId
    address: Address
    port: int
    weight: int = 1
    forwarding: Forwarding = Forwarding.MASQUERADE
    upper_threshold: int = 0
    lower_threshold: int = 0
    tunnel: Tunnel | None = None

    @property
    def key(self) -> tuple[Address, int]:
        """Return what identifies it within its virtual server."""
        return (self.address, self.port)

    def command(self, verb: Verb) -> str:
        if verb is Verb.DELETE:
            return f"ipvsadm -d {service_option(self.server)} -r {endpoint_text(self.address, self.port)}"
        return f"ipvsadm {'-a' if verb is Verb.ADD else '-e'}{str(self)[2:]}"

    def __str__(self) -> str:
        method = {Forwarding.MASQUERADE: "-m", Forwarding.TUNNEL: "-i"}.get(self.forwarding, "-g")
        line = f"-a {service_option(self.server)} -r {endpoint_text(self.address, self.port)} {method} -w {self.weight}"
        if self.tunnel and self.forwarding is Forwarding.TUNNEL:
            line += tunnel_options(self.tunnel)
        return line
