"""Removes the packet rules, ipsets and nftables tables that kube-proxy leaves on a node, in any of its modes.

Its virtual servers and the addresses on kube-ipvs0 are taken over by the proxy that serves Services after it. Chains of
kubelet (KUBE-FIREWALL, KUBE-KUBELET-CANARY, KUBE-IPTABLES-HINT, KUBE-MARK-DROP) stay, as in
pkg/proxy/iptables/cleanup.go, and so do KUBE-MARK-MASQ and KUBE-POSTROUTING if rules of other programs lead to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ipvsagent.address import Family
from ipvsagent.errors import StartError
from ipvsagent.kernel.ipset.definitions import Definitions
from ipvsagent.kernel.iptables.commands import IptablesCommands, RulesRefused, working_modes
from ipvsagent.kernel.iptables.save_format import save_tables, split_rule
from ipvsagent.kernel.nftables.messages import Table
from ipvsagent.kernel.nftables.tables import delete, tables

_CHAIN = re.compile(
    r"KUBE-(SERVICES|EXTERNAL-SERVICES|NODEPORTS|POSTROUTING|MARK-MASQ|FORWARD|PROXY-FIREWALL|PROXY-CANARY"
    r"|NODE-PORT|LOAD-BALANCER|SOURCE-RANGES-FIREWALL|IPVS-FILTER|IPVS-OUT-FILTER|(SVC|SVL|EXT|FW|SEP|XLB)-\S+)"
)
_SET = re.compile(
    r"KUBE-(6-)?(LOOP-BACK|CLUSTER-IP|EXTERNAL-IP|EXTERNAL-IP-LOCAL|LOAD-BALANCER\S*|NODE-PORT-\S+"
    r"|HEALTH-CHECK-NODE-PORT|IPVS-IPS)"
)
_MATCHED = re.compile(r" --match-set (\S+) ")
MARKING, MASQUERADING = "KUBE-MARK-MASQ", "KUBE-POSTROUTING"
_NFT_TABLES = (Table("ip", "kube-proxy"), Table("ip6", "kube-proxy"))


def leftovers() -> list[str]:
    """Return the commands that would remove what is left, in order. Raises StartError, KernelError."""
    found = [line for _, _, lines in _rules() for line in lines]
    sets = [f"ipset destroy {name}" for name in _sets()]
    return [*found, *sets, *(f"nft delete table {table.family} {table.name}" for table in _nft_tables())]


def remove() -> int:
    """Remove what is left; return how many items there were. Raises StartError, KernelError."""
    count = len(leftovers())
    for tool, table, lines in _rules():
        tool.restore("".join(f"{line}\n" for line in (f"*{table}", *lines, "COMMIT")))
    definitions = Definitions(timeout=10.0)
    definitions.destroy(list(_sets()))
    definitions.close()
    for table_of_nft in _nft_tables():
        delete(table_of_nft)
    return count


def _rules() -> Iterator[tuple[IptablesCommands, str, list[str]]]:
    """Yield the lines to restore for each variant, family and table that has something to remove."""
    for tool, table, lines in _texts():
        if removal := list(_removal(lines)):
            yield tool, table, removal


def _texts() -> Iterator[tuple[IptablesCommands, str, list[str]]]:
    """Yield the chains and rules of each variant, family and table."""
    for mode in working_modes():
        for family in Family:
            try:
                tool = IptablesCommands(family, mode)
                text = tool.save()
            except (StartError, RulesRefused):
                continue
            for table, lines in save_tables(text):
                yield tool, table, lines


def _removal(lines: list[str]) -> Iterator[str]:
    """Yield the lines that delete jumps of others to its chains, and then its chains, after emptying all of them."""
    chains = [name for line in lines if line.startswith(":") and _CHAIN.fullmatch(name := line[1:].split()[0])]
    borrowed = _borrowed(chains, lines)
    chains = [name for name in chains if name not in borrowed]
    own = set(chains)
    for line in lines:
        source, leads = _leads_to(line)
        matches_set = source in borrowed and (found := _MATCHED.search(line)) and _SET.fullmatch(found[1])
        if (leads in own and source not in own) or matches_set:
            yield "-D" + line[2:]
    yield from (f":{name} - [0:0]" for name in chains)  # empties the chains
    yield from (f"-X {name}" for name in chains)


def _leads_to(line: str) -> tuple[str, str]:
    """Return the chain of a rule, and its target; "" for what is not there."""
    if not line.startswith("-A "):
        return "", ""
    chain, _, rule = line[3:].partition(" ")
    return chain, split_rule(rule).target


def _borrowed(chains: list[str], lines: list[str]) -> list[str]:
    """Return which of these chains other programs use to masquerade their packets, as the CNI plugin portmap does: the
    chain that marks, and the one that acts on the mark, which only work together."""
    users = {source for source, target in map(_leads_to, lines) if target == MARKING and not source.startswith("KUBE-")}
    return [name for name in chains if users and name in (MARKING, MASQUERADING)]


def kept() -> list[str]:
    """Describe the chains that stay because rules of other programs lead to them. Raises StartError, KernelError."""
    found = []
    for tool, table, lines in _texts():
        chains = [line[1:].split()[0] for line in lines if line.startswith(":")]
        if borrowed := _borrowed(chains, lines):
            found.append(f"{' and '.join(sorted(borrowed))} ({tool.family}, {tool.mode}, {table})")
    return found


def _sets() -> list[str]:
    definitions = Definitions(timeout=10.0)
    try:
        return sorted(header.name for header in definitions.headers() if _SET.fullmatch(header.name))
    finally:
        definitions.close()


def _nft_tables() -> list[Table]:
    return sorted(table for table in tables() if table in _NFT_TABLES)
