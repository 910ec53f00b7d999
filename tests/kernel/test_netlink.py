"""The socket when things go wrong: lost answers, late answers, interrupted dumps. Its peer is a script."""

from __future__ import annotations

import errno
import struct

import pytest

from ipvsagent.errors import KernelError, NotThere
from ipvsagent.kernel import netlink
from ipvsagent.kernel.addresses import AddressTable
from ipvsagent.kernel.netlink import NETLINK_GENERIC, NetlinkSocket, OutcomeUnknown, attribute, message

CAPPED, TLVS, MULTI, INTERRUPTED = 0x100, 0x200, 0x2, 0x10


class Script:
    """In place of the socket: answers in order; an exception among them is raised."""

    def __init__(self, *answers: bytes | OSError) -> None:
        self.answers = list(answers)
        self.sent: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self.sent.append(bytes(data))

    def recv_into(self, buffer: memoryview, size: int = 0, flags: int = 0) -> int:
        answer = self.answers.pop(0) if self.answers else BlockingIOError(errno.EAGAIN, "")
        if isinstance(answer, OSError):
            raise answer
        buffer[: len(answer)] = answer
        return len(answer)


@pytest.fixture
def sock():
    made = NetlinkSocket(NETLINK_GENERIC)
    real = made._socket
    yield made
    real.close()


def script(sock: NetlinkSocket, *answers: bytes | OSError) -> Script:
    sock._socket = Script(*answers)
    return sock._socket


def raw(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body + bytes(-len(body) & 3)


def error(sequence: int, code: int, text: str = "", quoted: bytes = bytes(16), capped: bool = True) -> bytes:
    flags = (CAPPED if capped else 0) | (TLVS if text else 0)
    extra = attribute(1, text.encode() + b"\0") if text else b""
    return raw(2, flags, sequence, struct.pack("=i", -code) + quoted + extra)


def requests(sock: NetlinkSocket, count: int, size: int = 4) -> tuple[int, list[bytes]]:
    first = sock.reserve(count)
    return first, [message(30, 0, first + i, bytes(size)) for i in range(count)]


def test_only_the_last_message_asks_for_an_acknowledgement(sock):
    first, batch = requests(sock, 3)
    peer = script(sock, error(first + 2, 0))
    assert sock.send(batch) == {}
    flags = [struct.unpack_from("=H", peer.sent[0], offset + 6)[0] for offset in (0, 20, 40)]
    assert flags == [1, 1, 5]
    assert not struct.unpack_from("=H", batch[-1], 6)[0] & 4  # the caller's message is untouched


def test_errors_by_sequence_number_with_the_kernels_words(sock):
    first, batch = requests(sock, 4)
    quoted = batch[1]
    script(
        sock,
        error(first, errno.EEXIST) + error(first + 1, errno.EINVAL, "bad mask", quoted, capped=False),
        error(first + 3, errno.ENOENT, "no such thing"),
    )
    found = sock.send(batch)
    assert {k - first: (v.code, v.detail) for k, v in found.items()} == {
        0: (errno.EEXIST, ""),
        1: (errno.EINVAL, "bad mask"),
        3: (errno.ENOENT, "no such thing"),
    }


def test_batches_by_number_and_by_size(sock):
    first, batch = requests(sock, 2500)
    peer = script(sock, *[error(first + n, 0) for n in (999, 1999, 2499)])
    assert sock.send(batch) == {}
    assert [len(sent) // 20 for sent in peer.sent] == [1000, 1000, 500]
    first, batch = requests(sock, 1000, 1000)
    peer = script(sock, *[error(first + n, 0) for n in (249, 499, 749, 999)])
    assert sock.send(batch) == {}
    assert max(len(sent) for sent in peer.sent) <= 256 << 10


def test_lost_answers_leave_the_part_unknown(sock):
    first, batch = requests(sock, 1500)
    script(
        sock,
        error(first, errno.EEXIST),
        OSError(errno.ENOBUFS, ""),
        error(first + 999, 0),
        error(first + 1499, 0),
    )
    found = sock.send(batch)
    assert found[first].code == errno.EEXIST
    assert all(isinstance(found[first + n], OutcomeUnknown) for n in range(1, 1000))
    assert found[first + 1].code == errno.ENOBUFS
    assert first + 1000 not in found


def test_no_answer_in_time(sock):
    first, batch = requests(sock, 2)
    script(sock)
    found = sock.send(batch)
    assert [type(found[first + n]) for n in (0, 1)] == [OutcomeUnknown] * 2
    assert found[first].code == errno.ETIMEDOUT


def test_late_answers_are_not_taken_for_new_ones(sock):
    old, _ = requests(sock, 2)
    first, batch = requests(sock, 2)
    script(sock, error(old, errno.EEXIST) + error(old + 1, 0), error(first + 1, 0))
    assert sock.send(batch) == {}


def test_what_cannot_be_sent(sock):
    _, batch = requests(sock, 2)
    peer = script(sock)
    peer.sendall = lambda data: (_ for _ in ()).throw(OSError(errno.EMSGSIZE, ""))
    assert [e.code for e in sock.send(batch).values()] == [errno.EMSGSIZE] * 2


def dump_answers(sequence: int, *flags: int, code: int = 0) -> bytes:
    parts = [raw(30, MULTI | f, sequence, bytes([n] * 4)) for n, f in enumerate(flags)]
    return b"".join(parts) + raw(3, MULTI, sequence, struct.pack("=i", -code))


def bodies(answers) -> list[bytes]:
    return [body.data[body.start : body.end] for body in answers]


def test_dump(sock):
    number = sock._sequence
    script(sock, dump_answers(number - 1, 0) + dump_answers(number, 0, 0))
    assert bodies(sock.dump(30, b"")) == [bytes(4), bytes([1] * 4)]


def test_interrupted_dump_is_tried_again(sock):
    number = sock._sequence
    peer = script(sock, dump_answers(number, 0, INTERRUPTED), dump_answers(number + 1, 0))
    assert bodies(sock.dump(30, b"")) == [bytes(4)]
    assert len(peer.sent) == 2


def test_dump_with_lost_answers_is_read_to_its_end_and_tried_again(sock):
    """The kernel answers EBUSY to a new dump while an old one is not read."""
    number = sock._sequence
    peer = script(sock, OSError(errno.ENOBUFS, ""), dump_answers(number, 0), dump_answers(number + 1, 0, 0))
    assert len(sock.dump(30, b"")) == 2
    assert len(peer.sent) == 2


def test_dump_that_is_always_interrupted(sock):
    number = sock._sequence
    script(sock, *[dump_answers(number + n, INTERRUPTED) for n in range(5)])
    with pytest.raises(KernelError) as caught:
        sock.dump(30, b"")
    assert caught.value.code == errno.EINTR


@pytest.mark.parametrize("at_end", [True, False])
def test_dump_that_is_refused(sock, at_end):
    number = sock._sequence
    script(sock, dump_answers(number, code=errno.EPERM) if at_end else error(number, errno.EPERM, "not you"))
    with pytest.raises(KernelError) as caught:
        sock.dump(30, b"")
    assert (caught.value.code, caught.value.detail) == (errno.EPERM, "" if at_end else "not you")


def test_dump_without_end(sock):
    script(sock)
    with pytest.raises(OutcomeUnknown):
        sock.dump(30, b"")


def test_queries_keep_their_order(sock):
    number = sock._sequence
    script(sock, raw(30, 0, number, b"one!"), error(number + 1, errno.ESRCH) + raw(30, 0, number + 2, b"two!"))
    first, second, third = sock.get([(30, b"")] * 3)
    assert bodies([first, third]) == [b"one!", b"two!"]
    assert isinstance(second, NotThere)


def test_sequence_numbers_start_again(sock):
    sock._sequence = 0xFFFFFFF0
    assert sock.reserve(100) == 1


# With the machine's own kernel; every Linux has these.


def test_families(sock):
    assert sock.family("nlctrl") == netlink._GENL_CTRL
    with pytest.raises(NotThere):
        sock.family("nosuchfamily")
    assert sock.family("nlctrl") == netlink._GENL_CTRL


def test_node_addresses():
    table = AddressTable("nosuchlink0")
    assert all(isinstance(name, str) for name in table.node_addresses().values())
    assert not [a for a in table.node_addresses() if a.startswith(("127.", "fe80:")) or a == "::1"]
    assert list(table.read(None)) == []
    table.close()
