"""Lists network interfaces, as rtnetlink has them (include/uapi/linux/if_link.h).

The list is read every ten seconds, so it is not pyroute2's: 201 interfaces take that 97 ms of CPU, and our codec 15 ms.
"""

from __future__ import annotations

import contextlib
import errno
import struct
import sys

from msgspec import Struct

from ipvsagent.errors import KernelError
from ipvsagent.kernel.netlink import NETLINK_ROUTE, Body, NetlinkSocket, attributes

_GET_LINK = 18  # RTM_GETLINK
_IFINFOMSG = struct.Struct("=BxHiII")
"""Family, device type, index, flags, which flags to change."""
_NAME, _MTU, _MASTER, _LINK_INFO, _KIND = 3, 4, 10, 18, 1  # IFLA_*
_UP, _LOOPBACK, _NO_ARP = 0x1, 0x8, 0x80  # IFF_*
_ETHER = 1  # ARPHRD_ETHER


class Link(Struct, frozen=True):
    """A network interface."""

    index: int
    name: str
    kind: str
    """`dummy`, `veth`, `bridge`, ...; "" = hardware."""
    master: int
    """Index of the interface that it is a port of; 0 = none."""
    up: bool
    """An administrator has set it up."""
    ethernet: bool
    """It speaks ARP."""
    mtu: int = 0


def links() -> list[Link]:
    """List the interfaces of this network namespace. Raises KernelError."""
    try:
        opened = NetlinkSocket(NETLINK_ROUTE)
    except OSError as error:
        raise KernelError.of(error.errno or errno.EIO, "there is no rtnetlink socket to be had") from error
    with contextlib.closing(opened) as rtnetlink:
        return [_link(body) for body in rtnetlink.dump(_GET_LINK, _IFINFOMSG.pack(0, 0, 0, 0, 0))]


def _link(answer: Body) -> Link:
    data, start, end = answer
    _, kind_of_device, index, flags, _ = _IFINFOMSG.unpack_from(data, start)
    found = attributes(data, start + _IFINFOMSG.size, end)
    return Link(
        index=index,
        name=_text(found.get(_NAME, b"")),
        kind=_text(attributes(found.get(_LINK_INFO, b"")).get(_KIND, b"")),
        master=int.from_bytes(found.get(_MASTER, b""), sys.byteorder),
        up=bool(flags & _UP),
        ethernet=kind_of_device == _ETHER and not flags & (_LOOPBACK | _NO_ARP),
        mtu=int.from_bytes(found.get(_MTU, b""), sys.byteorder),
    )


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")
