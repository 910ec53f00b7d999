"""Local routes, packed and read by ourselves (include/uapi/linux/rtnetlink.h).

They are not pyroute2's. Routes to single addresses keep an address local while it is bound in another way, and
thousands of them are written at once (addresses.py, backends/ipvs_retirement.py): 1,000 take 0.1 s in one batch and
0.7 s by pyroute2. `status` reads routes, and importing pyroute2 takes 0.26 s.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

from msgspec import Struct

from ipvsagent.address import Address, pack, unpack
from ipvsagent.errors import KernelError
from ipvsagent.kernel.netlink import Body, NetlinkSocket, attribute, attributes, message

PROTOCOL = 119
"""Marks routes of ours: `ip route show table local` prints `proto 119`; the kernel and others have other numbers."""
NEW_ROUTE, DELETE_ROUTE, _GET_ROUTE = 24, 25, 26  # RTM_*
APPEND = 0x800  # NLM_F_APPEND
_LOCAL_TABLE, _LOCAL = 255, 2  # RT_TABLE_LOCAL, RTN_LOCAL
_SCOPE_HOST, _SCOPE_NOWHERE = 254, 255
_DESTINATION, _DEVICE, _SOURCE, _METRICS = 1, 4, 7, 8  # RTA_*
_MTU = 2  # RTAX_MTU
_RTMSG = struct.Struct("=BBBBBBBBI")
"""Family, prefix lengths of destination and source, TOS, table, protocol, scope, type, flags."""


class LocalRoute(Struct, frozen=True):
    """A route in the kernel's table of local addresses."""

    network: str
    """ADDRESS/PREFIX."""
    protocol: int
    """The number of the program that made it (RTPROT_*)."""
    source: Address
    """The preferred source; "" = none."""


def pack_local_route(
    kind: int,
    flags: int,
    sequence: int,
    network: tuple[Address, int],
    device: int,
    source: Address | None = None,
    mtu: int | None = None,
) -> bytes:
    """Pack NEW_ROUTE or DELETE_ROUTE of `local ADDRESS/PREFIX dev DEVICE`, where `network` is (ADDRESS, PREFIX).

    source: what this node's processes use as their own address towards it. mtu: of packets of these processes.
    """
    address, prefix = network
    v6 = ":" in address
    family = socket.AF_INET6 if v6 else socket.AF_INET
    scope = 0 if v6 else (_SCOPE_NOWHERE if kind == DELETE_ROUTE else _SCOPE_HOST)
    body = _RTMSG.pack(family, prefix, 0, 0, _LOCAL_TABLE, PROTOCOL, scope, _LOCAL, 0)
    body += attribute(_DESTINATION, pack(address)) + attribute(_DEVICE, struct.pack("=I", device))
    if source is not None:
        body += attribute(_SOURCE, pack(source))
    if mtu is not None:
        body += attribute(_METRICS, attribute(_MTU, struct.pack("=I", mtu)))
    return message(kind, flags, sequence, body)


def local_routes(rtnetlink: NetlinkSocket, protocol: int = 0) -> Iterator[LocalRoute]:
    """Yield local routes of both address families. Raises KernelError.

    protocol: only those of this number, which kernels from 4.20 on filter; 0 = all.
    """
    for family in (socket.AF_INET, socket.AF_INET6):
        request = _RTMSG.pack(family, 0, 0, 0, _LOCAL_TABLE, protocol, 0, _LOCAL, 0)
        try:
            answers = rtnetlink.dump(_GET_ROUTE, request)
        except KernelError as error:
            if error.code in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENOENT):  # IPv6 is off
                continue
            raise
        for route in filter(None, map(_local_route, answers)):
            if protocol in (0, route.protocol):
                yield route


def _local_route(answer: Body) -> LocalRoute | None:
    data, start, end = answer
    _, prefix, _, _, table, protocol, _, kind, _ = _RTMSG.unpack_from(data, start)
    found = attributes(data, start + _RTMSG.size, end)
    if (table, kind) != (_LOCAL_TABLE, _LOCAL) or _DESTINATION not in found:
        return None
    source = found.get(_SOURCE)
    return LocalRoute(f"{unpack(found[_DESTINATION])}/{prefix}", protocol, unpack(source) if source else Address(""))
