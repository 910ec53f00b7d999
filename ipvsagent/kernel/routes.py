"""Packed routes to single addresses, which keep an address local while it is bound another way (addresses.py).

Thousands of them go out between addresses, in one batch; ranges of Service addresses are `service_routes`'.
"""

from __future__ import annotations

import socket
import struct

from ipvsagent.address import Address, pack
from ipvsagent.kernel.netlink import attribute, message
from ipvsagent.kernel.pyroute import LOCAL, LOCAL_TABLE, SCOPE_HOST, SCOPE_NOWHERE

PROTOCOL = 119
"""Marks routes of ours: `ip route show table local` prints `proto 119`; the kernel and others have other numbers."""
NEW_ROUTE, DELETE_ROUTE = 24, 25  # RTM_*
APPEND = 0x800  # NLM_F_APPEND
_DESTINATION, _DEVICE = 1, 4  # RTA_*
_RTMSG = struct.Struct("=BBBBBBBBI")
"""Family, prefix lengths of destination and source, TOS, table, protocol, scope, type, flags."""


def pack_local_route(kind: int, flags: int, sequence: int, address: Address, device: int) -> bytes:
    """NEW_ROUTE or DELETE_ROUTE of `local ADDRESS dev DEVICE`, for an IPv4 address."""
    scope = SCOPE_NOWHERE if kind == DELETE_ROUTE else SCOPE_HOST
    body = _RTMSG.pack(socket.AF_INET, 32, 0, 0, LOCAL_TABLE, PROTOCOL, scope, LOCAL, 0)
    body += attribute(_DESTINATION, pack(address)) + attribute(_DEVICE, struct.pack("=I", device))
    return message(kind, flags, sequence, body)
