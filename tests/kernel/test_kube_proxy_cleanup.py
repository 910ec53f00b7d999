"""What kube-proxy left goes, in any mode and with both kinds of iptables; kubelet's and others' stays."""

from __future__ import annotations

from threading import Event

import pytest

from ipvsagent.errors import StartError
from ipvsagent.findings import Severity
from ipvsagent.kernel.ipset.table import SetTable
from ipvsagent.kernel.iptables.commands import Mode
from ipvsagent.kernel.kube_proxy import rules as kube_proxy_rules
from ipvsagent.kernel.kube_proxy.cleanup import kept, leftovers, remove
from ipvsagent.kernel.kube_proxy.rules import Leftovers, find_leftovers, findings, watch
from ipvsagent.kernel.kube_proxy.sets import SET_TYPES, kube_proxy_servers
from tests.support.iptables import skip_unless_native

OTHERS = """\
*filter
:KUBE-FIREWALL - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:MINE - [0:0]
-A INPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL -j RETURN
-A MINE -m comment --comment "not -j KUBE-SERVICES" -j RETURN
COMMIT
"""
LEFT = """\
*mangle
:KUBE-PROXY-CANARY - [0:0]
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-SVC-NPX46M4PTMTKRN6Y - [0:0]
:KUBE-SEP-ABCDEFGHIJKLMNOP - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-SERVICES -j KUBE-SVC-NPX46M4PTMTKRN6Y
-A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT
-A KUBE-SVC-NPX46M4PTMTKRN6Y -j KUBE-SEP-ABCDEFGHIJKLMNOP
-A KUBE-SEP-ABCDEFGHIJKLMNOP -p tcp -j DNAT --to-destination 10.0.0.1:80
COMMIT
*filter
:KUBE-FORWARD - [0:0]
:KUBE-IPVS-FILTER - [0:0]
-A FORWARD -j KUBE-FORWARD
-A INPUT -j KUBE-IPVS-FILTER
COMMIT
"""


@pytest.mark.parametrize("mode", list(Mode))
def test_rules_and_sets(netns, mode):
    skip_unless_native(mode)
    netns.run("ipset", "create", "KUBE-CLUSTER-IP", "hash:ip,port")
    netns.run("ipset", "create", "KUBE-6-LOAD-BALANCER-SOURCE-CID", "hash:ip,port,net", "family", "inet6")
    netns.run("ipset", "create", "mine", "hash:ip")

    def rules() -> list[str]:
        text = netns.run(f"iptables-{mode}-save")
        return [line.split(" [")[0] for line in text.splitlines() if "KUBE" in line or "MINE" in line]

    netns.run(f"iptables-{mode}-restore", "--noflush", stdin=OTHERS)
    before = rules()
    netns.run(f"iptables-{mode}-restore", "--noflush", stdin=LEFT)
    assert len(leftovers()) == 5 + 2 * 9 + 2
    assert remove() == 25
    assert sorted(rules()) == sorted(before)
    assert netns.run("ipset", "list", "-n").split() == ["mine"]
    assert remove() == 0


NFTABLES = """\
add table {family} kube-proxy {{ comment "rules for kube-proxy"; }}
add map {family} kube-proxy service-ips {{ type {kind}_addr : verdict; }}
add chain {family} kube-proxy nat-prerouting {{ type nat hook prerouting priority -100; }}
add chain {family} kube-proxy services
add chain {family} kube-proxy service-x
add rule {family} kube-proxy nat-prerouting jump services
add rule {family} kube-proxy services {family} daddr vmap @service-ips
add element {family} kube-proxy service-ips {{ {address} : goto service-x }}
"""


def test_nftables(netns):
    skip_unless_native(Mode.NFT)
    mine = "add table ip mine\nadd table inet kube-proxy\n"
    theirs = NFTABLES.format(family="ip", kind="ipv4", address="10.0.0.1")
    theirs += NFTABLES.format(family="ip6", kind="ipv6", address="fd00::1")
    netns.run("nft", "-f", "-", stdin=mine + theirs)
    assert leftovers() == ["nft delete table ip kube-proxy", "nft delete table ip6 kube-proxy"]
    assert remove() == 2 and remove() == 0
    assert netns.run("nft", "list", "tables").splitlines() == ["table ip mine", "table inet kube-proxy"]


def test_its_sets_say_which_virtual_servers_are_its(netns):
    netns.run("ipset", "create", "KUBE-NODE-PORT-TCP", "bitmap:port", "range", "0-65535")
    netns.run("ipset", "add", "KUBE-NODE-PORT-TCP", "30080")
    netns.run("ipset", "create", "KUBE-6-NODE-PORT-SCTP-HASH", "hash:ip,port", "family", "inet6")
    netns.run("ipset", "add", "KUBE-6-NODE-PORT-SCTP-HASH", "fd00::1,sctp:30090")
    netns.run("ipset", "create", "KUBE-CLUSTER-IP", "hash:ip")  # not as kube-proxy has it
    netns.run("ipset", "add", "KUBE-CLUSTER-IP", "10.96.0.1")
    rows = SetTable().others(SET_TYPES)
    found = kube_proxy_servers(rows, ["172.16.0.1", "fd00::1"])
    assert {str(server) for server in found} == {"TCP 172.16.0.1:30080", "SCTP [fd00::1]:30090"}


PORTMAP = """\
*nat
:CNI-HOSTPORT-SETMARK - [0:0]
-A CNI-HOSTPORT-SETMARK -j KUBE-MARK-MASQ
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m set --match-set KUBE-LOOP-BACK dst,dst,src -j MASQUERADE
-A KUBE-POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE
COMMIT
"""


@pytest.mark.parametrize("mode", list(Mode))
def test_the_masquerade_that_others_use_stays(netns, mode):
    skip_unless_native(mode)
    netns.run("ipset", "create", "KUBE-LOOP-BACK", "hash:ip,port,ip")
    netns.run("ipset", "create", "KUBE-CLUSTER-IP", "hash:ip,port")
    netns.run(f"iptables-{mode}-restore", "--noflush", stdin=LEFT)
    netns.run(f"iptables-{mode}-restore", "--noflush", stdin=PORTMAP)
    assert len(kept()) == 1 and "KUBE-MARK-MASQ and KUBE-POSTROUTING" in kept()[0]
    assert remove()
    left = [line for line in netns.run(f"iptables-{mode}-save", "-t", "nat").splitlines() if line.startswith("-A")]
    assert left == [
        "-A POSTROUTING -j KUBE-POSTROUTING",
        "-A CNI-HOSTPORT-SETMARK -j KUBE-MARK-MASQ",
        "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
        "-A KUBE-POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE",
    ]
    assert not netns.run("ipset", "list", "-n").split()
    assert remove() == 0


@pytest.mark.parametrize("mode", list(Mode))
def test_rules_that_still_translate_are_seen_until_they_are_gone(netns, mode):
    skip_unless_native(mode)
    assert find_leftovers() == Leftovers()
    netns.run("ipset", "create", "KUBE-CLUSTER-IP", "hash:ip,port")
    netns.run(f"iptables-{mode}-restore", "--noflush", stdin=LEFT)
    assert find_leftovers() == Leftovers((f"chain KUBE-SERVICES of {mode} iptables",), canary=True)
    (finding,) = findings(find_leftovers())
    assert finding.severity is Severity.ERROR and "`ipvsagent cleanup --kube-proxy`" in finding.reason
    remove()
    assert find_leftovers() == Leftovers() and findings(Leftovers()) == ()


@pytest.mark.parametrize("mode", list(Mode))
def test_its_canary_is_an_error_until_it_is_gone(netns, mode):
    skip_unless_native(mode)
    netns.run(f"iptables-{mode}", "-t", "mangle", "-N", "KUBE-PROXY-CANARY")
    (finding,) = findings(find_leftovers())
    assert finding.severity is Severity.ERROR and finding.subject == "kube-proxy"
    assert "delete daemonset kube-proxy" in finding.reason and "cleanup --kube-proxy" in finding.reason
    netns.run(f"iptables-{mode}", "-t", "mangle", "-X", "KUBE-PROXY-CANARY")
    assert findings(find_leftovers()) == ()


def test_a_table_of_nftables_is_seen_without_nft(netns):
    skip_unless_native(Mode.NFT)
    netns.run("nft", "-f", "-", stdin="add table ip mine\n")
    assert find_leftovers() == Leftovers()
    netns.run("nft", "-f", "-", stdin="add table ip6 kube-proxy\n")
    assert find_leftovers() == Leftovers(("table kube-proxy of nftables",))


def test_the_watch_tells_what_changed_and_that_it_healed(monkeypatch):
    monkeypatch.setattr(kube_proxy_rules, "LOOK_WHILE_FOUND_EVERY", 0.0)
    monkeypatch.setattr(kube_proxy_rules, "LOOK_EVERY", 0.0)
    stop, reported = Event(), []
    looks = iter([Leftovers(canary=True), Leftovers(canary=True), StartError("for now", ""), Leftovers()])

    def look() -> Leftovers:
        found = next(looks)
        if isinstance(found, StartError):
            raise found
        if found == Leftovers():
            stop.set()
        return found

    watch(reported.append, stop, look)
    assert [len(each) for each in reported] == [1, 0]
