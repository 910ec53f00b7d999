"""What iptables' nat table does with the addresses of Services in a namespace, read from `iptables-save`: none of the
code under test."""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Iterable, Iterator
from itertools import pairwise

from integration.lab.namespaces import Namespace

# `TCP 10.96.0.1:443` -> where a new connection may be sent: `10.0.0.1:6443`, ...
Translations = dict[str, set[str]]

Rule = dict[str, str]


def translations(namespace: Namespace) -> Translations:
    """Returns the translations of both families. Raises LabError if a table cannot be read."""
    return {
        name: endpoints
        for tool in ("iptables-save", "ip6tables-save")
        for name, endpoints in parse(namespace.run(tool, "-t", "nat")).items()
    }


def parse(text: str) -> Translations:
    """Parses the output of `iptables-save -t nat`. A rule that matches one address and one port stands for a
    Service."""
    chains: dict[str, list[Rule]] = {}
    for line in text.splitlines():
        if line.startswith("-A "):
            chain, rule = _rule(line)
            chains.setdefault(chain, []).append(rule)
    found: Translations = {}
    for rules in chains.values():
        for rule in rules:
            if {"-d", "-p", "--dport", "-j"} <= rule.keys():
                name = f"{rule['-p'].upper()} {_endpoint(rule['-d'], rule['--dport'])}"
                found.setdefault(name, set()).update(_endpoints(chains, [rule]))
    return found


def _endpoints(chains: dict[str, list[Rule]], rules: Iterable[Rule]) -> Iterator[str]:
    """Yields the endpoints of rules and the chains that they lead to, which iptables guarantees to be free of loops."""
    for rule in rules:
        if "--to-destination" in rule:
            yield rule["--to-destination"]
        yield from _endpoints(chains, chains.get(rule.get("-j", ""), ()))


def _rule(line: str) -> tuple[str, Rule]:
    """Returns a rule's chain, and the word after each option; of a repeated option, such as -m, the last one."""
    words = shlex.split(line)
    return words[1], {name: value for name, value in pairwise(words) if name.startswith("-")}


def _endpoint(network: str, port: str) -> str:
    address = ipaddress.ip_interface(network).ip
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
