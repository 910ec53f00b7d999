"""The kernel under the tests has what they take for granted."""

import socket
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.kernel

SERVICE = "-A -t 10.96.0.1:443 -s rr\n-a -t 10.96.0.1:443 -r 10.0.0.1:6443 -m -w 1\n"


def test_ipvsadm_programs_the_namespace(netns):
    netns.run("ipvsadm", "-R", stdin=SERVICE)
    assert netns.run("ipvsadm", "-Sn").splitlines() == [line.strip() for line in SERVICE.splitlines()]


def test_namespaces_do_not_see_each_other(netns, new_netns):
    other = new_netns()
    netns.run("ipvsadm", "-R", stdin=SERVICE)
    with other.entered():
        assert netns.run("ipvsadm", "-Sn") == ""
        netns.run("ipvsadm", "-A", "-u", "10.96.0.2:53", "-s", "rr")
        assert "10.96.0.2" in netns.run("ipvsadm", "-Sn")
    assert "10.96.0.2" not in netns.run("ipvsadm", "-Sn")
    assert "10.96.0.1" in netns.run("ipvsadm", "-Sn")


def test_each_test_begins_with_an_empty_table(netns):
    assert netns.run("ipvsadm", "-Sn") == ""
    assert "UP" in netns.run("ip", "-o", "link", "show", "lo")


def test_dummy_device_takes_service_addresses(netns):
    netns.run("ip", "link", "add", "ipvs0", "type", "dummy")
    netns.run("ip", "address", "add", "10.96.0.1/32", "dev", "ipvs0")
    netns.run("ip", "address", "add", "fd00::1/128", "dev", "ipvs0", "nodad")
    shown = netns.run("ip", "-o", "address", "show", "dev", "ipvs0")
    assert "10.96.0.1/32" in shown
    assert "fd00::1/128" in shown


@pytest.mark.parametrize(
    "scheduler", ["rr", "wrr", "lc", "wlc", "sh", "dh", "mh", "sed", "nq", "lblc", "lblcr", "fo", "ovf"]
)
def test_scheduler_is_there(netns, scheduler):
    netns.run("ipvsadm", "-A", "-t", "[fd00::1]:80", "-s", scheduler)
    assert f"-s {scheduler}" in netns.run("ipvsadm", "-Sn")


def test_netfilter_and_ipset_are_there(netns):
    netns.run("ipset", "create", "loopback", "hash:ip,port,ip", "family", "inet")
    rule = ["POSTROUTING", "-m", "set", "--match-set", "loopback", "dst,dst,src", "-j", "MASQUERADE"]
    netns.run("iptables", "-t", "nat", "-A", *rule)
    assert "--match-set loopback" in netns.run("iptables-save", "-t", "nat")
    netns.run("ip6tables", "-t", "nat", "-A", "POSTROUTING", "-m", "ipvs", "--ipvs", "-j", "MASQUERADE")
    netns.run("conntrack", "-L")
    assert Path("/proc/sys/net/ipv4/vs/conntrack").exists()


def test_veth_reaches_another_namespace(netns, new_netns):
    other = new_netns()
    netns.run("ip", "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", other.path)
    netns.run("ip", "address", "add", "192.0.2.1/24", "dev", "near")
    netns.run("ip", "link", "set", "near", "up")
    with other.entered():
        netns.run("ip", "address", "add", "192.0.2.2/24", "dev", "far")
        netns.run("ip", "link", "set", "far", "up")
        listener = socket.create_server(("192.0.2.2", 8080))
    with listener, socket.create_connection(("192.0.2.2", 8080), timeout=10) as client:
        assert client.getpeername() == ("192.0.2.2", 8080)


def test_sctp_sockets_are_there(netns):
    socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()


def test_failing_program_shows_its_words(netns):
    with pytest.raises(AssertionError, match="No such service"):
        netns.run("ipvsadm", "-D", "-t", "10.96.0.9:1")


def test_output_is_not_a_terminal_here():
    done = subprocess.run(["tty"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.stdout.strip() == "not a tty"
