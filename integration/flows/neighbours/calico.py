"""This module installs Calico's chains, as they are where kube-proxy runs IPVS, for two pods with policies.

Nobody may open a connection to the pod behind the first link; the pod behind the second may open none.
The rules are those of felix/rules/static.go: traffic to IPVS is accepted in INPUT with a mark that names the pod
it came from, and judged in OUTPUT, behind IPVS.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import takewhile

from integration.flows.neighbours.recorded import RULES, TOOLS, by_version, restore
from integration.lab import LabError, Namespace

LINKS = ("pa", "pb")
_CHAINS = ("INPUT", "OUTPUT", "FORWARD")
_LOOPBACK = {4: "127.0.0.1", 6: "::1"}
_SETS = {4: "cali40this-host", 6: "cali60this-host"}
_FAMILIES = {4: "inet", 6: "inet6"}


def install_calico(node: Namespace, addresses: Iterable[str], links: tuple[str, str] = LINKS) -> None:
    """Installs chains, sets and jumps, for both families.

    addresses: the node's own. links: the node's ends of the two pods' links; they begin with the same letters.
    Raises LabError if they do not, or if a tool refuses.
    """
    own = by_version(addresses)
    rules = calico_rules(links)
    for version, name in _SETS.items():
        members = [_LOOPBACK[version], *own.get(version, [])]
        lines = [f"create {name} hash:ip family {_FAMILIES[version]}", *(f"add {name} {each}" for each in members)]
        node.run("ipset", "restore", stdin="\n".join(lines) + "\n")
        restore(node, version, rules.replace(_SETS[4], name))
    put_calico_first(node)


def put_calico_first(node: Namespace) -> None:
    """Moves Calico's jumps to the head of their chains, as Felix does at each refresh, by default every 90 s.

    At no moment is a chain without its jump: iptables-restore commits both halves together.
    """
    for version, tool in TOOLS.items():
        present = node.run(f"{tool}-save", "-t", "filter").splitlines()
        lines = ["*filter"]
        for chain in _CHAINS:
            jump = f"{chain} -j cali-{chain}"
            lines += [f"-D {jump}"] * present.count(f"-A {jump}")
            lines.append(f"-I {chain} 1 -j cali-{chain}")
        restore(node, version, "\n".join([*lines, "COMMIT", ""]))


def calico_rules(links: tuple[str, str] = LINKS) -> str:
    """Returns input of iptables-restore; for IPv6, only the name of the set differs."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(*links, strict=False))
    common = "".join(letter for letter, _ in same)
    if not common:
        raise LabError(f"the links {' and '.join(links)} have no first letters in common")
    names = {**dict(zip(LINKS, links, strict=True)), "p+": f"{common}+"}
    text = (RULES / "calico.rules").read_text()
    return re.sub(r"\bp[ab]\b|(?<= )p\+", lambda found: names[found[0]], text)
