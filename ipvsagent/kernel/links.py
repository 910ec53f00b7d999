"""Network interfaces, as rtnetlink lists them (include/uapi/linux/if_link.h). Only reads."""

from __future__ import annotations

import contextlib
import errno
import struct
import sys

from msgspec import Struct

from ipvsagent.errors import KernelError
from ipvsagent.kernel.netlink import NETLINK_ROUTE, NetlinkSocket, attributes

GET_LINK = 18  # RTM_GETLINK
IFINFOMSG = struct.Struct("=BxHiII")
"""Family, device type, index, flags, which flags to change."""
_NAME, _MTU, _MASTER, _LINK_INFO, _KIND = 3, 4, 10, 18, 1  # IFLA_*
_UP, _LOOPBACK, _NO_ARP = 0x1, 0x8, 0x80  # IFF_*
_ETHER = 1  # ARPHRD_ETHER


class Link(Struct, frozen=True):
    """kind: `dummy`, `veth`, `bridge`, ...; "" = hardware. master: index of what it is a port of, 0 = none.

    ethernet: it speaks ARP.
    """

    index: int
    name: str
    kind: str
    master: int
    up: bool
    ethernet: bool
    mtu: int = 0


def links() -> list[Link]:
    """Every interface of this network namespace. Raises KernelError."""
    try:
        opened = NetlinkSocket(NETLINK_ROUTE)
    except OSError as error:
        raise KernelError.of(error.errno or errno.EIO, "there is no rtnetlink socket to be had") from error
    with contextlib.closing(opened) as rtnetlink:
        return [_link(*body) for body in rtnetlink.dump(GET_LINK, IFINFOMSG.pack(0, 0, 0, 0, 0))]


def _link(data: bytes, start: int, end: int) -> Link:
    _, kind_of_device, index, flags, _ = IFINFOMSG.unpack_from(data, start)
    found = attributes(data, start + IFINFOMSG.size, end)
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
