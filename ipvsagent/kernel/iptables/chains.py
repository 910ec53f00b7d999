"""The chains of virtual servers, as iptables-save prints them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct, field

from ipvsagent.address import Address, pack, unpack
from ipvsagent.kernel.iptables.save_format import save_lines
from ipvsagent.kernel.iptables.text import mark_of
from ipvsagent.model import Protocol, VirtualServerId
from ipvsagent.rows.nat_chains import (
    BUCKET,
    ENTRY,
    FOR_NODE,
    OWN_PREFIXES,
    ChainsRow,
    MarkedRule,
    ServerChain,
    bucket_names,
    chains_removed,
)

_PREFIXES = (BUCKET, *OWN_PREFIXES)
_DISPATCH = re.compile(r"-d ([0-9a-f.:]+)(?:/\d+)? -p (tcp|udp|sctp) .*--dport (\d+) .*-j (\S+)")
_LEADS_TO = re.compile(rf"-j ((?:{'|'.join(OWN_PREFIXES)})\S+)")
_REAL_SERVER = re.compile(r"--to-destination (\S+):(\d+)")
_WEIGHT = re.compile(r' weight (\d+)"')


class HeldServers(Struct):
    """rows: by virtual server. buckets: that are there. stray: rules of buckets that are no virtual server's, and
    chains that none leads to, and whether they hold rules; a chain that rules of others lead to stays, empty."""

    rows: dict[VirtualServerId, ChainsRow] = field(default_factory=dict)
    buckets: set[str] = field(default_factory=set)
    stray_rules: list[tuple[str, str]] = field(default_factory=list)
    stray_chains: dict[str, bool] = field(default_factory=dict)

    def missing_buckets(self) -> list[str]:
        return [name for name in bucket_names() if name not in self.buckets]

    def sweep_lines(self, *, delete: bool = True) -> Iterator[str]:
        """Takes away what is stray; delete: chains, too, which are emptied otherwise."""
        for bucket, rule in self.stray_rules:
            yield f"-D {bucket} {rule}"
        if delete:
            yield from chains_removed(self.stray_chains)
        else:
            yield from (f":{name} - [0:0]" for name in self.stray_chains)


def is_servers(chain: str) -> bool:
    """Whether a chain is a virtual server's, or a bucket; all others of ours are constant."""
    return chain.startswith(_PREFIXES)


def parse_servers(text: str) -> HeldServers:
    """From what iptables-save prints, of the nat table."""
    chains: dict[str, list[str]] = {}
    buckets: dict[str, list[str]] = {}
    in_nat = False
    for line in save_lines(text):
        if line.startswith("*"):
            in_nat = line == "*nat"
        elif not in_nat:
            continue
        elif line.startswith(":"):
            name = line[1:].split(" ", 1)[0]
            if name.startswith(OWN_PREFIXES):
                chains[name] = []
            elif name.startswith(BUCKET):
                buckets[name] = []
        elif line.startswith("-A "):
            name, _, rule = line[3:].partition(" ")
            rules = chains.get(name)
            if rules is None:
                rules = buckets.get(name)
            if rules is not None:
                rules.append(rule)
    return _assembled(chains, buckets)


def _assembled(chains: dict[str, list[str]], buckets: dict[str, list[str]]) -> HeldServers:
    held = HeldServers(buckets=set(buckets))
    reached: set[str] = set()
    for bucket, rules in buckets.items():
        for rule in rules:
            server_id, entry = _dispatched(rule)
            if server_id is None or entry not in chains or server_id in held.rows or entry in reached:
                held.stray_rules.append((bucket, rule))
                continue
            names = _reached_from(entry, chains)
            reached.update(names)
            own = tuple(ServerChain(name, tuple(MarkedRule(mark_of(r), r) for r in chains[name])) for name in names)
            held.rows[server_id] = ChainsRow(server_id, bucket, MarkedRule(mark_of(rule), rule), own)
    held.stray_chains = {name: bool(rules) for name, rules in chains.items() if name not in reached}
    return held


def _dispatched(rule: str) -> tuple[VirtualServerId | None, str]:
    match = _DISPATCH.match(rule)
    if not match or not match[4].startswith(ENTRY):
        return None, ""
    address = unpack(pack(Address(match[1])))
    return VirtualServerId(Protocol(match[2].upper()), address, int(match[3])), match[4]


def _reached_from(entry: str, chains: dict[str, list[str]]) -> list[str]:
    """Chains that lead on from here, this one first."""
    names = {entry: None}
    queue = [entry]
    while queue:
        for rule in chains[queue.pop()]:
            match = _LEADS_TO.search(rule)
            if match and match[1] in chains and match[1] not in names:
                names[match[1]] = None
                queue.append(match[1])
    return list(names)


def real_servers_of(row: ChainsRow) -> list[tuple[str, int, int]]:
    """Address, port and weight of every endpoint that new connections from outside may get, in the rules' order; if
    these get none, of those for clients on this node."""
    for_node = (chain for chain in row.chains if chain.name.startswith(FOR_NODE))
    for first in (row.chains[0], *for_node):
        if found := _endpoints(first, row):
            return found
    return []


def _endpoints(first: ServerChain, row: ChainsRow) -> list[tuple[str, int, int]]:
    chains = {chain.name: chain for chain in row.chains if not chain.name.startswith(FOR_NODE)}
    found: dict[tuple[str, int], int] = {}
    for rule in first.rules:
        if "--match-set" in rule.text or "--src-type" in rule.text:
            continue
        weight = int(match[1]) if (match := _WEIGHT.search(rule.text)) else 1
        target = _REAL_SERVER.search(rule.text)
        leads = _LEADS_TO.search(rule.text)
        if leads and leads[1] in chains:
            target = next((m for r in chains[leads[1]].rules if (m := _REAL_SERVER.search(r.text))), None)
        if target:
            found[target[1].strip("[]"), int(target[2])] = weight
    return [(address, port, weight) for (address, port), weight in found.items()]
