"""Makes the rare netlink calls through pyroute2: our interface, notifications, and the creation of ipsets.

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
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator
from typing import Any

from ipvsagent.address import Family
from ipvsagent.errors import KernelError
from ipvsagent.kernel.links import Link
from ipvsagent.kernel.netlink import ACK, CREATE, EXCL, REQUEST, OutcomeUnknown
from ipvsagent.rows import SetSpec

HEADER_SIZE = 16
"""Bytes of nlmsghdr."""

_NEW_LINK, _DELETE_LINK, _GET_LINK = 16, 17, 18  # RTM_*
_ERROR = 2  # NLMSG_ERROR
_SOL_NETLINK, _EXT_ACK = 270, 11
_SO_RCVBUFFORCE = 33
_BUFFER = 4 << 20
_READ = 128 << 10
_TIMEOUT = 10.0
"""Seconds to wait for an answer about an ipset."""

_UP, _LOOPBACK, _NO_ARP = 0x1, 0x8, 0x80  # IFF_*
_ETHER = 1  # ARPHRD_ETHER


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
                if length < HEADER_SIZE or offset + length > len(data):  # a datagram above _READ is cut off
                    break
                yield kind, data[offset : offset + length]
                offset += length + 3 & ~3

    def changed_link(self, message: bytes) -> tuple[int, Link]:
        """Return address family and interface of a notification about a link. The family is AF_UNSPEC, or AF_BRIDGE
        where a bridge reports about its port."""
        (parsed,) = self._library.marshal.parse(message)
        return parsed["family"], _link(parsed)

    def _ask(self, kind: int, message: Any, flags: int = 0) -> list[Any]:
        """Return the answers up to the acknowledgement."""
        self._sequence += 1
        try:
            self._library.put(message, kind, msg_flags=REQUEST | ACK | flags, msg_seq=self._sequence)
        except OSError as error:
            raise KernelError.of(error.errno or errno.EIO, "the request could not be sent") from error
        answers: list[Any] = []
        while True:
            for answer in self._library.marshal.parse(self._receive()):
                header = answer["header"]
                if header["sequence_number"] != self._sequence:
                    continue  # the late answer to a request that timed out
                if header["error"] is not None:
                    raise kernel_error(header["error"])
                if header["type"] == _ERROR:
                    return answers
                answers.append(answer)

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
    with contextlib.suppress(OSError):  # kernels before 4.12 lack it
        rtnetlink.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
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

    async def work() -> None:
        async with _ipset() as ipset:
            oldest, newest = await _answer(ipset.get_supported_revisions(spec.kind, family))
        async with _ipset(max(oldest, min(newest, revision))) as ipset:
            call = ipset.create(
                name,
                spec.kind,
                family,
                exclusive=False,
                maxelem=spec.max_elements,
                skbinfo=spec.skbinfo,
                timeout=spec.timeout or None,
            )
            await _answer(call)

    _run(work)


def swap_sets(one: str, other: str) -> None:
    """Exchange what two names mean. Raises KernelError."""

    async def work() -> None:
        async with _ipset() as ipset:
            await _answer(ipset.swap(one, other))

    _run(work)


def destroy_sets(names: Collection[str]) -> dict[str, KernelError]:
    """Destroy sets with their members; return the error of each that is still there, or never was."""
    refused = {}

    async def work() -> None:
        async with _ipset() as ipset:
            for name in names:
                try:
                    await _answer(ipset.destroy(name))
                except KernelError as error:
                    refused[name] = error

    _run(work)
    return refused


def _run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run calls to ipset in an event loop of their own, which is closed after them."""
    import asyncio

    asyncio.run(work())


@contextlib.asynccontextmanager
async def _ipset(revision: int | None = None) -> AsyncIterator[Any]:
    """Open pyroute2's socket for ipset, and close it."""
    from pyroute2.ipset import AsyncIPSet

    try:
        ipset = AsyncIPSet(attr_revision=revision)
    except OSError as error:
        raise kernel_error(error) from error
    async with ipset:
        yield ipset


async def _answer(call: Coroutine[Any, Any, Any]) -> Any:
    """Wait for the answer to a call, but not without limit, as pyroute2 does: it also waits when the kernel dropped the
    answer. Raises KernelError."""
    import asyncio

    from pyroute2.netlink.exceptions import NetlinkError

    try:
        async with asyncio.timeout(_TIMEOUT):
            return await call
    except TimeoutError as error:  # before OSError, which it is one of
        raise OutcomeUnknown(errno.ETIMEDOUT, "the kernel did not answer") from error
    except (NetlinkError, OSError) as error:
        raise kernel_error(error) from error


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
