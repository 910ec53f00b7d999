"""Notices changes of addresses and links as they happen, so that the agent need not poll for them.

It only reports; what a change means is for others to decide. It is made before the first reading of addresses, so that
nothing falls between the two. Our own writes are reported too, which is why addresses are read by our own codec: the
notifications of 10,000 bound addresses take pyroute2 2.6 s under the interpreter's lock, and us 0.36 s (6.1 guest).
"""

from __future__ import annotations

import errno
import socket

from msgspec import Struct

from ipvsagent.address import Address
from ipvsagent.kernel.addresses import DELETE_ADDRESS, NEW_ADDRESS, is_as_we_bind, unpack_address
from ipvsagent.kernel.netlink import OutcomeUnknown
from ipvsagent.kernel.pyroute import HEADER_SIZE, Rtnetlink

_NEW_LINK, _DELETE_LINK = 16, 17  # RTM_*
_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR


class AddressChange(Struct, frozen=True, gc=False):
    """An address is there now (or is there with other flags), or is not any more. odd: not as we bind ours."""

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
    """The kernel dropped notifications for want of room: everything must be read again."""


Change = AddressChange | LinkChange | Overflow


class AddressMonitor:
    """Is watched with `select`; `read` never blocks. For one thread. Raises KernelError if there is no netlink."""

    def __init__(self) -> None:
        self._socket = Rtnetlink(groups=_GROUPS)
        self._names = dict(socket.if_nameindex())

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> list[Change]:
        """Return what happened since the last call, in order; nothing if nothing did."""
        changes: list[Change] = []
        try:
            for kind, message in self._socket.notifications():
                change = self._change(kind, message)
                if change is not None:
                    changes.append(change)
        except OutcomeUnknown as error:
            if error.code != errno.ENOBUFS:
                raise
            self._names = dict(socket.if_nameindex())
            changes.append(Overflow())
        return changes

    def _change(self, kind: int, message: bytes) -> Change | None:
        if kind in (NEW_ADDRESS, DELETE_ADDRESS):
            found = unpack_address(message, HEADER_SIZE, len(message))
            if found is None:
                return None
            index, _, address = found
            present = kind == NEW_ADDRESS
            odd = present and not is_as_we_bind(message, HEADER_SIZE, len(message))
            return AddressChange(self._names.get(index, str(index)), address, present, odd)
        if kind in (_NEW_LINK, _DELETE_LINK):
            family, link = self._socket.changed_link(message)
            if family != socket.AF_UNSPEC:
                return None  # a bridge talks about its ports; AF_BRIDGE's RTM_DELLINK removes no interface
            name = link.name or self._names.get(link.index) or str(link.index)
            if kind == _DELETE_LINK:
                self._names.pop(link.index, None)
                return LinkChange(name, present=False)
            self._names[link.index] = name
            return LinkChange(name, present=True, up=link.up)
        return None
