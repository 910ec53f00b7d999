"""The lab's network: everybody reaches everybody, nothing leaks into the machine's own, nothing is left."""

import os
import select
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from integration.lab import Lab, LabError, Machine, Namespace, Pod, Server, Servers, Target, Topology, send_requests
from tests.support.lab_topology import TOPOLOGY, machine, servers_of

CHECKOUT = Path(__file__).resolve().parents[2]


def own_links() -> str:
    return subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("bridge", [(), ("10.244.1.254/24", "fd00:10:244:1::fe/64")], ids=["routed", "bridge"])
def test_everybody_reaches_every_pod_in_both_families(root, servers, bridge):
    with Lab(replace(TOPOLOGY, pod_bridge=bridge)) as lab:
        listed = servers_of(TOPOLOGY)
        servers.add(lab, listed)
        targets = [Target(s.address, s.port, s.protocol) for s in listed]
        clients = ["10.244.1.1", "192.168.56.11", "192.168.56.12", "203.0.113.50"]
        for client in clients:
            report = send_requests(lab.at(client), targets, len(targets))
            assert not report.lost, f"{client}: {[(o.target, o.failure) for o in report.lost]}"
            assert set(report.spread) == {s.name for s in listed}


def test_source_addresses_are_kept(lab, servers):
    servers.add(lab, servers_of(TOPOLOGY))
    assert send_requests(lab.client, Target("10.244.2.1", 8080), 1).clients == {"203.0.113.50"}
    assert send_requests(lab.at("10.244.1.1"), Target("10.244.2.1", 8080), 1).clients == {"10.244.1.1"}
    assert send_requests(lab.at("10.244.1.1"), Target("fd00:10:244:2::1", 8080), 1).clients == {"fd00:10:244:1::1"}


def test_virtual_address_reaches_this_node_from_everywhere(lab, servers):
    # No IPVS here: the address alone, which is what a proxy binds, and a server of the node itself.
    lab.node.ip(["address add 10.96.0.1/32 dev lo"])
    listener = lab.node.socket(2, 1)
    listener.bind(("10.96.0.1", 80))
    listener.listen()
    for client in (lab.client, lab.pods["pod-1-1"], lab.machines["node-2"], lab.node):
        with client.socket(2, 1) as connection:
            connection.settimeout(3)
            connection.connect(("10.96.0.1", 80))
    listener.close()


def test_unbound_virtual_address_is_no_loop(lab):
    report = send_requests(lab.client, Target("10.96.0.9", 80), 1, timeout=2)
    assert report.failures.keys() <= {"unreachable", "timeout"}
    received = lab.wire.read_proc("dev")
    outside = next(line for line in received.splitlines() if "outside:" in line)
    assert int(outside.split()[2]) < 20  # a loop is as many packets as a packet has hops to live


def test_machine_itself_is_not_touched(root):
    before = own_links()
    with Lab(TOPOLOGY):
        assert own_links() == before
    assert own_links() == before


def test_nothing_is_left_of_a_killed_lab(root):
    """Its namespaces, its devices in them, and the processes in those are gone."""
    code = f"""
import os, subprocess, sys, time
sys.path.insert(0, {str(CHECKOUT)!r})
from integration.lab import Lab
from tests.support.lab_topology import TOPOLOGY
lab = Lab(TOPOLOGY)
child = lab.node.start(["sleep", "600"], output=subprocess.DEVNULL)
while open(f"/proc/{{child.pid}}/comm").read() != "sleep\\n":  # setpriv has set its signal
    time.sleep(0.01)
print(child.pid, flush=True)
time.sleep(600)
"""
    maker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    with maker.stdout:
        child = int(maker.stdout.readline())
        gone = os.pidfd_open(child)
        os.kill(maker.pid, signal.SIGKILL)
        maker.wait()
        # Readable as soon as the process has ended; its namespace had no other holder.
        assert select.select([gone], [], [], 10)[0], "the process in the killed lab is still there"
        os.close(gone)


def test_namespace_of_a_socket_is_where_it_was_made(root):
    first, second = Namespace("first"), Namespace("second")
    first.ip(["link set lo up"])
    second.ip(["link set lo up"])
    with first.socket(2, 1) as here, second.socket(2, 1) as there:
        here.bind(("127.0.0.1", 4711))
        there.bind(("127.0.0.1", 4711))
    first.close()
    second.close()


def test_failed_command_tells_which(lab):
    with pytest.raises(LabError, match=r"in node-1: exit status 1: Cannot find (?s:.*)\n +2  link set nonsense up"):
        lab.node.ip(["link set lo up", "link set nonsense up"])


def test_network_with_one_family_only(root, servers):
    node = Machine("node-1", ("192.168.56.11",), (Pod("pod", ("10.244.1.1",)),))
    topology = Topology(node, (machine(2, 1),))
    with Lab(topology) as lab:
        servers.add(lab, servers_of(Topology(node)))
        assert not send_requests(lab.at("10.244.2.1"), Target("10.244.1.1", 8080), 2).lost


@pytest.mark.parametrize(
    ("topology", "reason"),
    [
        (Topology(Machine("a", ("192.168.56.11",)), (Machine("b", ("192.168.56.11",)),)), "both a and b"),
        (Topology(Machine("a", ("192.168.56.1",))), "both a and the wire"),
        (Topology(Machine("a", ("fd00:0::1",))), "is written fd00::1"),
        (Topology(Machine("a", ("192.168.56.11",), (Pod("a", ("10.0.0.1",)),))), "names used twice: a"),
    ],
)
def test_impossible_topology_is_refused(topology, reason):
    with pytest.raises(LabError, match=reason):
        Lab(topology)


def test_address_outside_the_wire_is_refused(root):
    with pytest.raises(LabError, match=r"192\.168\.57\.1 is in none of the wire's networks"):
        Lab(Topology(Machine("a", ("192.168.57.1",))))


def test_server_needs_an_address_of_the_lab(lab):
    with Servers() as servers, pytest.raises(LabError, match=r"no machine, pod or client .* 10\.9\.9\.9"):
        servers.add(lab, [Server("ghost", "10.9.9.9", 80)])


def test_without_root_the_reason_is_given(monkeypatch):
    import integration.lab.namespaces as namespaces

    class Refusing:
        @staticmethod
        def unshare(flags: int) -> int:
            import ctypes
            import errno

            ctypes.set_errno(errno.EPERM)
            return -1

        setns = staticmethod(lambda fd, flags: 0)

    monkeypatch.setattr(namespaces, "_LIBC", Refusing)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="run as root"):
        Namespace("x")


def test_kernel_that_gives_no_new_namespace_is_noticed(monkeypatch):
    import integration.lab.namespaces as namespaces

    class Pretending:
        unshare = staticmethod(lambda flags: 0)
        setns = staticmethod(lambda fd, flags: 0)

    monkeypatch.setattr(namespaces, "_LIBC", Pretending)
    with pytest.raises(LabError, match="not touching the machine's own"):
        Namespace("x")
