"""A member's text and its attributes are one to one, and anything else is refused with a reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipvsagent.address import Family, unpack
from ipvsagent.kernel.ipset.members import KINDS, key_of, pack_member, unpack_members
from ipvsagent.kernel.netlink import attribute

DATA, NESTED = 7, 0x8000
V4, V6 = Family.IPV4, Family.IPV6
CANONICAL = [
    ("hash:ip", V4, "10.96.0.1"),
    ("hash:ip", V6, "fd00::1"),
    ("hash:net", V4, "10.0.0.0/8"),
    ("hash:net", V4, "10.0.0.1"),
    ("hash:net", V6, "fd00::/16"),
    ("hash:net", V4, "128.0.0.0/1"),
    ("hash:net", V4, "10.0.0.0/8 nomatch"),
    ("hash:ip,port", V4, "10.96.0.1,tcp:80"),
    ("hash:ip,port", V4, "10.96.0.1,udp:0"),
    ("hash:ip,port", V6, "fd00::1,sctp:65535"),
    ("hash:ip,port", V4, "10.96.0.1,136:80"),
    ("hash:ip,port", V4, "10.96.0.1,tcp:80 skbmark 0x10100000/0x1ff00000"),
    ("hash:ip,port", V4, "10.96.0.1,tcp:80 skbmark 0x5"),
    ("hash:ip,port", V4, "10.96.0.1,tcp:80 skbmark 0x0/0x0"),
    ("hash:ip,port,ip", V4, "10.96.0.1,tcp:80,10.0.0.1"),
    ("hash:ip,port,net", V4, "10.96.0.1,tcp:80,10.0.0.0/8"),
    ("hash:ip,port,net", V6, "fd00::1,udp:53,2001:db8::1"),
]
REFUSED = [
    ("hash:net", V4, "0.0.0.0/0", "its two halves, 0.0.0.0/1 and 128.0.0.0/1"),
    ("hash:ip,port,net", V6, "fd00::1,tcp:80,::/0", "its two halves, ::/1 and 8000::/1"),
    ("hash:net", V4, "10.0.0.1/32", "a full prefix is left out"),
    ("hash:net", V4, "10.0.0.1/8", "bits set beyond its prefix"),
    ("hash:net", V4, "10.0.0.0/08", "not a network"),
    ("hash:net", V4, "10.0.0.0/33", "not a network"),
    ("hash:net", V4, "10.0.0.0/", "not a network"),
    ("hash:ip", V4, "10.0.0.0/8", "only addresses fit here"),
    ("hash:ip", V4, "fd00::1", "not an IPv4 address"),
    ("hash:ip", V6, "10.0.0.1", "not an IPv6 address"),
    ("hash:ip", V6, "FD00::1", "fd00::1 is"),
    ("hash:ip", V4, "", "not an IP address"),
    ("hash:ip", V4, "10.0.0.1,tcp:80", "not a member of a set of kind hash:ip"),
    ("hash:ip,port", V4, "10.0.0.1", "not a member of a set of kind hash:ip,port"),
    ("hash:ip,port", V4, "10.0.0.1,tcp:080", "not a protocol and port"),
    ("hash:ip,port", V4, "10.0.0.1,tcp:65536", "not a protocol and port"),
    ("hash:ip,port", V4, "10.0.0.1,6:80", "not a protocol and port"),
    ("hash:ip,port", V4, "10.0.0.1,256:80", "not a protocol and port"),
    ("hash:ip,port", V4, "10.0.0.1,TCP:80", "not a protocol and port"),
    ("hash:ip,port", V4, "10.0.0.1,80", "not a protocol and port"),
    ("hash:ip,port", V4, "10.0.0.1,tcp:80 skbmark 5", "not an option"),
    ("hash:ip,port", V4, "10.0.0.1,tcp:80 skbmark 0x5/0xffffffff", "not an option"),
    ("hash:ip,port", V4, "10.0.0.1,tcp:80 skbmark 0x100000000", "not an option"),
    ("hash:ip,port", V4, "10.0.0.1,tcp:80 timeout 3", "not an option"),
]


def unpacked(*packed: bytes) -> list[str]:
    return list(unpack_members(b"".join(attribute(DATA | NESTED, one) for one in packed)))


@pytest.mark.parametrize(("kind", "family", "text"), CANONICAL)
def test_round_trip(kind, family, text):
    assert unpacked(pack_member(kind, family, text)) == [text]


@pytest.mark.parametrize(("kind", "family", "text", "reason"), REFUSED)
def test_refused(kind, family, text, reason):
    with pytest.raises(ValueError, match=reason.replace(".", r"\.")):
        pack_member(kind, family, text)


def networks(family: Family) -> st.SearchStrategy[str]:
    bits = 32 if family is V4 else 128

    def text(number: int, prefix: int) -> str:
        number = number >> bits - prefix << bits - prefix
        address = unpack(number.to_bytes(bits // 8, "big"))
        return address if prefix == bits else f"{address}/{prefix}"

    return st.builds(text, st.integers(0, 2**bits - 1), st.integers(1, bits))


@st.composite
def members(draw: st.DrawFn) -> tuple[str, Family, str]:
    kind = draw(st.sampled_from(sorted(KINDS)))
    family = draw(st.sampled_from(list(Family)))
    parts = {
        "ip": st.binary(min_size=4, max_size=4) if family is V4 else st.binary(min_size=16, max_size=16),
        "net": networks(family),
        "port": st.builds("{}:{}".format, st.sampled_from(["tcp", "udp", "sctp"]), st.integers(0, 65535)),
    }
    parts["ip"] = parts["ip"].map(unpack)
    return kind, family, ",".join(draw(parts[part]) for part in KINDS[kind])


@given(st.lists(members()))
def test_any_members_round_trip(cases):
    assert unpacked(*(pack_member(*case) for case in cases)) == [text for _, _, text in cases]


def test_key_is_what_the_kernel_finds_members_by():
    assert key_of("10.0.0.1,tcp:80 skbmark 0x5") == "10.0.0.1,tcp:80"
    assert key_of("10.0.0.1,tcp:80") == "10.0.0.1,tcp:80"
