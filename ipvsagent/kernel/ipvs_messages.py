"""IPVS messages as bytes, both ways: include/uapi/linux/ip_vs.h and net/netfilter/ipvs/ip_vs_ctl.c.

Pure: no socket, no ownership, no ledger. Writing a table of 10,000 Services means 110,000 messages, so a real
server is packed by one precompiled struct, with what its virtual server contributes made once; and it is
unpacked by fixed offsets after checking that each attribute stands where current kernels put it.

Byte order is the host's, except ports, addresses, and the persistence mask of IPv4 (for IPv6 the same
attribute is a prefix length in host order).
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterable

from ipvsagent.address import Address, Family, pack, unpack
from ipvsagent.errors import KernelError
from ipvsagent.kernel.netlink import HEADER, REQUEST, Body, attribute, attributes
from ipvsagent.model import Forwarding, Protocol, VirtualServerId
from ipvsagent.rows import HASHED, Counters, Op, RealServerRow, Tunnel, Verb, VirtualServerRow

GENL_NAME, _GENL_VERSION = "IPVS", 1
NEW_SERVICE, SET_SERVICE, DEL_SERVICE, GET_SERVICE = 1, 2, 3, 4
NEW_DEST, SET_DEST, DEL_DEST, GET_DEST = 5, 6, 7, 8
SET_CONFIG, GET_CONFIG, GET_INFO = 12, 13, 15

_SERVICE, _DEST, _TIMEOUT_TCP, _TIMEOUT_TCP_FIN, _TIMEOUT_UDP = 1, 2, 4, 5, 6  # IPVS_CMD_ATTR_*
_AF, _PROTOCOL, _ADDR, _PORT, _FWMARK, _SCHED, _FLAGS, _TIMEOUT, _NETMASK = range(1, 10)  # IPVS_SVC_ATTR_*
_STATS, _PE_NAME, _STATS64 = 10, 11, 12
_D_ADDR, _D_PORT, _D_FORWARD, _D_WEIGHT, _D_UPPER, _D_LOWER = range(1, 7)  # IPVS_DEST_ATTR_*
_D_ACTIVE, _D_INACTIVE, _D_PERSISTENT, _D_STATS, _D_FAMILY, _D_STATS64 = range(7, 13)
_D_TUN_TYPE, _D_TUN_PORT, _D_TUN_FLAGS = range(13, 16)

_NUMBERS = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}
_PROTOCOLS = {number: protocol for protocol, number in _NUMBERS.items()}
# IPVS_FWD 4, cache bypass, cannot be configured; ipvsadm shows what it does not know as routing.
_FORWARDING = (*Forwarding, *([Forwarding.ROUTE] * 4))
_SERVICE_COMMAND = {Verb.ADD: NEW_SERVICE, Verb.SET: SET_SERVICE, Verb.DELETE: DEL_SERVICE}
_DEST_COMMAND = {Verb.ADD: NEW_DEST, Verb.SET: SET_DEST, Verb.DELETE: DEL_DEST}

_GENL = struct.Struct("=BBH")
_ATTR = struct.Struct("=HH")
_U16, _U32, _BE32 = struct.Struct("=H"), struct.Struct("=I"), struct.Struct(">I")


def _head(kind: int, size: int) -> int:
    """An attribute's header as the one number that it is when read in host order."""
    (number,) = _U32.unpack(_ATTR.pack(size + 4, kind))
    return int(number)


def _dest_layout(names: str, values: str) -> struct.Struct:
    return struct.Struct(f"=IHHII {names} {values}")


# A whole message: netlink header, then everything up to the address (its length depends on the virtual
# server being named by an address or a mark), then the real server's attributes.
_FULL = "16s IH2x II II II II IH2x"
_NAMED = "16s IH2x IH2x"
_BY_ADDRESS, _BY_MARK = 4 + 48 + 8, 4 + 20 + 8
_DEST_STRUCT = {
    (size, full): _dest_layout(f"{size}s", _FULL if full else _NAMED)
    for size in (_BY_ADDRESS, _BY_MARK)
    for full in (True, False)
}
_FULL_SIZE, _NAMED_SIZE = 20 + 6 * 8, 20 + 2 * 8
_H_PORT, _H_FORWARD, _H_WEIGHT = _head(_D_PORT, 2), _head(_D_FORWARD, 4), _head(_D_WEIGHT, 4)
_H_UPPER, _H_LOWER, _H_FAMILY = _head(_D_UPPER, 4), _head(_D_LOWER, 4), _head(_D_FAMILY, 2)

# What ip_vs_genl_fill_dest() has written since Linux 5.2 (tunnel attributes), statistics left out.
_DEST_ANSWER = struct.Struct("=8x I16s IH2x II II IB3x IH2x IH2x II II II II II IH2x")
_DEST_ANSWER_HEADS = (
    *(_head(_D_ADDR, 16), _H_PORT, _H_FORWARD, _H_WEIGHT),
    *(_head(_D_TUN_TYPE, 1), _head(_D_TUN_PORT, 2), _head(_D_TUN_FLAGS, 2), _H_UPPER, _H_LOWER),
    *(_head(_D_ACTIVE, 4), _head(_D_INACTIVE, 4), _head(_D_PERSISTENT, 4), _H_FAMILY),
)


def service_identity(server: VirtualServerId) -> bytes:
    """The attributes that name a virtual server, without the one around them."""
    family = attribute(_AF, _U16.pack(_family_number(server.address)))
    if server.protocol is Protocol.FWM:
        return family + attribute(_FWMARK, _U32.pack(server.port))
    return b"".join(
        (
            family,
            attribute(_PROTOCOL, _U16.pack(_NUMBERS[server.protocol])),
            attribute(_ADDR, pack(server.address).ljust(16, b"\0")),
            attribute(_PORT, server.port.to_bytes(2, "big")),
        )
    )


def request(command: int, server: VirtualServerId | None = None) -> bytes:
    """The body of a query, about one virtual server or about all."""
    body = _GENL.pack(command, _GENL_VERSION, 0)
    return body if server is None else body + attribute(_SERVICE, service_identity(server))


def pack_ops(kind: int, ops: Iterable[Op], first: int) -> tuple[list[bytes], dict[int, KernelError]]:
    """Messages of type `kind` with sequence numbers from `first`, one an op.

    An op that cannot be packed has no message but an error under its sequence number.
    """
    messages: list[bytes] = []
    errors: dict[int, KernelError] = {}
    append = messages.append
    htons, inet_pton = socket.htons, socket.inet_pton
    v4, v6 = socket.AF_INET, socket.AF_INET6
    server: VirtualServerId | None = None
    last_verb: Verb | None = None
    layout, length, prefix = _DEST_STRUCT[_BY_ADDRESS, True], 0, b""
    for sequence, op in enumerate(ops, first):
        row = op.row
        try:
            if type(row) is RealServerRow:
                verb = op.verb
                if row.server is not server or verb is not last_verb:
                    server, last_verb = row.server, verb
                    layout, length, prefix = _dest_prefix(server, verb)
                address = row.address
                family = v6 if ":" in address else v4
                if verb is Verb.DELETE:
                    raw = inet_pton(family, address)
                    head = (length, kind, REQUEST, sequence, 0, prefix)
                    append(layout.pack(*head, raw, _H_PORT, htons(row.port), _H_FAMILY, family))
                    continue
                packed = layout.pack(
                    length,
                    kind,
                    REQUEST,
                    sequence,
                    0,
                    prefix,
                    inet_pton(family, address),
                    _H_PORT,
                    htons(row.port),
                    _H_FORWARD,
                    row.forwarding,
                    _H_WEIGHT,
                    row.weight,
                    _H_UPPER,
                    row.upper_threshold,
                    _H_LOWER,
                    row.lower_threshold,
                    _H_FAMILY,
                    family,
                )
                append(packed if row.tunnel is None else _with_tunnel(packed, prefix, row.tunnel))
            elif type(row) is VirtualServerRow:
                append(_service_message(kind, sequence, op.verb, row))
            else:
                raise ValueError("it is no row of IPVS")
        except (struct.error, OverflowError) as error:
            errors[sequence] = KernelError.of(errno.ERANGE, f"not sent: {error}")
        except (ValueError, OSError) as error:
            errors[sequence] = KernelError.of(errno.EINVAL, f"not sent: {error}")
    return messages, errors


def _family_number(address: Address) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _dest_prefix(server: VirtualServerId, verb: Verb) -> tuple[struct.Struct, int, bytes]:
    """How the ops of one verb on real servers of one virtual server begin, after the netlink header."""
    full = verb is not Verb.DELETE
    size = _FULL_SIZE if full else _NAMED_SIZE
    prefix = b"".join(
        (
            request(_DEST_COMMAND[verb], server),
            _ATTR.pack(4 + size, _DEST),
            _ATTR.pack(20, _D_ADDR),
        )
    )
    layout = _DEST_STRUCT[len(prefix), full]
    return layout, layout.size, prefix


def _with_tunnel(packed: bytes, prefix: bytes, tunnel: Tunnel) -> bytes:
    extra = b"".join(
        (
            attribute(_D_TUN_TYPE, tunnel.kind.to_bytes(1, "big")),
            attribute(_D_TUN_PORT, tunnel.port.to_bytes(2, "big")),
            attribute(_D_TUN_FLAGS, _U16.pack(tunnel.flags)),
        )
    )
    buffer = bytearray(packed + extra)
    _U32.pack_into(buffer, 0, len(buffer))
    _ATTR.pack_into(buffer, 16 + len(prefix) - 8, 4 + _FULL_SIZE + len(extra), _DEST)
    return bytes(buffer)


def _service_message(kind: int, sequence: int, verb: Verb, row: VirtualServerRow) -> bytes:
    content = service_identity(row.id)
    if verb is not Verb.DELETE:
        # All of these every time: the kernel refuses a message that lacks one, and has no partial change.
        mask = _U32 if row.id.family is Family.IPV6 else _BE32
        content += b"".join(
            (
                attribute(_SCHED, row.scheduler.encode() + b"\0"),
                attribute(_FLAGS, struct.pack("=II", row.flags, 0xFFFFFFFF)),
                attribute(_TIMEOUT, _U32.pack(row.timeout)),
                attribute(_NETMASK, mask.pack(row.mask)),
                attribute(_PE_NAME, row.pe_name.encode() + b"\0") if row.pe_name else b"",
            )
        )
    return b"".join(
        (
            HEADER.pack(24 + len(content), kind, REQUEST, sequence, 0),
            _GENL.pack(_SERVICE_COMMAND[verb], _GENL_VERSION, 0),
            _ATTR.pack(4 + len(content), _SERVICE),
            content,
        )
    )


def unpack_service(body: Body, counters: bool = False) -> tuple[VirtualServerRow, Counters | None] | None:
    """A virtual server; None if it is of a protocol that this program has no name for."""
    found = attributes(attributes(body.data, body.start + 4, body.end)[_SERVICE])
    v6 = _number(found[_AF]) == socket.AF_INET6
    if _FWMARK in found:
        server = VirtualServerId(Protocol.FWM, Address("::" if v6 else "0.0.0.0"), _number(found[_FWMARK]))
    else:
        protocol = _PROTOCOLS.get(_number(found[_PROTOCOL]))
        if protocol is None:
            return None
        address = unpack(found[_ADDR][: 16 if v6 else 4])
        server = VirtualServerId(protocol, address, int.from_bytes(found[_PORT], "big"))
    row = VirtualServerRow(
        server,
        _text(found[_SCHED]),
        _U32.unpack_from(found[_FLAGS])[0] & ~HASHED,
        _number(found[_TIMEOUT]),
        (_U32 if v6 else _BE32).unpack(found[_NETMASK])[0],
        _text(found[_PE_NAME]) if _PE_NAME in found else "",
    )
    return row, _counters(found, _STATS64, _STATS) if counters else None


def unpack_dest(server: VirtualServerId, body: Body) -> tuple[RealServerRow, int, int, int]:
    """A real server, and its active, inactive and persistent connections."""
    data, start, end = body
    if end - start >= _DEST_ANSWER.size:
        fields = _DEST_ANSWER.unpack_from(data, start)
        if fields[::2] == _DEST_ANSWER_HEADS:
            address, port, forward, weight, kind, tunnel_port, tunnel_flags, *rest = fields[1::2]
            upper, lower, active, inactive, persistent, family = rest
            row = RealServerRow(
                server,
                unpack(address if family == socket.AF_INET6 else address[:4]),
                socket.ntohs(port),
                weight,
                _FORWARDING[forward & 7],
                upper,
                lower,
                Tunnel(kind, socket.ntohs(tunnel_port), tunnel_flags) if kind or tunnel_port or tunnel_flags else None,
            )
            return row, active, inactive, persistent
    return _walk_dest(server, body)


def _walk_dest(server: VirtualServerId, body: Body) -> tuple[RealServerRow, int, int, int]:
    """For kernels that write other attributes, or in another order."""
    found = attributes(attributes(body.data, body.start + 4, body.end)[_DEST])
    # Before Linux 3.18 a real server is of its virtual server's family and the attribute is missing.
    family = _number(found[_D_FAMILY]) if _D_FAMILY in found else _family_number(server.address)
    tunnel = Tunnel(
        _number(found.get(_D_TUN_TYPE, b"")),
        int.from_bytes(found.get(_D_TUN_PORT, b""), "big"),
        _number(found.get(_D_TUN_FLAGS, b"")),
    )
    row = RealServerRow(
        server,
        unpack(found[_D_ADDR][: 16 if family == socket.AF_INET6 else 4]),
        int.from_bytes(found[_D_PORT], "big"),
        _number(found[_D_WEIGHT]),
        _FORWARDING[_number(found[_D_FORWARD]) & 7],
        _number(found.get(_D_UPPER, b"")),
        _number(found.get(_D_LOWER, b"")),
        None if tunnel == Tunnel() else tunnel,
    )
    counts = (_number(found.get(kind, b"")) for kind in (_D_ACTIVE, _D_INACTIVE, _D_PERSISTENT))
    active, inactive, persistent = counts
    return row, active, inactive, persistent


def unpack_dest_counters(body: Body) -> Counters | None:
    found = attributes(attributes(body.data, body.start + 4, body.end)[_DEST])
    return _counters(found, _D_STATS64, _D_STATS)


def unpack_info(body: Body) -> tuple[tuple[int, int, int], int]:
    """Version of IPVS, and the number of buckets of its connection table."""
    found = attributes(body.data, body.start + 4, body.end)
    version = _number(found[1])
    return (version >> 16 & 255, version >> 8 & 255, version & 255), _number(found[2])


def unpack_timeouts(body: Body) -> tuple[int, int, int]:
    """Seconds: TCP established, TCP after FIN, UDP."""
    found = attributes(body.data, body.start + 4, body.end)
    return (
        _number(found.get(_TIMEOUT_TCP, b"")),
        _number(found.get(_TIMEOUT_TCP_FIN, b"")),
        _number(found.get(_TIMEOUT_UDP, b"")),
    )


def timeouts_request(tcp: int, tcp_fin: int, udp: int) -> bytes:
    """Body of SET_CONFIG, seconds; 0 leaves what is set."""
    return request(SET_CONFIG) + b"".join(
        (
            attribute(_TIMEOUT_TCP, _U32.pack(tcp)),
            attribute(_TIMEOUT_TCP_FIN, _U32.pack(tcp_fin)),
            attribute(_TIMEOUT_UDP, _U32.pack(udp)),
        )
    )


def _counters(found: dict[int, bytes], wide: int, narrow: int) -> Counters | None:
    """From the 64-bit statistics, or the 32-bit ones of kernels before 4.1."""
    nested = found.get(wide) or found.get(narrow)
    if nested is None:
        return None
    values = attributes(nested)
    return Counters(*(_number(values.get(kind, b"")) for kind in range(1, 11)))


def _number(raw: bytes) -> int:
    return int.from_bytes(raw, sys.byteorder)


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode(errors="replace")
