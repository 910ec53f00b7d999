"""Parses the chains of virtual servers that iptables-save prints. Pure."""

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
    """Holds the chains of virtual servers of one family."""

    rows: dict[VirtualServerId, ChainsRow] = field(default_factory=dict)
    buckets: set[str] = field(default_factory=set)
    """Names of the buckets that exist."""
    stray_rules: list[tuple[str, str]] = field(default_factory=list)
    """Bucket and rule of each rule that leads to no virtual server."""
    stray_chains: dict[str, bool] = field(default_factory=dict)
    """Chains that no bucket leads to, and whether they contain rules. One that rules of other programs lead to cannot
    be deleted, and stays empty."""

    def missing_buckets(self) -> list[str]:
        return [name for name in bucket_names() if name not in self.buckets]

    def sweep_lines(self, *, delete: bool = True) -> Iterator[str]:
        """Yield the lines that delete stray rules, and delete stray chains or, if `delete` is false, empty them."""
        for bucket, rule in self.stray_rules:
            yield f"-D {bucket} {rule}"
        if delete:
            yield from chains_removed(self.stray_chains)
        else:
            yield from (f":{name} - [0:0]" for name in self.stray_chains)


def is_servers(chain: str) -> bool:
    """Return whether a chain is a virtual server's, or a bucket; our other chains are constant."""
    return chain.startswith(_PREFIXES)


def parse_servers(text: str) -> HeldServers:
    """Parse table nat in the output of iptables-save."""
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
    return _assemble(chains, buckets)


def _assemble(chains: dict[str, list[str]], buckets: dict[str, list[str]]) -> HeldServers:
    held = HeldServers(buckets=set(buckets))
    reached: set[str] = set()
    for bucket, rules in buckets.items():
        for rule in rules:
            server_id, entry = _parse_dispatch(rule)
            if server_id is None or entry not in chains or server_id in held.rows or entry in reached:
                held.stray_rules.append((bucket, rule))
                continue
            names = _reachable_from(entry, chains)
            reached.update(names)
            own = tuple(ServerChain(name, tuple(MarkedRule(mark_of(r), r) for r in chains[name])) for name in names)
            held.rows[server_id] = ChainsRow(server_id, bucket, MarkedRule(mark_of(rule), rule), own)
    held.stray_chains = {name: bool(rules) for name, rules in chains.items() if name not in reached}
    return held


def _parse_dispatch(rule: str) -> tuple[VirtualServerId | None, str]:
    match = _DISPATCH.match(rule)
    if not match or not match[4].startswith(ENTRY):
        return None, ""
    address = unpack(pack(Address(match[1])))
    return VirtualServerId(Protocol(match[2].upper()), address, int(match[3])), match[4]


def _reachable_from(entry: str, chains: dict[str, list[str]]) -> list[str]:
    """Return the chains that packets can reach from `entry`, which comes first."""
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
    """Return address, port and weight of every endpoint that new connections from outside may get, in the order of the
    rules; if they get none, of every endpoint for clients on this node."""
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
