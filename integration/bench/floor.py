"""The floor: a netlink socket that programs prepared values with the fewest instructions Python has for it.

Shares no code with the agent, so that a mistake cannot be in both. It knows one shape of virtual server (TCP, IPv4, rr)
and checks nothing but that nothing failed.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import NamedTuple

_NETLINK_GENERIC = 16
_REQUEST, _ACK, _EXCL, _CREATE = 0x1, 0x4, 0x200, 0x400
_NEW_SERVICE, NEW_DEST, SET_DEST, DEL_DEST = 1, 5, 6, 7
_NEW_ADDRESS = 20
_BATCH = 1000
_BUFFER = 4 << 20

_HEADER = struct.Struct("=IHHII")
# genetlink header, then the nested attribute with family, protocol, address and port.
_SERVICE = struct.Struct("=BBHHHHHHxxHHHxxHH4s12xHHHxx")
_SERVICE_REST = struct.Struct("=HH4sHHIIHHIHHI")
_DEST = struct.Struct("=HHHH4s12xHHHxxHHIHHIHHIHHIHHHxx")
_ADDRESS = struct.Struct("=BBBBIHH4s")


class Server(NamedTuple):
    """Address and port as they stand in a message."""

    address: bytes
    port: int


def server(address: str, port: int) -> Server:
    return Server(IPv4Address(address).packed, socket.htons(port))


class Floor:
    """Sockets in the network namespace in which it was made."""

    def __init__(self) -> None:
        self._genl = _socket(_NETLINK_GENERIC)
        self._route = _socket(socket.NETLINK_ROUTE)
        self._family = self._resolve(b"IPVS\0")

    def close(self) -> None:
        self._genl.close()
        self._route.close()

    def program(self, servers: Sequence[tuple[Server, Sequence[Server]]], interface: int) -> None:
        """Virtual servers with their real servers, and the addresses."""
        messages: list[bytes] = []
        for each, endpoints in servers:
            messages.append(self._message(_service_body(each)))
            messages += [self._message(_dest_body(NEW_DEST, each, endpoint, 1)) for endpoint in endpoints]
        _send_all(self._genl, messages)
        _send_all(self._route, [_address_message(each.address, interface) for each, _ in servers])

    def change(self, command: int, virtual: Server, real: Server, weight: int) -> None:
        """One operation on a real server, acknowledged."""
        self._genl.sendall(self._message(_dest_body(command, virtual, real, weight), _ACK))
        _check(self._genl.recv(4096))

    def _message(self, body: bytes, flags: int = 0) -> bytes:
        return _HEADER.pack(16 + len(body), self._family, _REQUEST | flags, 1, 0) + body

    def _resolve(self, name: bytes) -> int:
        attribute = struct.pack("=HH", 4 + len(name), 2) + name + bytes(-len(name) & 3)
        self._genl.sendall(_HEADER.pack(20 + len(attribute), 0x10, _REQUEST, 1, 0) + b"\3\1\0\0" + attribute)
        answer = self._genl.recv(65536)
        _check(answer)
        offset = 20
        while offset < len(answer):
            length, kind = struct.unpack_from("=HH", answer, offset)
            if kind == 1:
                return int.from_bytes(answer[offset + 4 : offset + 6], sys.byteorder)
            offset += length + 3 & ~3
        raise OSError("the kernel did not say which family IPVS is")


def _socket(protocol: int) -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    so_sndbufforce, so_rcvbufforce = 32, 33
    for option in (so_sndbufforce, so_rcvbufforce):
        made.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
    made.bind((0, 0))
    return made


def _identity(command: int, virtual: Server, extra: int) -> bytes:
    """extra: bytes that follow within the nested attribute."""
    size = 48 + extra
    fields = (6, 1, socket.AF_INET, 6, 2, socket.IPPROTO_TCP, 20, 3, virtual.address, 6, 4, virtual.port)
    return _SERVICE.pack(command, 1, 0, size, 1, *fields)


def _service_body(virtual: Server) -> bytes:
    rest = _SERVICE_REST.pack(7, 6, b"rr\0", 12, 7, 0, 0xFFFFFFFF, 8, 8, 0, 8, 9, 0xFFFFFFFF)
    return _identity(_NEW_SERVICE, virtual, len(rest)) + rest


def _dest_body(command: int, virtual: Server, real: Server, weight: int) -> bytes:
    fields = (20, 1, real.address, 6, 2, real.port, 8, 3, 0, 8, 4, weight, 8, 5, 0, 8, 6, 0, 6, 11, socket.AF_INET)
    return _identity(command, virtual, 0) + _DEST.pack(_DEST.size, 2, *fields)


def _address_message(address: bytes, interface: int) -> bytes:
    body = _ADDRESS.pack(socket.AF_INET, 32, 0, 254, interface, 8, 2, address)
    return _HEADER.pack(16 + len(body), _NEW_ADDRESS, _REQUEST | _CREATE | _EXCL, 1, 0) + body


def _send_all(target: socket.socket, messages: Sequence[bytes]) -> None:
    low_byte_of_flags = 6 if sys.byteorder == "little" else 7
    for start in range(0, len(messages), _BATCH):
        part = messages[start : start + _BATCH]
        data = bytearray().join(part)
        data[len(data) - len(part[-1]) + low_byte_of_flags] |= _ACK
        target.sendall(data)
        _check(target.recv(65536))


def _check(answer: bytes) -> None:
    """Any first answer that is an error stands for its batch."""
    if int.from_bytes(answer[4:6], sys.byteorder) == 2:
        code = -int.from_bytes(answer[16:20], sys.byteorder, signed=True)
        if code:
            raise OSError(code, os.strerror(code))
