"""ipvsadm's order: backwards for addresses that lie far apart, and for cyclic ones that of glibc's merge sort."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipvsagent.address import Address, unpack
from ipvsagent.model import Protocol, VirtualServerId
from ipvsagent.rows import Observed, RealServerRow, VirtualServerRow
from ipvsagent.status.ipvsadm_order import grouped, in_order

TCP = VirtualServerId(Protocol.TCP, Address("10.96.0.1"), 443)


def reals(*texts):
    return [Observed(RealServerRow(TCP, Address(a), int(p))) for a, _, p in (text.rpartition(":") for text in texts)]


def ordered(*texts):
    ((_, rows),) = in_order([(Observed(VirtualServerRow(TCP, "rr")), reals(*texts))])
    return [f"{seen.row.address}:{seen.row.port}" for seen in rows]


@pytest.mark.parametrize(
    "expected",
    [
        ["172.16.1.7:1", "10.96.0.1:1", "10.96.0.10:53", "10.96.0.10:54", "10.97.1.1:1", "10.110.0.1:1"],
        ["192.168.0.4:1", "12.0.0.1:1"],
        ["172.16.0.1:1", "192.168.0.1:1", "10.0.0.1:1"],
        ["fd00::1:1", "ffff::1:1"],
        ["b000:::1", "2001:::1"],
        ["fd00::9000:0:1", "fd00:::1"],
        ["fd00:0:9000::1:1", "fd00::1:1"],
    ],
)
def test_whatever_the_kernel_order(expected):
    for start in permutations(expected):
        assert ordered(*start) == expected


def test_cyclic_addresses_depend_on_the_kernel_order():
    # 10 before 127, 127 before 192, 192 before 10
    assert ordered("10.0.0.1:1", "127.0.0.1:1", "192.168.0.1:1") == ["10.0.0.1:1", "127.0.0.1:1", "192.168.0.1:1"]
    assert ordered("192.168.0.1:1", "127.0.0.1:1", "10.0.0.1:1") == ["192.168.0.1:1", "10.0.0.1:1", "127.0.0.1:1"]


def test_exactly_half_way_round_is_less():
    """A difference of 2^31 is the smallest signed number from either side: the left one goes first."""
    assert ordered("1.0.0.1:1", "129.0.0.1:1") == ["1.0.0.1:1", "129.0.0.1:1"]
    assert ordered("129.0.0.1:1", "1.0.0.1:1") == ["129.0.0.1:1", "1.0.0.1:1"]


def test_families_mixed():
    """The left one's family decides how much is compared: here only the first word, and then the port."""
    assert ordered("32.1.13.184:5", "2001:db8::1:4") == ["2001:db8::1:4", "32.1.13.184:5"]
    assert ordered("2001:db8::1:4", "32.1.13.184:5") == ["32.1.13.184:5", "2001:db8::1:4"]


def server(protocol, address, port):
    return VirtualServerId(protocol, Address(address), port)


def test_virtual_servers():
    expected = [
        server(Protocol.FWM, "0.0.0.0", 0x80000000 + 9),  # a negative number to ipvsadm
        server(Protocol.FWM, "::", 0xFFFFFFFF),
        server(Protocol.TCP, "192.168.0.1", 1),
        server(Protocol.TCP, "10.0.0.1", 443),
        server(Protocol.TCP, "10.0.0.1", 8443),
        server(Protocol.UDP, "10.0.0.1", 53),
        server(Protocol.SCTP, "10.0.0.1", 53),
        server(Protocol.TCP, "fd00::1", 1),
        server(Protocol.UDP, "fd00::1", 1),
        server(Protocol.FWM, "0.0.0.0", 1),
        server(Protocol.FWM, "::", 1),
        server(Protocol.FWM, "0.0.0.0", 2),
    ]
    for start in (expected, expected[::-1], expected[5:] + expected[:5], sorted(expected)):
        entries = grouped(Observed(VirtualServerRow(i, "rr")) for i in start)
        assert [entry[0].row.id for entry in in_order(entries)] == expected


ADDRESSES = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)).map(unpack)


@given(st.lists(st.tuples(ADDRESSES, st.integers(0, 65535)), unique=True, max_size=40))
def test_nothing_is_lost(ends):
    texts = [f"{address}:{port}" for address, port in ends]
    assert sorted(ordered(*texts)) == sorted(texts)


def test_grouped():
    rows = [
        Observed(VirtualServerRow(TCP, "rr")),
        *reals("10.0.0.1:1", "10.0.0.2:1"),
        Observed(VirtualServerRow(TCP, "lc")),
    ]
    assert grouped(rows) == [(rows[0], rows[1:3]), (rows[3], [])]
    assert grouped([]) == []
