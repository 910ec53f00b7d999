"""Routes in the kernel's table of local addresses, as rtnetlink messages (include/uapi/linux/rtnetlink.h).

Those of ours carry a protocol number of their own, which `ip route show table local` prints as `proto 119`.
"""

from __future__ import annotations

import socket
import struct

from ipvsagent.address import Address, pack
from ipvsagent.kernel.netlink import attribute, message

PROTOCOL = 119
"""RTM_GETROUTE shows who made a route; the kernel, `ip` and routing daemons have other numbers."""
NEW_ROUTE, DELETE_ROUTE, GET_ROUTE = 24, 25, 26  # RTM_*
LOCAL_TABLE, LOCAL = 255, 2  # RT_TABLE_LOCAL, RTN_LOCAL
APPEND = 0x800  # NLM_F_APPEND
RTMSG = struct.Struct("=BBBBBBBBI")
"""Family, prefix lengths of destination and source, TOS, table, protocol, scope, type, flags."""
DESTINATION, DEVICE, SOURCE, METRICS = 1, 4, 7, 8  # RTA_*
MTU = 2  # RTAX_MTU
_SCOPE_HOST, _SCOPE_NOWHERE = 254, 255


def pack_local_route(
    kind: int,
    flags: int,
    sequence: int,
    network: tuple[Address, int],
    device: int,
    source: Address | None = None,
    mtu: int | None = None,
) -> bytes:
    """NEW_ROUTE or DELETE_ROUTE of `local ADDRESS/PREFIX dev DEVICE`, `network` being (ADDRESS, PREFIX).

    source: what this node's processes take as their own address towards it. mtu: of packets of this node's processes.
    """
    address, prefix = network
    v6 = ":" in address
    family = socket.AF_INET6 if v6 else socket.AF_INET
    scope = 0 if v6 else (_SCOPE_NOWHERE if kind == DELETE_ROUTE else _SCOPE_HOST)
    body = RTMSG.pack(family, prefix, 0, 0, LOCAL_TABLE, PROTOCOL, scope, LOCAL, 0)
    body += attribute(DESTINATION, pack(address)) + attribute(DEVICE, struct.pack("=I", device))
    if source is not None:
        body += attribute(SOURCE, pack(source))
    if mtu is not None:
        body += attribute(METRICS, attribute(MTU, struct.pack("=I", mtu)))
    return message(kind, flags, sequence, body)
