"""Which neighbours are known by their rules, tables and interfaces, and what is reported of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipvsagent.address import Address, Family
from ipvsagent.kernel.iptables.commands import Mode
from ipvsagent.kernel.links import Link
from ipvsagent.kernel.neighbours.programs import Neighbour, NodeView, Role, neighbours
from ipvsagent.kernel.nftables.messages import Table

DATA = Path(__file__).parent.parent / "data" / "packet_filters"
NFT4 = (Mode.NFT, Family.IPV4)


def recorded(name: str) -> str:
    return (DATA / f"{name}.rules").read_text()


def with_chain(chain: str, table: str = "filter") -> str:
    return f"*{table}\n:{chain} - [0:0]\nCOMMIT\n"


def link(name: str, index: int = 7) -> Link:
    return Link(index, name, "", 0, up=True, ethernet=True)


def only(**sight: object) -> Neighbour:
    (found,) = neighbours(NodeView(**sight))  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(
    ("chain", "name", "kind"),
    [
        ("cali-FORWARD", "Calico", Role.CNI),
        ("CILIUM_INPUT", "Cilium", Role.CNI),
        ("FLANNEL-FWD", "flannel", Role.CNI),
        ("WEAVE-NPC", "Weave Net", Role.CNI),
        ("ANTREA-FORWARD", "Antrea", Role.CNI),
        ("KUBE-ROUTER-INPUT", "kube-router", Role.CNI),
        ("CNI-HOSTPORT-DNAT", "portmap", Role.CNI),
        ("DOCKER-USER", "Docker", Role.RUNTIME),
        ("NETAVARK_FORWARD", "podman", Role.RUNTIME),
        ("KUBE-SERVICES", "kube-proxy", Role.PROXY),
        ("KUBE-FIREWALL", "kubelet", Role.KUBELET),
        ("ufw6-user-input", "ufw", Role.FIREWALL),
        ("INPUT_ZONES", "firewalld", Role.FIREWALL),
        ("f2b-sshd", "fail2ban", Role.FIREWALL),
    ],
)
def test_by_a_chain(chain, name, kind):
    for mode in Mode:
        found = only(saved={(mode, Family.IPV6): with_chain(chain)})
        assert (found.name, found.role, found.evidence) == (name, kind, (f"chain {chain} in iptables-{mode}",))
        assert found.effect and not found.remedy


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ("firewalld", "firewalld"),
        ("netavark", "podman"),
        ("cni_hostport", "portmap"),
        ("kube-proxy", "kube-proxy"),
        ("f2b-table", "fail2ban"),
    ],
)
def test_by_a_table_of_nftables(table, name):
    found = only(tables=[Table("inet", table), Table("inet", "mine")])
    assert (found.name, found.evidence) == (name, (f"table inet {table} of nftables",))


@pytest.mark.parametrize(
    ("names", "name"),
    [
        (["cali0123456789a", "lo"], "Calico"),
        (["cilium_host"], "Cilium"),
        (["flannel.1"], "flannel"),
        (["antrea-gw0"], "Antrea"),
        (["docker0"], "Docker"),
        (["podman0"], "podman"),
    ],
)
def test_by_an_interface(names, name):
    found = only(links=[link(each) for each in names])
    assert (found.name, found.evidence) == (name, (f"interface {names[0]}",))


def test_nothing_is_seen_on_a_node_with_our_rules_alone():
    ours = "*filter\n:INPUT ACCEPT [0:0]\n:IPVSAGENT-INPUT - [0:0]\n-A INPUT -j IPVSAGENT-INPUT\nCOMMIT\n"
    assert (
        neighbours(NodeView({NFT4: ours}, [Table("ip", "filter")], [link("lo"), link("eth0"), link("kube-ipvs0")]))
        == ()
    )


def test_flannel_with_the_policies_of_calico_is_canal():
    found = only(saved={NFT4: with_chain("cali-FORWARD") + with_chain("FLANNEL-FWD")}, links=[link("flannel.1")])
    assert found.name == "Canal"
    assert found.evidence == (
        "chain FLANNEL-FWD in iptables-nft",
        "interface flannel.1",
        "chain cali-FORWARD in iptables-nft",
    )


def test_calico_that_knows_of_ipvs():
    found = only(saved={NFT4: recorded("calico")}, links=[link("kube-ipvs0")])
    assert (found.name, found.remedy) == ("Calico", "")
    assert found.evidence == ("chain cali-INPUT and 12 more in iptables-nft",)


def test_calico_that_has_not_noticed_ipvs():
    text = with_chain("cali-INPUT")
    found = only(saved={NFT4: text}, links=[link("kube-ipvs0")])
    assert "has not noticed IPVS" in found.effect and "delete pod -l k8s-app=calico-node" in found.remedy
    assert not only(saved={NFT4: text}).remedy, "the interface is not there yet"
    found = only(saved={NFT4: text}, links=[link("services")], interface="services")
    assert found.remedy == "Run with --interface kube-ipvs0"
    assert not only(saved={NFT4: text}, links=[link("kube-ipvs0")], interface="").remedy, "the iptables backend"


def test_what_stands_before_ours():
    text = (
        "*filter\n:INPUT ACCEPT [0:0]\n:cali-INPUT - [0:0]\n:IPVSAGENT-INPUT - [0:0]\n"
        "-A INPUT -j {}\n-A INPUT -j {}\nCOMMIT\n"
    )
    before = only(saved={NFT4: text.format("cali-INPUT", "IPVSAGENT-INPUT")})
    assert "its chain cali-INPUT precedes ours in INPUT" in before.effect
    after = only(saved={NFT4: text.format("IPVSAGENT-INPUT", "cali-INPUT")})
    assert "precedes ours" not in after.effect


def test_docker_with_a_published_port():
    docker, denial = neighbours(NodeView({NFT4: recorded("docker-4")}))
    assert docker.name == "Docker"
    assert docker.effect.endswith(
        "port 443 of every local address goes to its pods or containers; a Service on it takes precedence"
    )
    assert denial == Neighbour(
        "default denial",
        Role.FIREWALL,
        ("FORWARD in iptables-nft",),
        "denied by default there; our rules accept Service traffic directly before that",
    )
    assert [each.name for each in neighbours(NodeView({NFT4: recorded("docker-4")}, mode=Mode.LEGACY))] == ["Docker"]


def test_host_ports_of_portmap():
    text = (
        "*nat\n:PREROUTING ACCEPT [0:0]\n:CNI-HOSTPORT-DNAT - [0:0]\n:CNI-DN-1 - [0:0]\n"
        "-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n"
        "-A CNI-HOSTPORT-DNAT -p tcp -m multiport --dports 443,80 -j CNI-DN-1\n"
        "-A CNI-DN-1 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.244.0.9:8080\nCOMMIT\n"
    )
    found = only(saved={NFT4: text})
    assert found.name == "portmap" and "ports 80, 443 of every local address go to" in found.effect


@pytest.mark.parametrize(("file", "name"), [("ufw-deny-4", "ufw"), ("firewalld-eth0-4", "firewalld")])
def test_firewalls_that_deny_by_default(file, name):
    firewall, denial = neighbours(NodeView({NFT4: recorded(file)}))
    assert (firewall.name, denial.name) == (name, "default denial")
    assert denial.evidence == ("INPUT, FORWARD in iptables-nft",)


def test_fail2ban():
    found = only(saved={NFT4: recorded("fail2ban-4")})
    assert (found.name, found.evidence) == ("fail2ban", ("chain f2b-sshd in iptables-nft",))


CACHE = (
    "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -d {}/32 -p udp -m udp --dport 53 -m comment "
    '--comment "NodeLocal DNS Cache: skip conntrack" -j {}\nCOMMIT\n'
)


def test_a_dns_cache_on_a_link_local_address():
    found = only(links=[link("nodelocaldns")], addresses={Address("169.254.20.10"): "nodelocaldns"})
    assert (found.name, found.role, found.remedy) == ("NodeLocal DNSCache", Role.DNS, "")
    assert found.evidence == ("interface nodelocaldns", "it listens on 169.254.20.10")


@pytest.mark.parametrize("target", ["NOTRACK", "CT --notrack"])
def test_a_dns_cache_on_the_address_of_a_service(target):
    text = {NFT4: CACHE.format("10.96.0.10", target)}
    found = only(saved=text)
    assert found.evidence == ("it listens on 10.96.0.10",) and not found.remedy
    assert "it answers there, and IPVS does not" in found.effect
    assert "IPVS" not in only(saved=text, interface="").effect, "the iptables backend leaves untracked packets alone"


def test_names_that_are_no_utf_8_are_printable():
    found = only(saved={NFT4: with_chain("f2b-\udcff")})
    assert found.evidence == ("chain f2b-\ufffd in iptables-nft",)
