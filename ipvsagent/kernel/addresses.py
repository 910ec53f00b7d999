"""Reads and writes addresses on our interface, which make Service addresses local to the node, and reads the node's.

It knows rtnetlink (include/uapi/linux/if_addr.h), and nothing of Services. pyroute2 handles interfaces; our own codec
handles addresses, including the node's: one dump of 10,000 takes it 0.12 s and pyroute2 7 s, and a dump for each of 200
other interfaces takes 0.24 s (Linux 6.1), each time that the node's addresses change. The interface stays down, as
kube-proxy leaves it: its addresses are local nevertheless, and setting it down later would remove the IPv6 ones. IPv4
addresses have scope host (see arp.py), and IPv6 ones are deprecated; an address that another program, such as
kube-proxy, bound in another way is repaired without a moment in which it is not local.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence

from ipvsagent.address import Address, pack, unpack
from ipvsagent.errors import AlreadyThere, KernelError, NotThere, StartError
from ipvsagent.kernel.netlink import (
    CREATE,
    EXCL,
    NETLINK_ROUTE,
    REPLACE,
    NetlinkSocket,
    attribute,
    attributes,
    message,
)
from ipvsagent.kernel.pyroute import Rtnetlink
from ipvsagent.kernel.routes import APPEND, DELETE_ROUTE, NEW_ROUTE, pack_local_route
from ipvsagent.rows import AddressRow, Failure, Keys, Observed, Op, Owner, Verb

DEFAULT_INTERFACE = "kube-ipvs0"

NEW_ADDRESS, DELETE_ADDRESS, _GET_ADDRESS = 20, 21, 22  # RTM_*
_ADDRESS, _LOCAL, _FLAGS = 1, 2, 8  # IFA_*
_CACHEINFO = 6  # IFA_CACHEINFO
_FOREVER = 0xFFFFFFFF
_NO_DAD = 0x02
_SCOPE_HOST = 254
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, interface index


def pack_address_op(verb: Verb, address: Address, index: int, prefix: int | None, sequence: int) -> bytes:
    """Pack RTM_NEWADDR or RTM_DELADDR; SET gives an IPv6 address that is there our attributes.

    prefix: its length, None for that of a single address.
    """
    v6 = ":" in address
    family, full = (socket.AF_INET6, 128) if v6 else (socket.AF_INET, 32)
    body = _IFADDRMSG.pack(family, full if prefix is None else prefix, 0, 0 if v6 else _SCOPE_HOST, index)
    body += attribute(_LOCAL, pack(address))
    if verb is Verb.DELETE:
        return message(DELETE_ADDRESS, 0, sequence, body)
    if v6:  # duplicate address detection takes a second during which the address cannot be used
        body += attribute(_FLAGS, struct.pack("=I", _NO_DAD))
        # Deprecated for ever; otherwise masquerading towards an interface without an address of its own would take a
        # Service address as the source (ipv6_dev_get_saddr), and the answer would end here.
        body += attribute(_CACHEINFO, struct.pack("=IIII", 0, _FOREVER, 0, 0))
    return message(NEW_ADDRESS, CREATE | (EXCL if verb is Verb.ADD else REPLACE), sequence, body)


def is_as_we_bind(data: bytes, start: int, end: int) -> bool:
    """Return whether an RTM_NEWADDR body has scope host (IPv4), or is deprecated (IPv6)."""
    family, _, _, scope, _ = _IFADDRMSG.unpack_from(data, start)
    if family == socket.AF_INET:
        return bool(scope == _SCOPE_HOST)
    return attributes(data, start + _IFADDRMSG.size, end).get(_CACHEINFO, b"")[:4] == bytes(4)


def unpack_address(data: bytes, start: int, end: int) -> tuple[int, int, Address] | None:
    """Return interface index, prefix length and address of an RTM_NEWADDR or RTM_DELADDR body."""
    family, prefix, _, _, index = _IFADDRMSG.unpack_from(data, start)
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    found = attributes(data, start + _IFADDRMSG.size, end)
    raw = found.get(_LOCAL) or found.get(_ADDRESS)  # on point-to-point links IFA_ADDRESS is the other end's
    return None if raw is None else (index, prefix, unpack(raw))


def is_loopback(address: Address) -> bool:
    return address.startswith("127.") or address == "::1"


def is_ipv6_link_local(address: Address) -> bool:
    """Return whether the address is in fe80::/10."""
    return address[:3] in ("fe8", "fe9", "fea", "feb") and address[4:5] == ":"


class AddressTable:
    """Implements the `KernelTable` of `AddressRow`, for one interface and one thread.

    An interface that is not there reads as empty, and each ADD to it fails with ENODEV.
    """

    def __init__(self, interface: str = DEFAULT_INTERFACE, timeout: float = 10.0) -> None:
        self.interface = interface
        self.bound: set[Address] = set()
        """The addresses on the interface, as far as this table has read and written; `Ownership` shares it."""
        self.elsewhere: dict[Address, str] | None = None
        """What `node_addresses` returned last."""
        self.odd: set[Address] = set()
        """Addresses that another program bound, with other attributes than ours."""
        self._odd_prefixes: dict[Address, int] = {}  # of those that another program gave one; needed to delete them
        self._socket = NetlinkSocket(NETLINK_ROUTE, timeout=timeout)

    def close(self) -> None:
        self._socket.close()

    def refresh(self) -> set[Address]:
        """Read the interface again. Return `bound`, which every later read and write keeps up to date."""
        self._read_bound()
        return self.bound

    def read(self, keys: Keys) -> Iterator[Observed]:
        """Read the addresses on the interface except loopback and IPv6 link-local ones; all are ours.

        It is always one dump, whatever is asked for: the kernel has no query for one IPv4 address.
        """
        self._read_bound()
        wanted: Iterable[Address] = self.bound
        if keys is not None:
            wanted = (key for key in keys if isinstance(key, str) and key in self.bound)
        return iter([Observed(AddressRow(address), Owner.OURS) for address in wanted])

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        index = self._index()
        if index is None:
            self.bound.clear()
            gone = KernelError.of(errno.ENODEV, f"there is no interface {self.interface}")
            return [Failure(op, gone) for op in ops if op.verb is not Verb.DELETE]
        first = self._socket.reserve(len(ops))
        packed = []
        errors: dict[int, KernelError] = {}
        for sequence, op in enumerate(ops, first):
            row = op.row
            if type(row) is not AddressRow:
                errors[sequence] = KernelError.of(errno.EINVAL, "not sent: it is not an address")
                continue
            try:
                prefix = self._odd_prefixes.get(row.address) if op.verb is Verb.DELETE else None
                packed.append(pack_address_op(op.verb, row.address, index, prefix, sequence))
            except OSError as error:
                errors[sequence] = KernelError.of(errno.EINVAL, f"not sent: {error}")
        errors.update(self._socket.send(packed))
        failures: list[Failure] = []
        for sequence, op in enumerate(ops, first):
            refusal = errors.get(sequence)
            if refusal is None or _is_done_already(op.verb, refusal):
                self._note(op)
            else:
                failures.append(Failure(op, refusal))
        return failures

    def ensure_interface(self) -> None:
        """Create the interface if it is missing. Raises StartError with the remedy."""
        index = self._index()
        if index is not None:
            self._require_dummy(index)
            return
        try:
            with contextlib.closing(Rtnetlink()) as rtnetlink:
                rtnetlink.create_dummy(self.interface)
        except KernelError as error:
            raise _cannot_create(self.interface, error.code) from error

    def has_interface(self) -> bool:
        return self._index() is not None

    def remove_interface(self) -> None:
        """Remove the interface with its addresses, if it is there. Raises StartError where it is not a dummy."""
        index = self._index()
        if index is not None:
            self._require_dummy(index)
            with contextlib.closing(Rtnetlink()) as rtnetlink:
                rtnetlink.delete_link(index)
        self.bound.clear()

    def node_addresses(self) -> dict[Address, str]:
        """Return addresses on all other interfaces, with the interface's name; no loopback, no IPv6 link-local."""
        names = dict(socket.if_nameindex())
        self.elsewhere = {
            address: names.get(index, str(index))
            for index, _, address, _ in self._dump()
            if names.get(index) != self.interface
        }
        return self.elsewhere

    def mend(self) -> int:
        """Give `odd` addresses the attributes of ours; return how many there were. Raises KernelError.

        The scope of an IPv4 address changes only by deleting and adding it. Meanwhile a route keeps it local, so that
        no packet is lost and no connection is affected.
        """
        index = self._index()
        odd = [address for address in sorted(self.odd) if address not in self._odd_prefixes]
        if index is None or not odd:
            return 0
        loopback = socket.if_nametoindex("lo")
        first = self._socket.reserve(4 * len(odd))
        messages = []
        for number, address in enumerate(odd):
            sequence = first + 4 * number
            if ":" in address:
                messages.append(pack_address_op(Verb.SET, address, index, None, sequence))
                continue
            messages += [
                pack_local_route(NEW_ROUTE, CREATE | APPEND, sequence, (address, 32), loopback),
                pack_address_op(Verb.DELETE, address, index, None, sequence + 1),
                pack_address_op(Verb.ADD, address, index, None, sequence + 2),
                pack_local_route(DELETE_ROUTE, 0, sequence + 3, (address, 32), loopback),
            ]
        errors = self._socket.send(messages)
        self._read_bound()
        if errors:
            raise next(iter(errors.values()))
        return len(odd)

    def _require_dummy(self, index: int) -> None:
        with contextlib.closing(Rtnetlink()) as rtnetlink:
            kind = rtnetlink.link(index).kind
        if kind != "dummy":
            raise StartError(
                f"interface {self.interface} is {f'of kind {kind}' if kind else 'hardware'}, not dummy",
                f"Choose another name for ours, or remove it with `ip link delete {self.interface}`",
            )

    def _index(self) -> int | None:
        try:
            return socket.if_nametoindex(self.interface)
        except OSError:
            return None

    def _dump(self, index: int = 0) -> Iterator[tuple[int, int, Address, bool]]:
        """Yield index, prefix length and address of one interface or all, and whether it `is_as_we_bind`."""
        # Kernels from 4.20 on filter by index, for our 10,000 addresses beside a node's few; others do not.
        for body in self._socket.dump(_GET_ADDRESS, _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, index)):
            found = unpack_address(*body)
            if found is None or (index and found[0] != index):
                continue
            if not is_loopback(found[2]) and not is_ipv6_link_local(found[2]):
                yield (*found, is_as_we_bind(*body))

    def _read_bound(self) -> None:
        index = self._index()
        found: dict[Address, int] = {}
        self.odd.clear()
        if index is not None:
            try:
                for _, prefix, address, as_ours in self._dump(index):
                    found[address] = prefix
                    if not as_ours:
                        self.odd.add(address)
            except KernelError as error:
                if error.code != errno.ENODEV:  # it was removed meanwhile
                    raise
        self.bound.clear()
        self.bound.update(found)
        self._odd_prefixes = {a: p for a, p in found.items() if p != (128 if ":" in a else 32)}

    def _note(self, op: Op) -> None:
        if type(op.row) is not AddressRow:
            return
        if op.verb is Verb.DELETE:
            self.bound.discard(op.row.address)
        else:
            self.bound.add(op.row.address)


def _is_done_already(verb: Verb, error: KernelError) -> bool:
    if verb is Verb.DELETE:
        return isinstance(error, NotThere) or error.code == errno.ENODEV
    return isinstance(error, AlreadyThere)


def _cannot_create(interface: str, code: int) -> StartError:
    command = f"ip link add {interface} type dummy"
    if code == errno.EOPNOTSUPP:
        return StartError("the kernel cannot make dummy interfaces", "Load the module with `modprobe dummy`")
    if code in (errno.EPERM, errno.EACCES):
        return StartError(
            f"no permission to create interface {interface}",
            f"Run as root with CAP_NET_ADMIN, or `{command}`",
        )
    return StartError(f"cannot create interface {interface}: {KernelError.of(code)}", f"Try `{command}`")
