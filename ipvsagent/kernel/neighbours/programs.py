"""Recognizes other network programs of a node by its packet rules and interfaces, and describes how each affects
Services: CNI plugins, firewalls, container runtimes, proxies, a DNS cache. Pure.

A program is recognized by the names of its chains, tables and interfaces; one that has none of these is not reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from functools import cached_property

from msgspec import Struct

from ipvsagent.address import Address, Family
from ipvsagent.kernel.iptables.commands import Mode, SavedRules
from ipvsagent.kernel.iptables.save_format import split_rule
from ipvsagent.kernel.links import Link
from ipvsagent.kernel.neighbours.obstacles import redirected_ports
from ipvsagent.kernel.neighbours.verdicts import SavedTable, default_denial, saved_steps, saved_table
from ipvsagent.kernel.nftables.messages import Table
from ipvsagent.printable import printable
from ipvsagent.rows.packet_rules import CHAIN_PREFIX

_TABLES = ("raw", "mangle", "nat", "filter")
_FELIX_INTERFACE = "kube-ipvs0"  # Felix detects IPVS by this interface, whatever the proxy is
_UNTRACKED = re.compile(r"-d (\S+?)(?:/\d+)? .*-j (?:NOTRACK|CT --notrack)")
_CACHE_COMMENT = "NodeLocal DNS Cache"


class Role(StrEnum):
    CNI = "CNI plugin"
    FIREWALL = "firewall"
    RUNTIME = "container runtime"
    PROXY = "proxy"
    KUBELET = "kubelet"
    DNS = "DNS cache"


class Neighbour(Struct, frozen=True):
    """Describes one program."""

    name: str
    role: Role
    evidence: tuple[str, ...]
    """The chains, tables and interfaces by which it is recognized."""
    effect: str
    """How it affects the traffic of Services."""
    remedy: str = ""
    """What an operator should do, or ""."""


class NodeView(Struct, frozen=True, dict=True):
    """Holds the packet rules, tables and interfaces of a node."""

    saved: SavedRules = {}
    """The output of iptables-save."""
    tables: Sequence[Table] = ()
    links: Sequence[Link] = ()
    addresses: Mapping[Address, str] = {}
    """The interface of each address, except addresses of Services."""
    mode: Mode = Mode.NFT
    """The variant of iptables that our rules are in."""
    interface: str = _FELIX_INTERFACE
    """The interface of Service addresses; "" with the iptables backend."""

    @cached_property
    def rules(self) -> dict[tuple[Mode, Family, str], SavedTable]:
        return {(*which, table): saved_table(text, table) for which, text in self.saved.items() for table in _TABLES}


class _Sign(Struct, frozen=True):
    """Defines how a program is recognized."""

    name: str
    role: Role
    effect: str
    chains: str = ""
    """A regular expression that matches the whole name, like `links`."""
    tables: tuple[str, ...] = ()
    """Tables of nftables."""
    links: str = ""


_POLICIES = "its network policies match Service traffic by the endpoint's address"
_PORTS = "it publishes ports"
_SIGNS = (
    _Sign("Calico", Role.CNI, _POLICIES, r"cali-\S+", ("calico",), r"cali\w{4,}|vxlan\.calico|vxlan-v6\.calico"),
    _Sign(
        "Cilium",
        Role.CNI,
        "with kubeProxyReplacement, it serves Services before this agent's rules apply; turn that off",
        r"CILIUM_\S+",
        (),
        r"cilium_\w+",
    ),
    _Sign("flannel", Role.CNI, "it does not affect Service traffic", r"FLANNEL-\S+", ("flannel-ipv4",), r"flannel\S*"),
    _Sign("Weave Net", Role.CNI, _POLICIES, r"WEAVE\S*", (), "weave"),
    _Sign(
        "Antrea",
        Role.CNI,
        "with AntreaProxy, it serves cluster IPs to pods in Open vSwitch; this agent serves other clients",
        r"ANTREA-\S+",
        (),
        "antrea-gw0",
    ),
    _Sign(
        "kube-router",
        Role.CNI,
        f"{_POLICIES}; its own service proxy must be off (--run-service-proxy=false)",
        r"KUBE-(ROUTER|POD-FW|NWPLCY)-\S+",
        (),
        "kube-bridge",
    ),
    _Sign("portmap", Role.CNI, "it publishes hostPorts of pods", r"CNI-(HOSTPORT|DN)-\S+", ("cni_hostport",)),
    _Sign("Docker", Role.RUNTIME, _PORTS, r"DOCKER\S*", ("docker-bridges",), "docker0"),
    _Sign("podman", Role.RUNTIME, _PORTS, r"NETAVARK\S*", ("netavark",), r"podman\d+"),
    _Sign(
        "kube-proxy",
        Role.PROXY,
        "it runs, or left its rules: see the checks `kube-proxy` and `rules of kube-proxy`",
        r"KUBE-(SERVICES|PROXY-CANARY|PROXY-FIREWALL|IPVS-FILTER|NODE-?PORTS?)",
        ("kube-proxy",),
    ),
    _Sign(
        "kubelet",
        Role.KUBELET,
        "it drops what other hosts send to 127.0.0.0/8; harmless",
        r"KUBE-(FIREWALL|KUBELET-CANARY|IPTABLES-HINT)",
    ),
    _Sign(
        "ufw", Role.FIREWALL, "its denials apply; only what it denies by default is opened for Services", r"ufw6?-\S+"
    ),
    _Sign(
        "firewalld",
        Role.FIREWALL,
        "its denials apply; what it denies by default is opened for Services, or is an obstacle if it is in nftables",
        r"(INPUT|FORWARD)_(ZONES|POLICIES_pre)|(IN|FWD[IO]?)_public",
        ("firewalld",),
    ),
    _Sign("fail2ban", Role.FIREWALL, "clients that it bans are banned from Services", r"f2b-\S+", ("f2b-table",)),
)


def neighbours(node: NodeView) -> tuple[Neighbour, ...]:
    """Return the programs that are recognized, in a fixed order. flannel with Calico is reported as Canal."""
    found = [neighbour for sign in _SIGNS if (neighbour := _neighbour(sign, node))]
    by_name = {neighbour.name: neighbour for neighbour in found}
    calico, flannel = by_name.get("Calico"), by_name.get("flannel")
    if calico and flannel:
        found[found.index(calico)] = Neighbour(
            "Canal", Role.CNI, (*flannel.evidence, *calico.evidence), calico.effect, calico.remedy
        )
        found.remove(flannel)
    if cache := _dns_cache(node):
        found.append(cache)
    if denying := _default_denial(node):
        found.append(denying)
    return tuple(found)


def _neighbour(sign: _Sign, node: NodeView) -> Neighbour | None:
    chains = re.compile(sign.chains or "(?!)")
    links = re.compile(sign.links or "(?!)")
    evidence = [
        *_chain_evidence(chains, node),
        *(f"table {table} of nftables" for table in node.tables if table.name in sign.tables),
        *_link_evidence([link.name for link in node.links if links.fullmatch(link.name)]),
    ]
    if not evidence:
        return None
    facts = [*_published(chains, node), *_untracked(chains, node), *_before_ours(chains, node)]
    remedy = ""
    if sign.name == "Calico" and (unaware := _unaware_of_ipvs(node)):
        fact, remedy = unaware
        facts.append(fact)
    return Neighbour(
        sign.name, sign.role, tuple(map(printable, evidence)), printable("; ".join([sign.effect, *facts])), remedy
    )


def _chain_evidence(chains: re.Pattern[str], node: NodeView) -> Iterator[str]:
    names: dict[Mode, list[str]] = {}
    for (mode, _, _), table in node.rules.items():
        names.setdefault(mode, []).extend(chain for chain in table.rules if chains.fullmatch(chain))
    for mode, found in names.items():
        different = sorted(set(found), key=lambda name: (len(name), name))
        if different:
            more = f" and {len(different) - 1} more" if len(different) > 1 else ""
            yield f"chain {different[0]}{more} in iptables-{mode}"


def _link_evidence(names: list[str]) -> Iterator[str]:
    if names:
        yield f"interface {min(names)}{f' and {len(names) - 1} more' if len(names) > 1 else ''}"


def _published(chains: re.Pattern[str], node: NodeView) -> Iterator[str]:
    """Yield which ports of any local address are redirected in our variant of iptables; in the other one, redirections
    are obstacles."""
    ports: set[str] = set()
    for (mode, _, name), table in node.rules.items():
        if mode is not node.mode or name != "nat":
            continue
        for hook in ("PREROUTING", "OUTPUT"):
            for rule in table.rules.get(hook, ()):
                target = split_rule(rule).target
                if "--dst-type LOCAL" in rule and chains.fullmatch(target):
                    ports |= redirected_ports(table, target)
    known = sorted(filter(None, ports), key=lambda port: int(port.partition(":")[0]))
    if len(known) == 1 and known[0].isdigit():
        yield f"port {known[0]} of every local address goes to its pods or containers; a Service on it takes precedence"
    elif ports:
        what = f"ports {', '.join(known)}" if known else "ports"
        yield f"{what} of every local address go to its pods or containers; a Service on one of them takes precedence"


def _untracked(chains: re.Pattern[str], node: NodeView) -> Iterator[str]:
    """Yield how many rules exempt packets from connection tracking; such packets cannot be masqueraded."""
    count = sum(
        "NOTRACK" in rule or "--notrack" in rule
        for (_, _, name), table in node.rules.items()
        if name == "raw"
        for chain, rules in table.rules.items()
        if chains.fullmatch(chain)
        for rule in rules
    )
    if count:
        yield f"{count} of its rules exempt packets from connection tracking; such packets are not masqueraded"


def _before_ours(chains: re.Pattern[str], node: NodeView) -> Iterator[str]:
    """Yield a chain that precedes ours in filter INPUT, where ours refuses packets. The agent moves ours to the front
    again."""
    for (mode, _, name), table in node.rules.items():
        if mode is not node.mode or name != "filter":
            continue
        targets = [target for rule in table.rules.get("INPUT", ()) if (target := split_rule(rule).target)]
        ours = next((i for i, target in enumerate(targets) if target.startswith(CHAIN_PREFIX)), 0)
        for target in targets[:ours]:
            if chains.fullmatch(target):
                yield f"its chain {target} precedes ours in INPUT: source ranges do not refuse what it accepts"
                return


def _default_denial(node: NodeView) -> Neighbour | None:
    """Return where our variant of iptables denies by default, whichever program configured that."""
    denying: dict[str, None] = {}
    for (mode, _, name), table in node.rules.items():
        if mode is node.mode and name == "filter":
            steps = saved_steps(table, 0)
            for hook in ("INPUT", "FORWARD", "OUTPUT"):
                if default_denial(hook, table.policies.get(hook) == "DROP", steps):
                    denying[hook] = None
    if not denying:
        return None
    evidence = f"{', '.join(denying)} in iptables-{node.mode}"
    effect = "denied by default there; our rules accept Service traffic directly before that"
    return Neighbour("default denial", Role.FIREWALL, (evidence,), effect)


def _unaware_of_ipvs(node: NodeView) -> tuple[str, str] | None:
    """Return the problem and its remedy if Felix has not detected IPVS: Felix then treats pods' packets to Services as
    packets to the host, and drops them by default. It restarts by itself when the interface appears or disappears
    (felix/dataplane/linux/int_dataplane.go)."""
    chains = {chain for (_, _, name), table in node.rules.items() if name == "filter" for chain in table.rules}
    if not node.interface or "cali-INPUT" not in chains:
        return None
    if node.interface != _FELIX_INTERFACE:
        fact = (
            f"it detects IPVS by the interface {_FELIX_INTERFACE}, and treats packets of pods to Services as the host's"
        )
        return fact, f"Run with --interface {_FELIX_INTERFACE}"
    if "cali-forward-endpoint-mark" in chains or all(link.name != node.interface for link in node.links):
        return None
    fact = "it has not noticed IPVS, and treats packets of pods to Services as the host's"
    return fact, "Restart it on this node: kubectl -n kube-system delete pod -l k8s-app=calico-node"


def _dns_cache(node: NodeView) -> Neighbour | None:
    links = [link.name for link in node.links if link.name == "nodelocaldns"]
    untracked = {
        match[1]
        for (_, _, name), table in node.rules.items()
        if name == "raw"
        for rules in table.rules.values()
        for rule in rules
        if _CACHE_COMMENT in rule and (match := _UNTRACKED.search(rule))
    }
    if not links and not untracked:
        return None
    own = {address for address, link in node.addresses.items() if link in links} | untracked
    evidence = [*_link_evidence(links), *([f"it listens on {', '.join(sorted(own))}"] if own else [])]
    taken = sorted(address for address in own if not address.startswith("169.254."))
    if not taken or not node.interface:
        return Neighbour("NodeLocal DNSCache", Role.DNS, tuple(evidence), "it does not affect Service traffic")
    effect = f"if {', '.join(taken)} is the cluster IP of the DNS Service, it answers there, and IPVS does not"
    return Neighbour("NodeLocal DNSCache", Role.DNS, tuple(evidence), effect)
