"""Makes the rare netlink calls through pyroute2: interfaces, local routes, notifications, and the creation of ipsets.

This module alone knows pyroute2's objects; it returns ours, and raises `KernelError` with errno and the kernel's words.
It works around those defects of pyroute2 that matter here (docs/pyroute2.md).

Rtnetlink goes through `IPRSocket`, pyroute2's socket outside of asyncio: no loop, no thread, one file descriptor. A
socket of ipsets has an event loop, and lives for one call.

pyroute2 is imported by the first call, not with this module: importing it takes 0.26 s and 12 MiB, which `--help`,
`status` and a dry run against nothing need not pay.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

from msgspec import Struct

from ipvsagent.address import Address, Family
from ipvsagent.errors import KernelError
from ipvsagent.kernel.netlink import ACK, CREATE, DUMP, EXCL, REPLACE, REQUEST, OutcomeUnknown
from ipvsagent.rows import SetSpec

HEADER_SIZE = 16
"""Bytes of nlmsghdr."""

_NEW_LINK, _DELETE_LINK, _GET_LINK = 16, 17, 18  # RTM_*
_NEW_ROUTE, _DELETE_ROUTE = 24, 25
_ERROR, _DONE = 2, 3  # NLMSG_*
_DUMP_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR
_SOL_NETLINK, _EXT_ACK, _STRICT_CHECK = 270, 11, 12
_SO_RCVBUFFORCE = 33
_BUFFER = 4 << 20
_READ = 128 << 10
_DUMP_TRIES = 5

_UP, _LOOPBACK, _NO_ARP = 0x1, 0x8, 0x80  # IFF_*
_ETHER = 1  # ARPHRD_ETHER
_SKIP_STATISTICS = 1 << 3  # RTEXT_FILTER_SKIP_STATS

LOCAL_TABLE, LOCAL = 255, 2  # RT_TABLE_LOCAL, RTN_LOCAL
SCOPE_HOST, SCOPE_NOWHERE = 254, 255


class Link(Struct, frozen=True):
    """Describes a network interface."""

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


class LocalRoute(Struct, frozen=True):
    """Describes a route in the kernel's table of local addresses."""

    network: str
    """ADDRESS/PREFIX."""
    protocol: int
    """The number of the program that made it (RTPROT_*)."""
    source: Address
    """The preferred source; "" = none."""


def links() -> list[Link]:
    """List the interfaces of this network namespace. Raises KernelError."""
    with contextlib.closing(Rtnetlink()) as rtnetlink:
        return rtnetlink.links()


class Rtnetlink:
    """Makes calls for one caller at a time, in the network namespace in which it was made. Raises KernelError.

    groups: RTMGRP_* of the notifications to receive. timeout: for each answer, in seconds.
    """

    def __init__(self, groups: int = 0, timeout: float = 10.0) -> None:
        from pyroute2 import IPRSocket

        self._library = IPRSocket()
        try:
            self._socket: socket.socket = self._library.socket
            _configure(self._socket, timeout)
            # Not the library's bind(), which tries 180 ports of its own choice; the kernel finds a free one.
            self._socket.bind((0, groups))
        except OSError as error:
            self._library.close()
            raise KernelError.of(error.errno or errno.EIO, "cannot open an rtnetlink socket") from error
        self._sequence = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._library.close()

    def links(self) -> list[Link]:
        """List the interfaces."""
        attributes = [("IFLA_EXT_MASK", _SKIP_STATISTICS)]
        return [_link(answer) for answer in self._dump(_GET_LINK, partial(_link_message, attributes=attributes))]

    def link(self, index: int) -> Link:
        """Return the interface of this index. Raises KernelError, ENODEV if there is none."""
        return _link(self._ask(_GET_LINK, _link_message(index))[0])

    def create_dummy(self, name: str) -> None:
        """Create an interface of kind dummy, which is down. Raises AlreadyThere."""
        kind = {"attrs": [("IFLA_INFO_KIND", "dummy")]}
        message = _link_message(attributes=[("IFLA_IFNAME", name), ("IFLA_LINKINFO", kind)])
        self._ask(_NEW_LINK, message, CREATE | EXCL)

    def delete_link(self, index: int) -> None:
        self._ask(_DELETE_LINK, _link_message(index))

    def replace_local_route(self, route: LocalRoute, device: int, mtu: int | None = None) -> None:
        """Create `local NETWORK dev DEVICE`, or give it another source. mtu: of packets of this node's processes."""
        attributes: list[tuple[str, Any]] = []
        if route.source:
            attributes.append(("RTA_PREFSRC", route.source))
        if mtu is not None:
            attributes.append(("RTA_METRICS", {"attrs": [("RTAX_MTU", mtu)]}))
        self._ask(_NEW_ROUTE, _route_to(route, device, SCOPE_HOST, attributes), CREATE | REPLACE)

    def delete_local_route(self, route: LocalRoute, device: int) -> None:
        """Delete it, whatever its source is. Raises NotThere."""
        self._ask(_DELETE_ROUTE, _route_to(route, device, SCOPE_NOWHERE, []))

    def notifications(self) -> Iterator[tuple[int, bytes]]:
        """Yield type and message, header included, of all notifications that are queued now.

        Raises OutcomeUnknown (ENOBUFS) where the kernel dropped some.
        """
        while True:
            try:
                data = self._socket.recv(_READ, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                raise OutcomeUnknown(error.errno or errno.EIO, "notifications were lost") from error
            offset = 0
            while offset + HEADER_SIZE <= len(data):
                length, kind = struct.unpack_from("=IH", data, offset)
                if length < HEADER_SIZE:
                    break
                yield kind, data[offset : offset + length]
                offset += length + 3 & ~3

    def changed_link(self, message: bytes) -> tuple[int, Link]:
        """Return address family and interface of a notification about a link. The family is AF_UNSPEC, or AF_BRIDGE
        where a bridge reports about its port."""
        (parsed,) = self._library.marshal.parse(message)
        return parsed["family"], _link(parsed)

    def _dump(self, kind: int, message: Callable[[], Any]) -> list[Any]:
        """Return all answers to a dump request, repeated if the table changed meanwhile."""
        for _ in range(_DUMP_TRIES):
            answers, complete = self._request(kind, message(), DUMP)
            if complete:
                return answers
        raise KernelError.of(errno.EINTR, f"the table changed during each of {_DUMP_TRIES} readings")

    def _ask(self, kind: int, message: Any, flags: int = 0) -> list[Any]:
        return self._request(kind, message, ACK | flags)[0]

    def _request(self, kind: int, message: Any, flags: int) -> tuple[list[Any], bool]:
        """Return the answers, and whether they are of one moment."""
        self._sequence += 1
        try:
            self._library.put(message, kind, msg_flags=REQUEST | flags, msg_seq=self._sequence)
        except OSError as error:
            raise KernelError.of(error.errno or errno.EIO, "the request could not be sent") from error
        answers: list[Any] = []
        complete = True
        while True:
            for answer in self._library.marshal.parse(self._receive()):
                header = answer["header"]
                if header["sequence_number"] != self._sequence:
                    continue  # the late answer to a request that timed out
                complete = complete and not header["flags"] & _DUMP_INTERRUPTED
                if header["error"] is not None:
                    raise kernel_error(header["error"])
                if header["type"] not in (_ERROR, _DONE):
                    answers.append(answer)
                    continue
                if header["type"] == _DONE and (code := _code_of_done(answer)):
                    raise KernelError.of(code)
                return answers, complete

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(_READ)
        except BlockingIOError as error:
            raise OutcomeUnknown(errno.ETIMEDOUT, "the kernel did not answer") from error
        except OSError as error:
            raise OutcomeUnknown(error.errno or errno.EIO, "answers were lost") from error


def _configure(rtnetlink: socket.socket, timeout: float) -> None:
    with contextlib.suppress(PermissionError):
        rtnetlink.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    for option in (_EXT_ACK, _STRICT_CHECK):
        with contextlib.suppress(OSError):  # kernels before 4.20 lack some
            rtnetlink.setsockopt(_SOL_NETLINK, option, 1)
    pause = struct.pack("@ll", int(timeout), int(timeout % 1 * 1e6))
    rtnetlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, pause)


def kernel_error(error: Exception) -> KernelError:
    """Translate an error of pyroute2's: a refusal of the kernel, or a message that pyroute2 cannot read."""
    code = getattr(error, "code", None) or getattr(error, "errno", None)
    if not code:
        return KernelError.of(errno.EBADMSG, f"pyroute2 cannot read the answer: {error!r}")
    words = str(error.args[1]) if len(error.args) > 1 and error.args[1] else ""
    return KernelError.of(code, "" if words == os.strerror(code) else words)


def create_set(spec: SetSpec, name: str, revision: int) -> None:
    """Create an empty set. revision: of its kind, or the nearest that the kernel knows. Raises KernelError."""
    family = socket.AF_INET6 if spec.family is Family.IPV6 else socket.AF_INET
    with _ipset() as ipset:
        oldest, newest = ipset.get_supported_revisions(spec.kind, family)
    with _ipset(max(oldest, min(newest, revision))) as ipset:
        ipset.create(
            name,
            spec.kind,
            family,
            exclusive=False,
            maxelem=spec.max_elements,
            skbinfo=spec.skbinfo,
            timeout=spec.timeout or None,
        )


def swap_sets(one: str, other: str) -> None:
    """Exchange what two names mean. Raises KernelError."""
    with _ipset() as ipset:
        ipset.swap(one, other)


def destroy_sets(names: Collection[str]) -> dict[str, KernelError]:
    """Destroy sets with their members; return the error of each that is still there, or never was."""
    refused = {}
    with _ipset() as ipset:
        for name in names:
            try:
                with _kernel_errors():
                    ipset.destroy(name)
            except KernelError as error:
                refused[name] = error
    return refused


@contextlib.contextmanager
def _ipset(revision: int | None = None) -> Iterator[Any]:
    """Open pyroute2's socket for a call or two: it has an event loop, which ends with the block."""
    from pyroute2 import IPSet

    with _kernel_errors(), IPSet(attr_revision=revision) as ipset:
        yield ipset


@contextlib.contextmanager
def _kernel_errors() -> Iterator[None]:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except (NetlinkError, OSError) as error:
        raise kernel_error(error) from error


def _code_of_done(message: Any) -> int:
    """Return the errno in NLMSG_DONE, which pyroute2 reads only if the kernel has words to go with it."""
    at = message.offset + HEADER_SIZE
    return -int.from_bytes(message.data[at : at + 4], sys.byteorder, signed=True)


def _link_message(index: int = 0, attributes: Collection[tuple[str, Any]] = ()) -> Any:
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    message = ifinfmsg()
    message["index"] = index
    message["attrs"] = list(attributes)
    return message


def _link(message: Any) -> Link:
    flags = message["flags"]
    return Link(
        index=message["index"],
        name=_text(message.get_attr("IFLA_IFNAME")),
        kind=_text(message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND")),
        master=message.get_attr("IFLA_MASTER") or 0,
        up=bool(flags & _UP),
        ethernet=message["ifi_type"] == _ETHER and not flags & (_LOOPBACK | _NO_ARP),
        mtu=message.get_attr("IFLA_MTU") or 0,
    )


def _text(value: str | bytes | None) -> str:
    """Decode a name, which pyroute2 leaves as bytes where it is not UTF-8."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""


def _route_message(family: int, protocol: int) -> Any:
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

    message = rtmsg()
    message["family"], message["table"], message["type"] = family, LOCAL_TABLE, LOCAL
    message["proto"] = protocol
    return message


def _route_to(route: LocalRoute, device: int, scope: int, attributes: list[tuple[str, Any]]) -> Any:
    address, _, prefix = route.network.partition("/")
    v6 = ":" in address
    message = _route_message(socket.AF_INET6 if v6 else socket.AF_INET, route.protocol)
    message["dst_len"], message["scope"] = int(prefix), 0 if v6 else scope
    message["attrs"] = [("RTA_DST", address), ("RTA_OIF", device), *attributes]
    return message
