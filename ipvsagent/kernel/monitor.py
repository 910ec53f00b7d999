"""Notices changes of addresses and links as they happen, so that the agent need not poll for them.

Only reports; what a change means is for others to decide. Made before the first reading of addresses, so that
nothing falls between the two. Our own writes are reported too.
"""

from __future__ import annotations

import errno
import socket
import struct

from msgspec import Struct

from ipvsagent.address import Address
from ipvsagent.kernel.addresses import DELETE_ADDRESS, NEW_ADDRESS, is_as_we_bind, unpack_address
from ipvsagent.kernel.netlink import NETLINK_ROUTE, NetlinkSocket, OutcomeUnknown, attributes

_NEW_LINK, _DELETE_LINK = 16, 17  # RTM_*
_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_IFINFOMSG = struct.Struct("=BxHiII")  # family, device type, index, flags, mask of changed flags
_IFLA_IFNAME = 3
_UP = 0x1


class AddressChange(Struct, frozen=True, gc=False):
    """An address is there now (also: is there with other flags), or is not any more. odd: not as we bind ours."""

    interface: str
    address: Address
    present: bool
    odd: bool = False


class LinkChange(Struct, frozen=True, gc=False):
    """An interface appeared or changed, or is gone. up: set up by the administrator."""

    interface: str
    present: bool
    up: bool = False


class Overflow(Struct, frozen=True):
    """The kernel had more to say than there was room for: everything must be read again."""


Change = AddressChange | LinkChange | Overflow


class AddressMonitor:
    """To be watched with `select`; `read` never blocks. For one thread. Raises OSError if there is no netlink."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(NETLINK_ROUTE, groups=_GROUPS)
        self._names = dict(socket.if_nameindex())

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> list[Change]:
        """What happened since the last call, in order; empty if nothing did."""
        changes: list[Change] = []
        try:
            for kind, body in self._socket.notifications():
                change = self._change(kind, body)
                if change is not None:
                    changes.append(change)
        except OutcomeUnknown as error:
            if error.code != errno.ENOBUFS:
                raise
            self._names = dict(socket.if_nameindex())
            changes.append(Overflow())
        return changes

    def _change(self, kind: int, body: bytes) -> Change | None:
        if kind in (NEW_ADDRESS, DELETE_ADDRESS):
            found = unpack_address(body, 0, len(body))
            if found is None:
                return None
            index, _, address = found
            present = kind == NEW_ADDRESS
            odd = present and not is_as_we_bind(body, 0, len(body))
            return AddressChange(self._names.get(index, str(index)), address, present, odd)
        if kind in (_NEW_LINK, _DELETE_LINK):
            family, _, index, flags, _ = _IFINFOMSG.unpack_from(body)
            if family != socket.AF_UNSPEC:
                return None  # a bridge talks about its ports; AF_BRIDGE's RTM_DELLINK removes no interface
            old = self._names.get(index)
            raw = attributes(body, _IFINFOMSG.size).get(_IFLA_IFNAME, b"")
            name = raw.rstrip(b"\0").decode(errors="replace") or old or str(index)
            if kind == _DELETE_LINK:
                self._names.pop(index, None)
                return LinkChange(name, present=False)
            self._names[index] = name
            return LinkChange(name, present=True, up=bool(flags & _UP))
        return None
