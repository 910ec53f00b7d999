"""Reads virtual servers from chains of the iptables backend, so that `status` shows Services alike on both backends."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ipvsagent.address import Address
from ipvsagent.kernel.iptables.chains import real_servers_of
from ipvsagent.model import VirtualServerId
from ipvsagent.rows import PERSISTENT, Observed, RealServerRow, VirtualServerRow
from ipvsagent.rows.nat_chains import ChainsRow
from ipvsagent.rows.packet_rules import COMMENT_PREFIX

RANDOM = "random"
"""What is shown as the scheduler: endpoints are chosen at random, by weight."""
_NAMES = re.compile(rf'--comment "{COMMENT_PREFIX}[0-9a-f]+ (\S+) ([^"]+)"')
_TIMEOUT = re.compile(r"--exist --timeout (\d+)")


def names_of(observed: Iterable[Observed]) -> dict[VirtualServerId, tuple[str, str]]:
    """Return the Service and frontend of each virtual server, from the comment of the rule that jumps to it."""
    found = {}
    for seen in observed:
        if isinstance(seen.row, ChainsRow) and (match := _NAMES.search(seen.row.dispatch.text)):
            found[seen.row.id] = match[1], match[2]
    return found


def as_entries(observed: Iterable[Observed]) -> Iterator[tuple[Observed, list[Observed]]]:
    """Yield virtual servers with their real servers for clients outside this node, or for all clients where these have
    the same ones.

    Connections are not counted, as that would require reading all connections of the node.
    """
    for seen in observed:
        row = seen.row
        if not isinstance(row, ChainsRow):
            continue
        texts = (rule.text for chain in row.chains for rule in chain.rules)
        timeout = next((int(match[1]) for text in texts if (match := _TIMEOUT.search(text))), 0)
        server = VirtualServerRow(row.id, RANDOM, PERSISTENT if timeout else 0, timeout)
        real = [RealServerRow(row.id, Address(a), port, weight) for a, port, weight in real_servers_of(row)]
        yield Observed(server, seen.owner), [Observed(one, seen.owner) for one in real]
