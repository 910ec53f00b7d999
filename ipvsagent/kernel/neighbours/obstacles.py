"""Finds what obstructs Service traffic and cannot be overridden by a rule of ours.

An ACCEPT ends the chains of its own table only. If another table at the same hook denies by default (the table of
firewalld, an nftables table written by hand, the rules of the other variant of iptables), packets to Services are lost
there. The kernel runs chains of type nat one after the other, whatever table they are in, until one of them gives the
connection a destination, and an ACCEPT does not stop that: with IPVS any of them can redirect a Service's connection.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import cache, partial
from pathlib import Path

from msgspec import Struct

from ipvsagent.address import Family
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.kernel.iptables.commands import Mode, SavedRules, saved_rules_of
from ipvsagent.kernel.iptables.save_format import split_rule
from ipvsagent.kernel.neighbours.verdicts import (
    DEEPEST,
    Case,
    Denial,
    SavedTable,
    Step,
    default_denial,
    saved_steps,
    saved_table,
)
from ipvsagent.kernel.nftables import tables as nftables
from ipvsagent.kernel.nftables.messages import BaseChain, Rule, Table, names_destination, port_of, redirects, step_of
from ipvsagent.printable import printable

_HOOKS = ("input", "forward", "output")
_OF_IPTABLES = {"ip": Family.IPV4, "ip6": Family.IPV6}
_TABLES_OF_IPTABLES = ("raw", "mangle", "nat", "filter", "security")
_LEGACY_TABLES = {Family.IPV4: Path("/proc/net/ip_tables_names"), Family.IPV6: Path("/proc/net/ip6_tables_names")}
_MARKED_AT, _TRANSLATED_AT = -150, -100  # NF_IP_PRI_MANGLE, NF_IP_PRI_NAT_DST
_TO_PORTS = re.compile(r"--dports? ([\d,:]+)")

_BESIDE_IPVS = {
    "input": "what clients send to Services",
    "forward": "the answers of endpoints to clients of Services",
    "output": "what this node, and IPVS for its clients, sends to endpoints of Services",
}
_INSTEAD_OF_IPVS = {
    "input": "what clients send to Services whose endpoints are on this node itself",
    "forward": "what clients send to Services, and the answers",
    "output": "what this node sends to Services",
}


class ObstacleKind(StrEnum):
    DENIES = "denies"
    NAT = "nat"


class Obstacle(Struct, frozen=True):
    """Describes one chain of another table that obstructs Service traffic."""

    kind: ObstacleKind
    place: str
    """For example `table inet firewalld, chain filter_INPUT`."""
    hook: str
    """input, forward, output or prerouting."""
    reason: str
    """A clause about what happens to which traffic."""
    command: str
    """What an operator can do, often a command to run."""
    lasting: str = ""
    """How to make that permanent."""

    @property
    def remedy(self) -> str:
        return f"{self.command}{f' ({self.lasting})' if self.lasting else ''}"

    def finding(self) -> Finding:
        return Finding(FindingKind.HOST, "packet rules", f"{self.place}: {self.reason}. {self.remedy}")


def find_obstacles(
    mode: Mode, *, bit: int, translated: bool = False, saved: SavedRules | None = None
) -> list[Obstacle]:
    """Return the obstacles in the network namespace of the caller.

    Raises nothing: without nf_tables, or without a second variant of iptables, there are no obstacles of that kind.

    mode: the variant of iptables that our rules are in. bit: the bit of the conntrack mark of connections to Services.
    translated: Services are served by the iptables backend, which translates addresses itself. saved: what
    `commands.saved_rules` returned a moment ago, to avoid reading the rules twice.

    It costs three netlink dumps (5 ms with the 150 rules of firewalld), and an iptables-save process (5 to 10 ms) for
    each family in which the other variant has a filter or nat table.
    """
    chains = nftables.base_chains()
    return [
        *nftables_obstacles(chains, nftables.rules, bit, translated),
        *_variant_obstacles(mode, chains, bit, translated, saved),
    ]


def nftables_obstacles(
    chains: Sequence[BaseChain],
    rules: Callable[[Table], Mapping[str, Sequence[Rule]]],
    bit: int,
    translated: bool,
) -> Iterator[Obstacle]:
    """Yield the obstacles among base chains that iptables did not make. rules: returns a table's rules by chain."""
    rules = cache(rules)
    for chain in chains:
        if is_of_iptables(chain) or chain.table.name == "kube-proxy":  # kube-proxy has its own check and finding
            continue
        place = printable(f"table {chain.table}, chain {chain.name}")
        if chain.type == "nat" and chain.hook in ("prerouting", "output"):
            if translated and chain.priority > _TRANSLATED_AT:
                continue
            if ports := _redirected(chain.name, rules(chain.table)):
                yield _redirection(place, chain.hook, ports)
        elif chain.type == "filter" and chain.hook in _HOOKS:
            denial = default_denial(chain.name, chain.drops, partial(_steps, rules(chain.table), bit))
            if denial is not None and _denies_services(denial, chain.hook, translated):
                yield _nft_denial(chain, place, denial, bit, translated)


def _steps(rules: Mapping[str, Sequence[Rule]], bit: int, chain: str) -> list[Step]:
    return [step_of(rule, bit) for rule in rules.get(chain, ())]


def is_of_iptables(chain: BaseChain) -> bool:
    """Return whether iptables-nft made the chain, or would use it as its own."""
    table = chain.table
    return table.family in _OF_IPTABLES and table.name in _TABLES_OF_IPTABLES and chain.name == chain.hook.upper()


def _denies_services(denial: Denial, hook: str, translated: bool) -> bool:
    if translated:
        return Case.TRANSLATED not in denial.accepted
    return Case.SERVICES not in denial.accepted and not (hook == "forward" and Case.ANSWERS in denial.accepted)


def _denial_reason(denial: Denial, hook: str, translated: bool) -> str:
    how = f"chain {printable(denial.by)} denies the rest" if denial.by else "its policy is drop"
    traffic = (_INSTEAD_OF_IPVS if translated else _BESIDE_IPVS)[hook]
    return f"{how}, including {traffic}, unless a rule there accepts it; no rule of ours can do that"


def _nft_denial(chain: BaseChain, place: str, denial: Denial, bit: int, translated: bool) -> Obstacle:
    match = "ct status dnat" if translated else f"ct mark and {bit:#x} == {bit:#x}"
    command = f"Run `nft insert rule {printable(f'{chain.table} {chain.name}')} {match} accept`"
    lasting = "also in the file that defines the table; otherwise the rule is lost when that file is loaded again"
    known_at = _MARKED_AT if not translated else _TRANSLATED_AT if chain.hook == "output" else None
    if known_at is not None and chain.priority <= known_at:
        command = f"Give the chain a priority above {known_at}, after which Service traffic is marked, and accept it "
        command += f"with `{match} accept`"
    if chain.table.name == "firewalld":
        rich = (
            "`firewall-cmd --permanent --add-rich-rule='rule family=ipv4 destination address=SERVICE-RANGE accept' && "
            "firewall-cmd --reload`"
        )
        lasting = (
            f"`firewall-cmd --reload` removes it; to make it permanent, run for each zone and range of Services {rich}"
        )
        if chain.table.owned:
            command, lasting = f"Run for each zone and range of Services {rich}", "nft may not change this table"
    elif chain.table.owned:
        command = f"Have the program that owns the table accept `{match}` there"
        lasting = "nft may not change it"
    return Obstacle(
        ObstacleKind.DENIES, place, chain.hook, _denial_reason(denial, chain.hook, translated), command, lasting
    )


def _redirected(chain: str, rules: Mapping[str, Sequence[Rule]], depth: int = 0) -> frozenset[str]:
    """Return the ports that a chain redirects for any destination address; "" stands for a rule without a port."""
    found: set[str] = set()
    if depth > DEEPEST:
        return frozenset()
    for rule in rules.get(chain, ()):
        if names_destination(rule):
            continue
        port = port_of(rule)
        if redirects(rule):
            found.add(str(port or ""))
        elif target := step_of(rule, 0).target:
            below = _redirected(target, rules, depth + 1)
            found |= {str(port)} if port and below else below
    return frozenset(found)


def _redirection(place: str, hook: str, ports: frozenset[str]) -> Obstacle:
    known = sorted((port for port in ports if port), key=lambda port: int(port.partition(":")[0]))
    what = "ports of every address of this node are"
    if len(known) == 1 and "" not in ports:
        what = f"port {known[0]} of every address of this node is"
    elif "" not in ports:
        what = f"ports {', '.join(known)} of every address of this node are"
    return Obstacle(
        ObstacleKind.NAT,
        place,
        hook,
        f"{what} redirected there, including Service addresses, and no rule of ours can prevent it",
        "Publish such ports on one address of the node (`podman run -p 192.0.2.1:8080:80`), or choose ports that no "
        "Service uses",
    )


def _variant_obstacles(
    mode: Mode,
    chains: Sequence[BaseChain],
    bit: int,
    translated: bool,
    saved: SavedRules | None,
) -> Iterator[Obstacle]:
    other = Mode.LEGACY if mode is Mode.NFT else Mode.NFT
    for family in _other_families(other, chains):
        text = saved_rules_of(other, family) if saved is None else saved.get((other, family))
        if text is not None:
            yield from iptables_obstacles(text, other, family, bit, translated)


def _other_families(mode: Mode, chains: Sequence[BaseChain]) -> Iterator[Family]:
    """Yield the families in which a variant has a filter or nat table. Legacy rules are not read for this, because
    reading them loads their modules."""
    for name, family in _OF_IPTABLES.items():
        if mode is Mode.NFT:
            names = {chain.table.name for chain in chains if chain.table.family == name and is_of_iptables(chain)}
        else:
            try:
                names = set(_LEGACY_TABLES[family].read_text().split())
            except OSError:
                continue
        if names & {"filter", "nat"}:
            yield family


def iptables_obstacles(text: str, mode: Mode, family: Family, bit: int, translated: bool) -> Iterator[Obstacle]:
    """Yield the obstacles in the output of iptables-save of the variant that our rules are not in."""
    filters = saved_table(text, "filter")
    program = f"{'ip6tables' if family is Family.IPV6 else 'iptables'}-{mode}"
    match = "-m conntrack --ctstate DNAT" if translated else f"-m connmark --mark {bit:#x}/{bit:#x}"
    steps = saved_steps(filters, bit)
    for hook in _HOOKS:
        chain = hook.upper()
        denial = default_denial(chain, filters.policies.get(chain) == "DROP", steps)
        if denial is not None and _denies_services(denial, hook, translated):
            yield Obstacle(
                ObstacleKind.DENIES,
                f"{program}, chain {chain}",
                hook,
                _denial_reason(denial, hook, translated),
                f"Run `{program} -I {chain} {match} -j ACCEPT`",
                "also where the node stores these rules; otherwise the rule is lost when they are loaded again",
            )
    nat = saved_table(text, "nat")
    for hook in ("prerouting", "output"):
        if ports := _saved_redirects(nat, hook.upper()):
            yield _redirection(f"{program}, chain {hook.upper()} of table nat", hook, ports)


def _saved_redirects(nat: SavedTable, chain: str) -> frozenset[str]:
    """Return the ports that a hook translates for any local address, except those of kube-proxy, which has its own
    check."""
    found: set[str] = set()
    for rule in nat.rules.get(chain, ()):
        matches, target, _ = split_rule(rule)
        if "--dst-type LOCAL" in matches and not target.startswith("KUBE-"):
            found |= redirected_ports(nat, target)
    return frozenset(found)


def redirected_ports(nat: SavedTable, chain: str, depth: int = 0) -> set[str]:
    """Return the ports, or ranges `8000:8009`, that a chain of table nat translates; "" stands for a rule without a
    port."""
    found: set[str] = set()
    if depth > DEEPEST:
        return found
    for rule in nat.rules.get(chain, ()):
        target = split_rule(rule).target
        port = _TO_PORTS.search(rule)
        ports = set(port[1].split(",")) if port else {""}
        if target in ("DNAT", "REDIRECT"):
            found |= ports
        elif target in nat.rules and (below := redirected_ports(nat, target, depth + 1)):
            found |= ports if port else below
    return found
