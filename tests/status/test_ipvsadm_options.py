"""Which options of `status -o ipvsadm` go together, and what names a virtual server. As ipvsadm 1.31 has it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipvsagent.address import Address, unpack
from ipvsagent.cli import USAGE, main
from ipvsagent.model import Protocol, VirtualServerId
from ipvsagent.rows import service_option
from ipvsagent.status.ipvsadm import Columns
from ipvsagent.status.ipvsadm_options import ListOptions

TCP = (Protocol.TCP, "10.0.0.1:80")
MARK = (Protocol.FWM, "7")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stats": True, "rate": True, "thresholds": True, "persistent_conn": True, "tun_info": True},
        {"services": (TCP,), "stats": True, "exact": True, "nosort": True},
        {"services": (MARK,), "ipv6": True},
        {"connections": True, "persistent_conn": True, "nosort": True, "tun_info": True, "exact": True},
        {"timeout": True, "exact": True, "nosort": True, "tun_info": True},
        {"daemon": True},
    ],
)
def test_goes_together(options):
    assert ListOptions(**options).conflict() is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"services": (TCP, MARK)}, "only one virtual server can be listed by itself"),
        ({"services": (TCP,), "ipv6": True}, "-6 needs -f; an address itself shows its family"),
        ({"ipv6": True}, "-6 needs -f; an address itself shows its family"),
        ({"connections": True, "timeout": True}, "--connections and --timeout exclude each other"),
        ({"timeout": True, "daemon": True}, "--timeout and --daemon exclude each other"),
        ({"services": (TCP,), "daemon": True}, "--daemon and a virtual server exclude each other"),
        ({"connections": True, "stats": True}, "--connections and --stats exclude each other"),
        ({"connections": True, "thresholds": True}, "--connections and --thresholds exclude each other"),
        ({"daemon": True, "rate": True}, "--daemon and --rate exclude each other"),
        ({"timeout": True, "persistent_conn": True}, "--timeout and --persistent-conn exclude each other"),
    ],
)
def test_excludes_each_other(options, reason):
    assert ListOptions(**options).conflict() == reason


def test_the_first_of_several_formats_wins():
    names = ["stats", "rate", "thresholds", "persistent_conn", "tun_info"]
    for start in range(len(names)):
        assert ListOptions(**dict.fromkeys(names[start:], True)).columns is list(Columns)[start]
    assert ListOptions(exact=True, nosort=True).columns is Columns.DEFAULT


IDS = st.one_of(
    st.builds(
        VirtualServerId,
        st.sampled_from([Protocol.TCP, Protocol.UDP, Protocol.SCTP]),
        st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)).map(unpack),
        st.integers(0, 65535),
    ),
    st.builds(
        VirtualServerId,
        st.just(Protocol.FWM),
        st.sampled_from([Address("0.0.0.0"), Address("::")]),
        st.integers(1, 0xFFFFFFFF),
    ),
)


@given(IDS)
def test_what_is_printed_can_be_asked_for(server):
    words = service_option(server).split(" ")
    options = ListOptions(services=((server.protocol, words[1]),), ipv6="-6" in words)
    assert options.conflict() is None
    assert options.virtual_server() == server


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("10.0.0.1", "10.0.0.1", 0),
        ("fd00::1", "fd00::1", 0),
        ("[fd00:0:0::1]:80", "fd00::1", 80),
        ("10.0.0.1:00080", "10.0.0.1", 80),
    ],
)
def test_addresses(text, address, port):
    found = ListOptions(services=((Protocol.UDP, text),)).virtual_server()
    assert found == VirtualServerId(Protocol.UDP, Address(address), port)


@pytest.mark.parametrize(
    "text",
    [
        *("", "80", ":80", "10.0.0.1:", "10.0.0.1:65536", "10.0.0.1:-1", "10.0.0.1:http", "010.0.0.1:80", "10.1:80"),
        *("[fd00::1]", "[fd00::1]80", "[10.0.0.1]:80", "[fd00::1:80", "fd00::x", "fe80::1%eth0", "host:80"),
        "10.0.0.1:\u0663",
    ],
)
def test_no_address(text):
    with pytest.raises(ValueError, match="is no"):
        ListOptions(services=((Protocol.TCP, text),)).virtual_server()


@pytest.mark.parametrize("text", ["", "0", "4294967296", "-1", "x", "1.5", "0x7", "\u0663"])
def test_no_mark(text):
    with pytest.raises(ValueError, match="is not a firewall mark"):
        ListOptions(services=((Protocol.FWM, text),)).virtual_server()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stats"], "--stats needs -o ipvsadm"),
        (["-o", "json", "-t", "10.0.0.1:80"], "--tcp-service needs -o ipvsadm"),
        (["-o", "ipvsadm", "-c", "--stats"], "--connections and --stats exclude each other"),
        (["-o", "ipvsadm", "-t", "10.0.0.1:80", "-t", "10.0.0.1:81"], "only one virtual server"),
        (["-o", "ipvsadm", "-u", "nonsense"], "'nonsense' is not a virtual server"),
    ],
)
def test_refused_before_the_kernel_is_asked(arguments, words, capsys):
    with pytest.raises(SystemExit) as end:
        main(["status", *arguments])
    assert end.value.code == USAGE
    assert words in capsys.readouterr().err
