"""Packs and reads local routes (include/uapi/linux/rtnetlink.h).

Routes to single addresses keep an address local while it is bound in another way (addresses.py); thousands of them go
out between addresses, in one batch. Those of ranges are read here, too, because `status` reads them and imports no
pyroute2, which takes 0.26 s; a dump takes 0.7 ms here and 1.9 ms there. pyroute2 writes them (service_routes.py).
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

from ipvsagent.address import Address, pack, unpack
from ipvsagent.errors import KernelError
from ipvsagent.kernel.netlink import Body, NetlinkSocket, attribute, attributes, message
from ipvsagent.kernel.pyroute import LOCAL, LOCAL_TABLE, SCOPE_HOST, SCOPE_NOWHERE, LocalRoute

PROTOCOL = 119
"""Marks routes of ours: `ip route show table local` prints `proto 119`; the kernel and others have other numbers."""
NEW_ROUTE, DELETE_ROUTE, _GET_ROUTE = 24, 25, 26  # RTM_*
APPEND = 0x800  # NLM_F_APPEND
_DESTINATION, _DEVICE, _SOURCE = 1, 4, 7  # RTA_*
_RTMSG = struct.Struct("=BBBBBBBBI")
"""Family, prefix lengths of destination and source, TOS, table, protocol, scope, type, flags."""


def pack_local_route(kind: int, flags: int, sequence: int, address: Address, device: int) -> bytes:
    """Pack NEW_ROUTE or DELETE_ROUTE of `local ADDRESS dev DEVICE`, for an IPv4 address."""
    scope = SCOPE_NOWHERE if kind == DELETE_ROUTE else SCOPE_HOST
    body = _RTMSG.pack(socket.AF_INET, 32, 0, 0, LOCAL_TABLE, PROTOCOL, scope, LOCAL, 0)
    body += attribute(_DESTINATION, pack(address)) + attribute(_DEVICE, struct.pack("=I", device))
    return message(kind, flags, sequence, body)


def local_routes(rtnetlink: NetlinkSocket, protocol: int = 0) -> Iterator[LocalRoute]:
    """Yield local routes of both address families. Raises KernelError.

    protocol: only those of this number, which kernels from 4.20 on filter; 0 = all.
    """
    for family in (socket.AF_INET, socket.AF_INET6):
        request = _RTMSG.pack(family, 0, 0, 0, LOCAL_TABLE, protocol, 0, LOCAL, 0)
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
    if (table, kind) != (LOCAL_TABLE, LOCAL) or _DESTINATION not in found:
        return None
    source = found.get(_SOURCE)
    return LocalRoute(f"{unpack(found[_DESTINATION])}/{prefix}", protocol, unpack(source) if source else Address(""))
