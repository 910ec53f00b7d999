"""Other programs of a node's network that can be seen in its packet rules and interfaces, and what each means for
Services here: CNI plugins, firewalls, container runtimes, proxies, a DNS cache. Pure.

A program is known by the names of its chains, tables and interfaces. What cannot be seen there is not told of.
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
_FELIX_LOOKS_FOR = "kube-ipvs0"  # Felix knows IPVS by this interface, whatever the proxy is
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
    """Describes one program. seen: by what it is known. means: what that means for Services here, with what of it
    touches their traffic. remedy: what an operator should do; "" = nothing."""

    name: str
    kind: Role
    seen: tuple[str, ...]
    means: str
    remedy: str = ""


class Sight(Struct, frozen=True, dict=True):
    """Holds what there is to see.

    saved: what iptables-save prints. addresses: on other interfaces than that of Services, with the interface. mode: of
    our rules. interface: of Service addresses; "" = the iptables backend.
    """

    saved: SavedRules = {}
    tables: Sequence[Table] = ()
    links: Sequence[Link] = ()
    addresses: Mapping[Address, str] = {}
    mode: Mode = Mode.NFT
    interface: str = _FELIX_LOOKS_FOR

    @cached_property
    def rules(self) -> dict[tuple[Mode, Family, str], SavedTable]:
        return {(*which, table): saved_table(text, table) for which, text in self.saved.items() for table in _TABLES}


class _Sign(Struct, frozen=True):
    """Says by what a program is known. chains, links: regular expressions of full names. tables: of nftables."""

    name: str
    kind: Role
    means: str
    chains: str = ""
    tables: tuple[str, ...] = ()
    links: str = ""


_POLICIES = "its network policies see Service traffic with the endpoint's address"
_PORTS = "ports that it publishes"
_SIGNS = (
    _Sign("Calico", Role.CNI, _POLICIES, r"cali-\S+", ("calico",), r"cali\w{4,}|vxlan\.calico|vxlan-v6\.calico"),
    _Sign(
        "Cilium",
        Role.CNI,
        "with kubeProxyReplacement on it serves Services before their packets come here; it must be off",
        r"CILIUM_\S+",
        (),
        r"cilium_\w+",
    ),
    _Sign(
        "flannel", Role.CNI, "nothing of it touches Service traffic", r"FLANNEL-\S+", ("flannel-ipv4",), r"flannel\S*"
    ),
    _Sign("Weave Net", Role.CNI, _POLICIES, r"WEAVE\S*", (), "weave"),
    _Sign(
        "Antrea",
        Role.CNI,
        "with AntreaProxy on it serves cluster IPs to pods in Open vSwitch; other clients are served here",
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
        "it runs or left its rules: see the checks `kube-proxy` and `rules of kube-proxy`",
        r"KUBE-(SERVICES|PROXY-CANARY|PROXY-FIREWALL|IPVS-FILTER|NODE-?PORTS?)",
        ("kube-proxy",),
    ),
    _Sign(
        "kubelet",
        Role.KUBELET,
        "it drops what others send to 127.0.0.0/8; harmless",
        r"KUBE-(FIREWALL|KUBELET-CANARY|IPTABLES-HINT)",
    ),
    _Sign(
        "ufw", Role.FIREWALL, "its denials stay; only what it denies by default is opened for Services", r"ufw6?-\S+"
    ),
    _Sign(
        "firewalld",
        Role.FIREWALL,
        "its denials stay; what it denies by default is opened for Services, or an obstacle if it is in nftables",
        r"(INPUT|FORWARD)_(ZONES|POLICIES_pre)|(IN|FWD[IO]?)_public",
        ("firewalld",),
    ),
    _Sign("fail2ban", Role.FIREWALL, "whom it bans is banned from Services, too", r"f2b-\S+", ("f2b-table",)),
)


def neighbours(sight: Sight) -> tuple[Neighbour, ...]:
    """Returns the programs that are seen, in a fixed order. flannel with Calico's policies is Canal."""
    found = [neighbour for sign in _SIGNS if (neighbour := _neighbour(sign, sight))]
    by_name = {neighbour.name: neighbour for neighbour in found}
    calico, flannel = by_name.get("Calico"), by_name.get("flannel")
    if calico and flannel:
        found[found.index(calico)] = Neighbour(
            "Canal", Role.CNI, (*flannel.seen, *calico.seen), calico.means, calico.remedy
        )
        found.remove(flannel)
    if cache := _dns_cache(sight):
        found.append(cache)
    if denying := _default_denial(sight):
        found.append(denying)
    return tuple(found)


def _neighbour(sign: _Sign, sight: Sight) -> Neighbour | None:
    chains = re.compile(sign.chains or "(?!)")
    links = re.compile(sign.links or "(?!)")
    seen = [
        *_chains_seen(chains, sight),
        *(f"table {table} of nftables" for table in sight.tables if table.name in sign.tables),
        *_links_seen([link.name for link in sight.links if links.fullmatch(link.name)]),
    ]
    if not seen:
        return None
    facts = [*_published(chains, sight), *_untracked(chains, sight), *_before_ours(chains, sight)]
    remedy = ""
    if sign.name == "Calico" and (unaware := _unaware_of_ipvs(sight)):
        fact, remedy = unaware
        facts.append(fact)
    return Neighbour(
        sign.name, sign.kind, tuple(map(printable, seen)), printable("; ".join([sign.means, *facts])), remedy
    )


def _chains_seen(chains: re.Pattern[str], sight: Sight) -> Iterator[str]:
    names: dict[Mode, list[str]] = {}
    for (mode, _, _), table in sight.rules.items():
        names.setdefault(mode, []).extend(chain for chain in table.rules if chains.fullmatch(chain))
    for mode, found in names.items():
        different = sorted(set(found), key=lambda name: (len(name), name))
        if different:
            more = f" and {len(different) - 1} more" if len(different) > 1 else ""
            yield f"chain {different[0]}{more} in iptables-{mode}"


def _links_seen(names: list[str]) -> Iterator[str]:
    if names:
        yield f"interface {min(names)}{f' and {len(names) - 1} more' if len(names) > 1 else ''}"


def _published(chains: re.Pattern[str], sight: Sight) -> Iterator[str]:
    """Names ports of any local address that are redirected in our variant of iptables; others are an obstacle."""
    ports: set[str] = set()
    for (mode, _, name), table in sight.rules.items():
        if mode is not sight.mode or name != "nat":
            continue
        for hook in ("PREROUTING", "OUTPUT"):
            for rule in table.rules.get(hook, ()):
                target = split_rule(rule).target
                if "--dst-type LOCAL" in rule and chains.fullmatch(target):
                    ports |= redirected_ports(table, target)
    known = sorted(filter(None, ports), key=lambda port: int(port.partition(":")[0]))
    if len(known) == 1 and known[0].isdigit():
        yield f"port {known[0]} of every local address goes to its pods or containers; a Service on it comes first"
    elif ports:
        what = f"ports {', '.join(known)}" if known else "ports"
        yield f"{what} of every local address go to its pods or containers; a Service on one of them comes first"


def _untracked(chains: re.Pattern[str], sight: Sight) -> Iterator[str]:
    """Names rules that exempt packets from connection tracking, which cannot be masqueraded then."""
    count = sum(
        "NOTRACK" in rule or "--notrack" in rule
        for (_, _, name), table in sight.rules.items()
        if name == "raw"
        for chain, rules in table.rules.items()
        if chains.fullmatch(chain)
        for rule in rules
    )
    if count:
        yield f"{count} of its rules exempt packets from connection tracking; such packets are not masqueraded here"


def _before_ours(chains: re.Pattern[str], sight: Sight) -> Iterator[str]:
    """Names a chain before ours in filter INPUT, where ours refuse; the agent puts them first again."""
    for (mode, _, name), table in sight.rules.items():
        if mode is not sight.mode or name != "filter":
            continue
        targets = [target for rule in table.rules.get("INPUT", ()) if (target := split_rule(rule).target)]
        ours = next((i for i, target in enumerate(targets) if target.startswith(CHAIN_PREFIX)), 0)
        for target in targets[:ours]:
            if chains.fullmatch(target):
                yield f"its chain {target} stands before ours in INPUT: what it accepts, source ranges do not refuse"
                return


def _default_denial(sight: Sight) -> Neighbour | None:
    """Says what is denied by default in our variant of iptables, whoever did it."""
    denying: dict[str, None] = {}
    for (mode, _, name), table in sight.rules.items():
        if mode is sight.mode and name == "filter":
            steps = saved_steps(table, 0)
            for hook in ("INPUT", "FORWARD", "OUTPUT"):
                if default_denial(hook, table.policies.get(hook) == "DROP", steps):
                    denying[hook] = None
    if not denying:
        return None
    seen = f"{', '.join(denying)} in iptables-{sight.mode}"
    means = "denied by default there; rules of ours let Service traffic through just before that"
    return Neighbour("default denial", Role.FIREWALL, (seen,), means)


def _unaware_of_ipvs(sight: Sight) -> tuple[str, str] | None:
    """Felix takes pods' packets to Services for packets to the host, and drops them by default, unless it knows of
    IPVS. It restarts by itself when the interface comes or goes (felix/dataplane/linux/int_dataplane.go)."""
    chains = {chain for (_, _, name), table in sight.rules.items() if name == "filter" for chain in table.rules}
    if not sight.interface or "cali-INPUT" not in chains:
        return None
    if sight.interface != _FELIX_LOOKS_FOR:
        fact = (
            f"it knows IPVS by the interface {_FELIX_LOOKS_FOR}, and takes packets of pods to Services for the host's"
        )
        return fact, f"Run with --interface {_FELIX_LOOKS_FOR}"
    if "cali-forward-endpoint-mark" in chains or all(link.name != sight.interface for link in sight.links):
        return None
    fact = "it has not noticed IPVS, and takes packets of pods to Services for the host's"
    return fact, "Restart it: kubectl -n kube-system delete pod -l k8s-app=calico-node, for this node's"


def _dns_cache(sight: Sight) -> Neighbour | None:
    links = [link.name for link in sight.links if link.name == "nodelocaldns"]
    untracked = {
        match[1]
        for (_, _, name), table in sight.rules.items()
        if name == "raw"
        for rules in table.rules.values()
        for rule in rules
        if _CACHE_COMMENT in rule and (match := _UNTRACKED.search(rule))
    }
    if not links and not untracked:
        return None
    own = {address for address, link in sight.addresses.items() if link in links} | untracked
    seen = [*_links_seen(links), *([f"it listens on {', '.join(sorted(own))}"] if own else [])]
    taken = sorted(address for address in own if not address.startswith("169.254."))
    if not taken or not sight.interface:
        return Neighbour("NodeLocal DNSCache", Role.DNS, tuple(seen), "nothing of it touches Service traffic")
    means = f"if {', '.join(taken)} is the cluster IP of the DNS Service, it serves that here, and IPVS does not"
    return Neighbour("NodeLocal DNSCache", Role.DNS, tuple(seen), means)
