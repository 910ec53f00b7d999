"""Ends UDP flows in the connection tracking table that no real server of a Service answers.

IPVS removes its own entries with a deleted real server (net.ipv4.vs.expire_nodest_conn; before Linux 5.9, with the next
packet). What remains are entries that IPVS did not make: those of clients that sent before the virtual server existed,
or while it had no real server. Such an entry is untranslated, every further packet of its client refreshes it, and IPVS
does not translate the answers to packets of a confirmed entry: the client gets no answer for as long as it keeps asking
(kubernetes/kubernetes#71514, #76664 and pkg/proxy/conntrack/cleanup.go).

The protocol is ctnetlink (include/uapi/linux/netfilter/nfnetlink_conntrack.h). Each family is read with one dump, which
the kernel filters from Linux 5.8 on; the rest is compared at fixed offsets, because only a handful of a hundred
thousand entries is ours. With 10,000 flows this takes 0.04 s. pyroute2 takes 7.8 s, or 34 ms for each virtual server
that the kernel filters by, and holds the interpreter's lock for most of that time.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection, Iterable, Mapping
from itertools import groupby

from msgspec import Struct

from ipvsagent.address import Address, Family, pack, unpack
from ipvsagent.kernel.netlink import NetlinkSocket, attribute, attributes, message
from ipvsagent.model import Protocol, VirtualServer, VirtualServerId

NETLINK_NETFILTER = 12
_GET, _DELETE = 0x101, 0x102  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_*
_NESTED = 0x8000
_ORIGINAL, _REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25  # CTA_*
_IP, _PROTO = 1, 2  # CTA_TUPLE_*
_PROTO_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3  # CTA_PROTO_*
_FILTER_ORIGINAL, _FILTER_REPLY = 1, 2  # CTA_FILTER_*
_BY_PROTOCOL = 1 << 3  # net/netfilter/nf_internals.h
_FAMILIES = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
# Where the kernel writes the original destination, as ctnetlink_dump_tuples() has always done: nfgenmsg,
# tuple, addresses, source, destination | protocol, number, source port, destination port.
_PLACES = {Family.IPV4: (24, 4), Family.IPV6: (36, 16)}


class Flow(Struct, frozen=True):
    """Holds as much of an entry as is needed to judge and delete it."""

    server: VirtualServerId
    """The virtual server that the client sends to."""
    answerer: tuple[Address, int]
    """The address and port that answers come from."""
    original: bytes
    id: bytes
    zone: bytes | None


class ConntrackTable:
    """Finds and deletes entries, for one thread. Raises OSError if there is no netlink; calls raise KernelError."""

    def __init__(self, timeout: float = 10.0) -> None:
        self._socket = NetlinkSocket(NETLINK_NETFILTER, timeout=timeout)

    def close(self) -> None:
        self._socket.close()

    def end_stale(self, servers: Iterable[VirtualServer]) -> int:
        """Delete flows to these UDP virtual servers that none of their real servers answers; return how many."""
        wanted = {server.id: server for server in servers if may_have_stale_flows(server)}
        gone = stale(self.flows(wanted), wanted)
        first = self._socket.reserve(len(gone))
        messages = [_delete(flow, sequence) for sequence, flow in enumerate(gone, first)]
        errors = self._socket.send(messages) if messages else {}
        for error in errors.values():
            if error.code != errno.ENOENT:  # it has ended meanwhile
                raise error
        return len(gone) - len(errors)

    def flows(self, servers: Collection[VirtualServerId]) -> list[Flow]:
        """Return the UDP entries whose original destination is one of these. If the table changes during every attempt
        to read it, return what the last attempt found."""
        found = []
        for family, group in groupby(sorted(servers, key=lambda s: s.family), key=lambda s: s.family):
            keys = {pack(s.address) + struct.pack("!H", s.port): s for s in group}
            offset, size = _PLACES[family]
            port = offset + size + 24
            for data, start, end in self._socket.dump(_GET, _request(family), partial=True):
                at = start + offset
                server = keys.get(data[at : at + size] + data[start + port : start + port + 2])
                if server is not None and (flow := _flow(server, data, start, end)) is not None:
                    found.append(flow)
        return found


def may_have_stale_flows(server: VirtualServer) -> bool:
    """Return whether a virtual server is UDP and has a real server. Entries of one-packet scheduling look untranslated
    but are correct (ip_vs_update_conntrack() does not change them)."""
    return server.id.protocol is Protocol.UDP and bool(server.real_servers) and not server.one_packet


def stale(flows: Iterable[Flow], servers: Mapping[VirtualServerId, VirtualServer]) -> list[Flow]:
    """Return the flows that no real server of their virtual server answers, whether for clients outside this node or
    for those on it."""
    found = []
    for flow in flows:
        server = servers[flow.server]
        real_servers = (*server.real_servers, *(server.node_real_servers or ()))
        if all((r.address, r.port) != flow.answerer for r in real_servers):
            found.append(flow)
    return found


def _request(family: Family) -> bytes:
    number = attribute(_PROTO_NUMBER, bytes([socket.IPPROTO_UDP]))
    flags = attribute(_FILTER_ORIGINAL, struct.pack("=I", _BY_PROTOCOL)) + attribute(_FILTER_REPLY, bytes(4))
    return (
        _header(family)
        + attribute(_ORIGINAL | _NESTED, attribute(_PROTO | _NESTED, number))
        + attribute(_FILTER | _NESTED, flags)
    )


def _header(family: Family) -> bytes:
    return struct.pack("=BBH", _FAMILIES[family], 0, 0)


def _flow(server: VirtualServerId, data: bytes, start: int, end: int) -> Flow | None:
    found = attributes(data, start + 4, end)
    original = found.get(_ORIGINAL, b"")
    protocol = attributes(attributes(original).get(_PROTO, b"")).get(_PROTO_NUMBER, b"")
    reply = attributes(found.get(_REPLY, b""))
    addresses = attributes(reply.get(_IP, b""))
    ports = attributes(reply.get(_PROTO, b""))
    source = addresses.get(1) or addresses.get(3)  # CTA_IP_V4_SRC, CTA_IP_V6_SRC
    if protocol[:1] != bytes([socket.IPPROTO_UDP]) or source is None or _SOURCE_PORT not in ports:
        return None
    answerer = (unpack(source), int.from_bytes(ports[_SOURCE_PORT][:2], "big"))
    return Flow(server, answerer, original, found.get(_ID, b""), found.get(_ZONE))


def _delete(flow: Flow, sequence: int) -> bytes:
    """Return a request that deletes an entry by its id, so that an entry that replaced it is not deleted."""
    body = _header(flow.server.family) + attribute(_ORIGINAL | _NESTED, flow.original)
    if flow.id:
        body += attribute(_ID, flow.id)
    if flow.zone is not None:
        body += attribute(_ZONE, flow.zone)
    return message(_DELETE, 0, sequence, body)
