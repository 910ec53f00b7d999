"""These functions ban clients as an administrator or fail2ban does."""

from __future__ import annotations

from collections.abc import Iterable

from integration.flows.neighbours.recorded import by_version, read_rules, restore
from integration.lab import Namespace

# The recorded client's.
_CLIENT = {4: "203.0.113.60/32", 6: "fd00:203:0:113::60/128"}


def ban(node: Namespace, clients: Iterable[str]) -> None:
    """Drops all that comes in from each client, by a rule in front of all others.

    Raises LabError if a tool refuses.
    """
    for version, group in by_version(clients).items():
        lines = (f"-I INPUT 1 -s {client} -j DROP" for client in group)
        restore(node, version, "\n".join(["*filter", *lines, "COMMIT", ""]))


def ban_with_fail2ban(node: Namespace, clients: Iterable[str], *, all_ports: bool = False) -> None:
    """Refuses each client as fail2ban's jail sshd does, in its own chain, whose jump stands first in INPUT.

    all_ports: the jail's action is iptables-allports: all of TCP is refused. Otherwise port 22 is, by
    iptables-multiport. Raises LabError if a tool refuses.
    """
    name = "fail2ban-allports" if all_ports else "fail2ban"
    for version, group in by_version(clients).items():
        restore(node, version, _fail2ban_rules(read_rules(name, version), version, group))


def _fail2ban_rules(recorded: str, version: int, clients: Iterable[str]) -> str:
    """Returns input of iptables-restore. The program inserts its jump, and each ban in front of the last."""
    lines: list[str] = []
    for line in recorded.replace("-A INPUT ", "-I INPUT 1 ").splitlines():
        if _CLIENT[version] in line:
            lines += [line.replace(_CLIENT[version], client) for client in reversed(list(clients))]
        else:
            lines.append(line)
    return "\n".join([*lines, ""])
