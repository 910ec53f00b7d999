"""Implements AF_NETLINK: a codec for messages and attributes, and a blocking socket that sends batches.

It is for frequent messages: pyroute2, which carries the rare ones (pyroute.py), needs 300 to 500 us for each, which is
minutes for the table of a node; these functions need about 1 us. Nothing here knows IPVS or addresses: callers pass
packed messages and get bodies back.

How a batch stays exact without one acknowledgement per message: the kernel always answers a message that
failed, and each answer names its sequence number, so only the last message of a batch asks for an
acknowledgement, which also marks the end. Acknowledging each would overflow the receive buffer.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ipvsagent.errors import KernelError

NETLINK_ROUTE, NETLINK_GENERIC = 0, 16

REQUEST, ACK, DUMP, REPLACE, EXCL, CREATE = 0x1, 0x4, 0x300, 0x100, 0x200, 0x400  # NLM_F_*
_DUMP_INTERRUPTED, _CAPPED, _ACK_TLVS = 0x10, 0x100, 0x200  # NLM_F_* of answers
_ERROR, _DONE = 2, 3  # NLMSG_*

_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT_CHECK = 270, 10, 11, 12
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_BUFFER = 4 << 20
_READ = 128 << 10  # more than the kernel puts into one datagram of a dump (32 KiB)
_MAX_MESSAGES, _MAX_BYTES = 1000, 256 << 10
_DUMP_TRIES = 5

HEADER = struct.Struct("=IHHII")
"""nlmsghdr: length, type, flags, sequence number, port."""
_ATTRIBUTE = struct.Struct("=HH")
_LENGTH = struct.Struct("=I")
_TYPE_MASK = 0x3FFF

_FLAGS_LOW_BYTE = 6 if sys.byteorder == "little" else 7
_GENL_CTRL, _GETFAMILY, _FAMILY_ID, _FAMILY_NAME = 0x10, 3, 1, 2


class Body(NamedTuple):
    """Locates an answer without its netlink header: `data[start:end]`.

    It stays in the buffer it came in: most are read by fixed offsets, and copying them first would cost as much as
    reading them.
    """

    data: bytes
    start: int
    end: int


class OutcomeUnknown(KernelError):
    """Reports that the kernel's answers were lost (ENOBUFS) or did not come in time (ETIMEDOUT).

    Whether the request was applied is known only when the state has been read again.
    """


def attribute(kind: int, payload: bytes) -> bytes:
    """Pack one attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(len(payload) + 4, kind) + payload + bytes(-len(payload) & 3)


def attributes(data: bytes, offset: int = 0, end: int | None = None) -> dict[int, bytes]:
    """Return the attributes in `data[offset:end]` by type, of repeated ones the last, up to the first broken one."""
    found = {}
    limit = len(data) if end is None else end
    while offset + 4 <= limit:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > limit:
            break
        found[kind & _TYPE_MASK] = data[offset + 4 : offset + length]
        offset += length + 3 & ~3
    return found


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Pack one netlink message; `body` is already padded."""
    return HEADER.pack(16 + len(body), kind, flags | REQUEST, sequence, 0) + body


class NetlinkSocket:
    """Sends requests for one caller at a time. `timeout` is for each answer, in seconds.

    It belongs to the network namespace in which it was made. Raises OSError if it cannot be made.
    """

    def __init__(self, protocol: int, timeout: float = 10.0) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        for option, plain in ((_SO_SNDBUFFORCE, socket.SO_SNDBUF), (_SO_RCVBUFFORCE, socket.SO_RCVBUF)):
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
            except PermissionError:
                self._socket.setsockopt(socket.SOL_SOCKET, plain, _BUFFER)
        for option in (_CAP_ACK, _EXT_ACK, _STRICT_CHECK):
            with contextlib.suppress(OSError):  # kernels before 4.20 lack some
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
        # In the kernel, not settimeout: that would poll before every read, a second system call.
        self._socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", int(timeout), int(timeout % 1 * 1e6))
        )
        self._socket.bind((0, 0))
        # One for all answers: a new one of this size each time would be mapped and unmapped by the C library.
        self._buffer = memoryview(bytearray(_READ))
        self._sequence = 1

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def reserve(self, count: int) -> int:
        """Return the first of `count` sequence numbers that no other request of this socket has."""
        if self._sequence + count > 0xFFFFFFFF:
            self._sequence = 1
        first = self._sequence
        self._sequence += count
        return first

    def send(self, messages: Sequence[bytes]) -> dict[int, KernelError]:
        """Send messages in order; return the errors by sequence number. A failed message does not stop the rest.

        The messages carry rising sequence numbers from `reserve` and no ACK flag. When the answers to a part
        of them are lost, each of that part fails with OutcomeUnknown.
        """
        errors: dict[int, KernelError] = {}
        for start in range(0, len(messages), _MAX_MESSAGES):
            self._send_part(messages[start : start + _MAX_MESSAGES], errors)
        return errors

    def _send_part(self, part: Sequence[bytes], errors: dict[int, KernelError]) -> None:
        data = bytearray().join(part)
        if len(data) > _MAX_BYTES and len(part) > 1:
            self._send_part(part[: len(part) // 2], errors)
            self._send_part(part[len(part) // 2 :], errors)
            return
        last = len(data) - len(part[-1])
        data[last + _FLAGS_LOW_BYTE] |= ACK
        first_sequence = _sequence_of(part[0])
        last_sequence = _sequence_of(part[-1])
        lost: KernelError | None = None
        try:
            self._socket.sendall(data)
            lost = self._collect_errors(first_sequence, last_sequence, errors)
        except OSError as error:
            lost = KernelError.of(error.errno or errno.EIO, "the request could not be sent")
        if lost is not None:
            for one in part:
                errors.setdefault(_sequence_of(one), lost)

    def _collect_errors(self, first: int, last: int, errors: dict[int, KernelError]) -> KernelError | None:
        lost: KernelError | None = None
        while True:
            try:
                data = self._receive()
            except OutcomeUnknown as error:
                if error.code == errno.ENOBUFS and lost is None:
                    lost = error  # what is left in the queue still comes, perhaps without the last answer
                    continue
                return lost or error
            for kind, flags, sequence, start, end in _split(data):
                if kind != _ERROR or not first <= sequence <= last:
                    continue  # the late answer to a request that timed out
                refusal = _error_in(kind, data, flags, start, end)
                if refusal is not None:
                    errors[sequence] = refusal
                if sequence == last:
                    return lost

    def dump(self, kind: int, body: bytes, *, partial: bool = False) -> list[Body]:
        """Return all answers to a dump request, repeated if the table changed meanwhile or answers were lost.

        partial: return what the last attempt found. Raises KernelError.
        """
        answers: list[Body] = []
        for _ in range(_DUMP_TRIES):
            answers, complete = self._dump_once(kind, body)
            if complete:
                return answers
        if partial:
            return answers
        raise KernelError.of(errno.EINTR, f"the table changed during each of {_DUMP_TRIES} readings")

    def _dump_once(self, kind: int, body: bytes) -> tuple[list[Body], bool]:
        """Return the answers, and whether they are complete and of one moment."""
        sequence = self.reserve(1)
        self._request(message(kind, DUMP, sequence, body))
        answers: list[Body] = []
        complete = True
        while True:
            try:
                data = self._receive()
            except OutcomeUnknown as error:
                if error.code != errno.ENOBUFS:
                    raise
                complete = False  # the kernel continues the dump, and refuses another until it is read
                continue
            for answer, flags, number, start, end in _split(data):
                if number != sequence:
                    continue
                if flags & _DUMP_INTERRUPTED:
                    complete = False
                if answer in (_DONE, _ERROR):
                    error_answer = _error_in(answer, data, flags, start, end)
                    if error_answer is not None:
                        raise error_answer
                    return answers, complete
                answers.append(Body(data, start, end))

    def get(self, requests: Sequence[tuple[int, bytes]]) -> list[Body | KernelError]:
        """Send (type, body) queries together; return, in order, the body of each answer, or why there is none.

        At most a few hundred fit, because the answers have to fit the receive buffer.
        """
        first = self.reserve(len(requests))
        self._request(b"".join([message(k, 0, first + i, body) for i, (k, body) in enumerate(requests)]))
        answers: list[Body | KernelError] = []
        while len(answers) < len(requests):
            data = self._receive()
            for kind, flags, number, start, end in _split(data):
                if number != first + len(answers):
                    continue
                error = _error_in(kind, data, flags, start, end) if kind == _ERROR else None
                answers.append(error or Body(data, start, end))
        return answers

    def family(self, name: str) -> int:
        """Return the message type of a generic netlink family. Raises NotThere (ENOENT) if the kernel has none.

        Not pyroute2's, because `status` needs it and imports none of pyroute2.
        """
        body = struct.pack("=BBxx", _GETFAMILY, 1) + attribute(_FAMILY_NAME, name.encode() + b"\0")
        answer = self.get([(_GENL_CTRL, body)])[0]
        if isinstance(answer, KernelError):
            raise answer
        found = attributes(answer.data, answer.start + 4, answer.end)
        return int.from_bytes(found[_FAMILY_ID], sys.byteorder)

    def _request(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise KernelError.of(error.errno or errno.EIO, "the request could not be sent") from error

    def _receive(self) -> bytes:
        try:
            size = self._socket.recv_into(self._buffer)
        except OSError as error:
            raise _lost(error) from error
        return bytes(self._buffer[:size])


def _lost(error: OSError) -> OutcomeUnknown:
    if isinstance(error, BlockingIOError):
        return OutcomeUnknown(errno.ETIMEDOUT, "the kernel did not answer")
    return OutcomeUnknown(error.errno or errno.EIO, "answers were lost")


def _sequence_of(packed: bytes) -> int:
    return int.from_bytes(packed[8:12], sys.byteorder)


def _split(data: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield the messages of a datagram: type, flags, sequence number, and where the body starts and ends."""
    offset = 0
    size = len(data)
    while offset + 16 <= size:
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
        if length < 16 or offset + length > size:
            return
        yield kind, flags, sequence, offset + 16, offset + length
        offset += length + 3 & ~3


def _error_in(kind: int, data: bytes, flags: int, start: int, end: int) -> KernelError | None:
    """Return the error of an NLMSG_ERROR or NLMSG_DONE body, with the kernel's own words if it sent any."""
    code = -int.from_bytes(data[start : start + 4], sys.byteorder, signed=True)
    if code <= 0:
        return None
    detail = b""
    if flags & _ACK_TLVS:
        ext_ack_message = 1
        offset = start + 4
        if kind == _ERROR:  # it quotes the request, or with CAP_ACK only its header
            offset += 16 if flags & _CAPPED else _LENGTH.unpack_from(data, offset)[0] + 3 & ~3
        detail = attributes(data, offset, end).get(ext_ack_message, b"").rstrip(b"\0")
    return KernelError.of(code, detail.decode(errors="replace"))
