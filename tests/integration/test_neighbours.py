"""Rules of other programs load with both variants of iptables, read back as recorded, and do what they are for."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from integration.flows.neighbours import NEIGHBOURS, Site, install
from integration.flows.neighbours.calico import calico_rules, install_calico, put_calico_first
from integration.flows.neighbours.docker import docker_rules
from integration.flows.neighbours.host_ports import CONTAINER_PORT, HOST_PORTS, call_portmap
from integration.flows.neighbours.node_local_dns import DEVICE
from integration.flows.neighbours.recorded import RULES, TOOLS, read_rules
from integration.lab import (
    Failure,
    Lab,
    LabError,
    Machine,
    Namespace,
    Outcome,
    Pod,
    Question,
    Server,
    Servers,
    Target,
    Topology,
    ask,
)

NODE = ("192.168.56.11", "fd00:192:168:56::11")
PODS = {name: (f"10.244.1.{n}", f"fd00:10:244:1::{n}") for n, name in ((11, "pod-a"), (12, "pod-b"))}
CLIENT, BANNED = ("203.0.113.50", "fd00:203:0:113::50"), ("203.0.113.60", "fd00:203:0:113::60")
DNS = ("10.96.0.10", "169.254.20.10", "fd00:10:96::a", "fd00:169:254:20::10")
SERVICES = ("10.96.0.1", "fd00:10:96::1")
LINKS = ("pod0", "pod1")
# By word, what of rules/ it loads. The others are built from addresses.
RECORDED = {
    "ufw deny": "ufw-deny",
    "ufw reject": "ufw-reject",
    "firewalld": "firewalld-none",
    "firewalld eth0": "firewalld-eth0",
}
ANSWER_LIMIT, SILENCE = 4.0, 0.3
TOPOLOGY = Topology(
    Machine("node-1", NODE, tuple(Pod(name, addresses) for name, addresses in PODS.items())), client=(*CLIENT, *BANNED)
)
NFTABLES = [word for word in NEIGHBOURS if "nftables" in word]


@pytest.fixture(params=["nft", "legacy"])
def variant(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """`iptables` and its relatives are of this variant."""
    for tool in TOOLS.values():
        for suffix in ("", "-save", "-restore"):
            program = shutil.which(f"{tool}-{request.param}{suffix}")
            assert program
            (tmp_path / f"{tool}{suffix}").symlink_to(program)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return request.param


@pytest.fixture
def site(root: None) -> Iterator[Site]:
    with Lab(TOPOLOGY) as lab:
        yield site_of(lab)


@pytest.fixture
def network(root: None) -> Iterator[Network]:
    """A node with two ports of its own and two pods, all with servers, and the kind of iptables that is on PATH."""
    with Lab(TOPOLOGY) as lab, Servers() as servers:
        servers.add(lab, [Server(name, a, CONTAINER_PORT) for name, both in PODS.items() for a in both])
        servers.add(lab, [Server("node", a, port) for a in NODE for port in (22, 8000)])
        servers.add(lab, [Server("client", a, 22) for a in CLIENT])
        yield Network(lab)


class Network:
    """Asks in both families at once. What is expected to answer has time to; silence is believed after less."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.site = site_of(lab)

    def answers(self, client: Namespace, addresses: tuple[str, ...], port: int, sources: Sequence[str] = ()) -> str:
        """Returns the server that answers at all these addresses, or the failure that is met at all of them."""
        met = {o.server or o.failure for o in self.outcomes(client, addresses, port, sources, ANSWER_LIMIT)}
        assert len(met) == 1, f"{addresses} differ: {met}"
        return met.pop()

    def refuses(self, client: Namespace, addresses: tuple[str, ...], port: int, sources: Sequence[str] = ()) -> bool:
        """An ICMPv6 error that meets a client still in connect() counts only at the next SYN, 1 s later."""
        first, second = self.outcomes(client, addresses, port, sources, SILENCE)
        assert ":" in second.target.address
        return first.failure is Failure.REFUSED and second.failure in (Failure.REFUSED, Failure.TIMEOUT)

    def silent(self, client: Namespace, addresses: tuple[str, ...], port: int, sources: Sequence[str] = ()) -> bool:
        return {o.failure for o in self.outcomes(client, addresses, port, sources, SILENCE)} == {Failure.TIMEOUT}

    @staticmethod
    def outcomes(
        client: Namespace, addresses: tuple[str, ...], port: int, sources: Sequence[str], limit: float
    ) -> list[Outcome]:
        by = {":" in source: source for source in sources}
        return ask([Question(client, Target(a, port), by.get(":" in a, "")) for a in addresses], timeout=limit)


def site_of(lab: Lab) -> Site:
    return Site(lab.node, NODE, lab.pods["pod-b"], PODS["pod-b"], DNS, BANNED, LINKS, LINKS[1], SERVICES)


def saved(node: Namespace, version: int) -> list[str]:
    return [line for line in node.run(f"{TOOLS[version]}-save").splitlines() if line.startswith("-A ")]


def rules(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("-A ")]


@pytest.mark.parametrize("word", sorted(RECORDED))
def test_recorded_rules_read_back_as_they_were_recorded(variant, word, site):
    install(word, site)
    for version in TOOLS:
        assert sorted(saved(site.node, version)) == sorted(rules(read_rules(RECORDED[word], version)))


@pytest.mark.parametrize("word", sorted(NEIGHBOURS.keys() - RECORDED.keys() - set(NFTABLES)))
def test_every_neighbour_has_rules_in_both_families(variant, word, site):
    install(word, site)
    assert all(saved(site.node, version) for version in TOOLS)
    other = "legacy" if variant == "nft" else "nft"
    assert not rules(site.node.run(f"iptables-{other}-save"))


@pytest.mark.parametrize("word", NFTABLES)
def test_recorded_nftables_read_back_as_they_were_recorded(word, site):
    install(word, site)
    recorded = (RULES / f"firewalld-{'eth0' if 'eth0' in word else 'none'}.nft").read_text()
    assert site.node.run("nft", "list", "ruleset") == recorded


def test_a_neighbour_opens_nothing_that_another_closed(site):
    for word in ("ufw deny", "docker", "firewalld", "banned"):
        install(word, site)
    for tool in TOOLS.values():
        policies = [line for line in site.node.run(tool, "-S").splitlines() if line.startswith("-P ")]
        assert policies == ["-P INPUT DROP", "-P FORWARD DROP", "-P OUTPUT ACCEPT"]


def test_an_unknown_neighbour_is_refused(site):
    with pytest.raises(LabError, match="no neighbour is called ufo: there are calico, "):
        install("ufo", site)


def test_calico_comes_first_again_and_its_links_have_other_names(variant, site):
    install("calico", site)
    for version, tool in TOOLS.items():
        for chain in ("INPUT", "OUTPUT", "FORWARD"):
            site.node.run(tool, "-I", chain, "-j", "ACCEPT")
        wanted = calico_rules(LINKS).replace("cali40", f"cali{version}0")
        found = [line for line in saved(site.node, version) if line.startswith("-A cali-")]
        assert sorted(re.sub(" -m (tcp|udp)", "", line) for line in found) == sorted(rules(wanted))
    put_calico_first(site.node)
    for version in TOOLS:
        found = saved(site.node, version)
        for chain in ("INPUT", "OUTPUT", "FORWARD"):
            assert [line for line in found if line.startswith(f"-A {chain} ")] == [
                f"-A {chain} -j cali-{chain}",
                f"-A {chain} -j ACCEPT",
            ]
    members = site.node.run("ipset", "save")
    for address in (*NODE, "127.0.0.1", "::1"):
        assert f"this-host {address}\n" in members


def test_calico_cannot_match_links_without_common_letters(site):
    with pytest.raises(LabError, match="the links pa and eth1 have no first letters in common"):
        install_calico(site.node, NODE, ("pa", "eth1"))


def test_calico_keeps_its_policies(network):
    install("calico", network.site)
    client, pod = network.lab.client, network.site.pod
    assert network.silent(client, PODS["pod-a"], CONTAINER_PORT)
    assert network.answers(client, PODS["pod-b"], CONTAINER_PORT) == "pod-b"
    assert network.silent(pod, CLIENT, 22)
    assert network.answers(pod, NODE, 22) == "node"


@pytest.mark.parametrize("policy", ["deny", "reject"])
def test_ufw_lets_in_ssh_only(network, policy):
    install(f"ufw {policy}", network.site)
    client = network.lab.client
    assert network.answers(client, NODE, 22) == "node"
    kept_out = network.silent if policy == "deny" else network.refuses
    assert kept_out(client, NODE, 8000)
    assert kept_out(client, PODS["pod-a"], CONTAINER_PORT)


@pytest.mark.parametrize("word", ["firewalld", "firewalld eth0", *NFTABLES])
def test_firewalld_lets_in_ssh_and_forwards_to_its_zone_only(network, word):
    install(word, network.site)
    client, pod = network.lab.client, network.site.pod
    assert network.answers(client, NODE, 22) == "node"
    for addresses, port in ((NODE, 8000), (PODS["pod-a"], CONTAINER_PORT)):
        met = {outcome.server for outcome in network.outcomes(client, addresses, port, (), SILENCE)}
        assert met == {""}
    if "eth0" in word:
        assert network.answers(pod, CLIENT, 22) == "client"
    else:
        assert {outcome.server for outcome in network.outcomes(pod, CLIENT, 22, (), SILENCE)} == {""}


def test_docker_forwards_to_its_container_only(network):
    install("docker port", network.site)
    assert network.answers(network.lab.client, NODE, 443) == "pod-b"
    assert network.answers(network.lab.node, NODE, 443) == "pod-b"
    assert network.silent(network.lab.client, PODS["pod-a"], CONTAINER_PORT)


def test_docker_without_a_container_has_no_rule_about_one():
    for version in TOOLS:
        with_it, without = rules(docker_rules(version, "POD")), rules(docker_rules(version))
        assert [line for line in with_it if "POD" not in line] == without
        assert len(with_it) == len(without) + 3


@pytest.mark.parametrize("word", ["portmap", "host port"])
def test_host_ports_lead_to_the_pod(variant, network, word):
    install(word, network.site)
    assert network.answers(network.lab.client, NODE, 443) == "pod-b"
    assert network.answers(network.lab.node, NODE, 443) == "pod-b"


def test_portmap_takes_away_what_it_wrote(variant, network):
    site, client = network.site, network.lab.client
    # ip6tables-legacy 1.8.9 says at -C that the second port's rule is there, so the plugin never adds it.
    second = NODE if variant == "nft" else NODE[:1]
    call_portmap(site.node, site.pod, site.pod_addresses)
    assert network.answers(client, second, HOST_PORTS[1]) == "pod-b"
    call_portmap(site.node, site.pod, site.pod_addresses, "DEL")
    assert network.answers(client, NODE, HOST_PORTS[0]) is Failure.REFUSED
    assert network.answers(client, NODE, HOST_PORTS[1]) is Failure.REFUSED


def test_portmap_tells_what_it_does_not_understand(site):
    with pytest.raises(LabError, match="invalid CIDR address"):
        call_portmap(site.node, site.pod, ["nonsense"])


@pytest.mark.parametrize("word", ["banned", "fail2ban", "fail2ban all ports"])
def test_the_banned_are_kept_out_and_nobody_else(network, word):
    for tool in TOOLS.values():
        network.lab.node.run(tool, "-A", "INPUT", "-j", "ACCEPT")
    install(word, network.site)
    client = network.lab.client
    assert network.answers(client, NODE, 22, CLIENT) == "node"
    kept_out = network.silent if word == "banned" else network.refuses
    assert kept_out(client, NODE, 22, BANNED)
    if word == "fail2ban":
        assert network.answers(client, NODE, 8000, BANNED) == "node"
    else:
        assert kept_out(client, NODE, 8000, BANNED)


def test_node_local_dns_listens_and_is_not_tracked(variant, site):
    install("node-local-dns", site)
    addresses = site.node.run("ip", "-oneline", "address", "show", "dev", DEVICE)
    for address in DNS:
        assert f" {address}/" in addresses
    for version in TOOLS:
        found = saved(site.node, version)
        assert len(found) == 2 * 14
        assert sum(line.endswith(("--notrack", "-j NOTRACK")) for line in found) == 2 * 10
    assert "-A PREROUTING -d 10.96.0.10/32 -p udp -m udp --dport 53 " in "\n".join(saved(site.node, 4))
