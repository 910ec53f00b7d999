"""Packs requests to IPVS. The kernel parses them in net/netfilter/ipvs/ip_vs_ctl.c.

Pure: no socket, no ownership, no ledger. Filling a table of 10,000 Services takes 110,000 messages. So a real server is
packed by one precompiled struct, and the part that names its virtual server is built only once.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable

from ipvsagent.address import Address, Family
from ipvsagent.errors import KernelError
from ipvsagent.kernel.ipvs.attributes import (
    ATTR,
    BE32,
    CMD_DEST,
    CMD_SERVICE,
    CMD_TIMEOUT_TCP,
    CMD_TIMEOUT_TCP_FIN,
    CMD_TIMEOUT_UDP,
    DEL_DEST,
    DEL_SERVICE,
    DEST_ADDR,
    DEST_FAMILY,
    DEST_FORWARD,
    DEST_LOWER,
    DEST_PORT,
    DEST_TUN_FLAGS,
    DEST_TUN_PORT,
    DEST_TUN_TYPE,
    DEST_UPPER,
    DEST_WEIGHT,
    GENL,
    GENL_VERSION,
    NEW_DEST,
    NEW_SERVICE,
    PROTOCOL_NUMBERS,
    SET_CONFIG,
    SET_DEST,
    SET_SERVICE,
    SVC_ADDR,
    SVC_AF,
    SVC_FLAGS,
    SVC_FWMARK,
    SVC_NETMASK,
    SVC_PE_NAME,
    SVC_PORT,
    SVC_PROTOCOL,
    SVC_SCHED,
    SVC_TIMEOUT,
    U16,
    U32,
    head_of,
)
from ipvsagent.kernel.netlink import HEADER, REQUEST, attribute
from ipvsagent.model import Protocol, VirtualServerId
from ipvsagent.rows import Op, RealServerRow, Tunnel, Verb, VirtualServerRow

_SERVICE_COMMAND = {Verb.ADD: NEW_SERVICE, Verb.SET: SET_SERVICE, Verb.DELETE: DEL_SERVICE}
_DEST_COMMAND = {Verb.ADD: NEW_DEST, Verb.SET: SET_DEST, Verb.DELETE: DEL_DEST}

# A whole message: the netlink header, then everything up to the address of the real server (the length depends on
# whether the virtual server is named by an address or by a mark), then the attributes of the real server.
_FULL = "16s IH2x II II II II IH2x"
_NAMED = "16s IH2x IH2x"
_BY_ADDRESS, _BY_MARK = 4 + 48 + 8, 4 + 20 + 8
_DEST_STRUCT = {
    (size, full): struct.Struct(f"=IHHII {size}s {_FULL if full else _NAMED}")
    for size in (_BY_ADDRESS, _BY_MARK)
    for full in (True, False)
}
_FULL_SIZE, _NAMED_SIZE = 20 + 6 * 8, 20 + 2 * 8
_H_PORT, _H_FORWARD, _H_WEIGHT = head_of(DEST_PORT, 2), head_of(DEST_FORWARD, 4), head_of(DEST_WEIGHT, 4)
_H_UPPER, _H_LOWER, _H_FAMILY = head_of(DEST_UPPER, 4), head_of(DEST_LOWER, 4), head_of(DEST_FAMILY, 2)
_IDENTITY = struct.Struct("=IH2x IH2x I16s IH2x")
_H_SVC_AF, _H_SVC_PROTOCOL = head_of(SVC_AF, 2), head_of(SVC_PROTOCOL, 2)
_H_SVC_ADDR, _H_SVC_PORT = head_of(SVC_ADDR, 16), head_of(SVC_PORT, 2)


def service_identity(server: VirtualServerId) -> bytes:
    """Pack the attributes that name a virtual server, without the attribute that contains them."""
    family = _family_number(server.address)
    if server.protocol is Protocol.FWM:
        return attribute(SVC_AF, U16.pack(family)) + attribute(SVC_FWMARK, U32.pack(server.port))
    return _IDENTITY.pack(
        _H_SVC_AF,
        family,
        _H_SVC_PROTOCOL,
        PROTOCOL_NUMBERS[server.protocol],
        _H_SVC_ADDR,
        socket.inet_pton(family, server.address),
        _H_SVC_PORT,
        socket.htons(server.port),
    )


def request(command: int, server: VirtualServerId | None = None) -> bytes:
    """Pack the body of a query, about one virtual server or about all."""
    body = GENL.pack(command, GENL_VERSION, 0)
    return body if server is None else body + attribute(CMD_SERVICE, service_identity(server))


def pack_ops(kind: int, ops: Iterable[Op], first: int) -> tuple[list[bytes], dict[int, KernelError]]:
    """Pack one message per op, of type `kind`, with sequence numbers from `first` on.

    Return the messages and, by sequence number, the errors of ops that cannot be packed. These have no message.
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
                raise ValueError("it is not a row of IPVS")
        except (struct.error, OverflowError) as error:
            errors[sequence] = KernelError.of(errno.ERANGE, f"not sent: {error}")
        except (ValueError, OSError) as error:
            errors[sequence] = KernelError.of(errno.EINVAL, f"not sent: {error}")
    return messages, errors


def _family_number(address: Address) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _dest_prefix(server: VirtualServerId, verb: Verb) -> tuple[struct.Struct, int, bytes]:
    """Return the layout, its size, and what follows the netlink header in ops of one verb on one virtual server's real
    servers."""
    full = verb is not Verb.DELETE
    size = _FULL_SIZE if full else _NAMED_SIZE
    prefix = b"".join(
        (
            request(_DEST_COMMAND[verb], server),
            ATTR.pack(4 + size, CMD_DEST),
            ATTR.pack(20, DEST_ADDR),
        )
    )
    layout = _DEST_STRUCT[len(prefix), full]
    return layout, layout.size, prefix


def _with_tunnel(packed: bytes, prefix: bytes, tunnel: Tunnel) -> bytes:
    extra = b"".join(
        (
            attribute(DEST_TUN_TYPE, tunnel.kind.to_bytes(1, "big")),
            attribute(DEST_TUN_PORT, tunnel.port.to_bytes(2, "big")),
            attribute(DEST_TUN_FLAGS, U16.pack(tunnel.flags)),
        )
    )
    buffer = bytearray(packed + extra)
    U32.pack_into(buffer, 0, len(buffer))
    ATTR.pack_into(buffer, 16 + len(prefix) - 8, 4 + _FULL_SIZE + len(extra), CMD_DEST)
    return bytes(buffer)


def _service_message(kind: int, sequence: int, verb: Verb, row: VirtualServerRow) -> bytes:
    content = service_identity(row.id)
    if verb is not Verb.DELETE:
        # The kernel requires all of these in every message; it has no partial change.
        mask = U32 if row.id.family is Family.IPV6 else BE32
        content += b"".join(
            (
                attribute(SVC_SCHED, row.scheduler.encode() + b"\0"),
                attribute(SVC_FLAGS, struct.pack("=II", row.flags, 0xFFFFFFFF)),
                attribute(SVC_TIMEOUT, U32.pack(row.timeout)),
                attribute(SVC_NETMASK, mask.pack(row.mask)),
                attribute(SVC_PE_NAME, row.pe_name.encode() + b"\0") if row.pe_name else b"",
            )
        )
    return b"".join(
        (
            HEADER.pack(24 + len(content), kind, REQUEST, sequence, 0),
            GENL.pack(_SERVICE_COMMAND[verb], GENL_VERSION, 0),
            ATTR.pack(4 + len(content), CMD_SERVICE),
            content,
        )
    )


def timeouts_request(tcp: int, tcp_fin: int, udp: int) -> bytes:
    """Pack the body of SET_CONFIG. Seconds; 0 leaves a timeout unchanged."""
    return request(SET_CONFIG) + b"".join(
        (
            attribute(CMD_TIMEOUT_TCP, U32.pack(tcp)),
            attribute(CMD_TIMEOUT_TCP_FIN, U32.pack(tcp_fin)),
            attribute(CMD_TIMEOUT_UDP, U32.pack(udp)),
        )
    )
