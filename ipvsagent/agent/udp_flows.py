"""Ends UDP flows that nobody answers any more, behind the main loop and not in it.

Reading the connection tracking table costs what the node's traffic is, which no change of a Service may have to wait
for. The loop says which virtual servers have other real servers now; one look at the table serves all that were said
meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from queue import SimpleQueue

from ipvsagent.address import Family
from ipvsagent.errors import KernelError
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.kernel.conntrack import ConntrackTable, may_have_stale_flows
from ipvsagent.model import VirtualServer
from ipvsagent.sources.inbox import Findings

log = logging.getLogger("ipvsagent")
ORIGIN = "udp flows"


Looked = Callable[[Family, float, int], object]
"""Told of one look at the table: its family, how many seconds it took, how many flows were ended."""


class UdpFlows:
    def __init__(self, looked: Looked) -> None:
        self._looked = looked
        self._changed: SimpleQueue[Sequence[VirtualServer]] = SimpleQueue()

    def changed(self, servers: Iterable[VirtualServer]) -> None:
        """From any thread; does not wait."""
        concerned = [server for server in servers if may_have_stale_flows(server)]
        if concerned:
            self._changed.put(concerned)

    def run(self, tell: Callable[[Findings], None]) -> None:
        """For ever, in a thread of its own. What cannot be done is told, and tried with the next change."""
        failed = False
        while True:
            servers = {server.id: server for server in self._changed.get()}
            while not self._changed.empty():
                servers.update((server.id, server) for server in self._changed.get())
            findings = end_stale_flows(servers.values(), self._looked)
            if findings or failed:
                tell(Findings(ORIGIN, findings))
            failed = bool(findings)


def end_stale_flows(servers: Iterable[VirtualServer], looked: Looked = lambda *_: None) -> tuple[Finding, ...]:
    """Once, now; what is wrong, if it cannot be done."""
    concerned = [server for server in servers if may_have_stale_flows(server)]
    if not concerned:
        return ()
    try:
        with contextlib.closing(ConntrackTable()) as table:
            ended = sum(_look(table, family, concerned, looked) for family in Family)
    except (KernelError, OSError) as error:
        reason = (
            f"conntrack entries of old UDP flows cannot be removed ({error}): clients that go on sending from one port "
            "may get no answer; load the kernel module nf_conntrack_netlink"
        )
        return (Finding(FindingKind.HOST, "conntrack", reason),)
    if ended:
        log.info("ended %d UDP flows that no real server answers", ended)
    return ()


def _look(table: ConntrackTable, family: Family, servers: Iterable[VirtualServer], looked: Looked) -> int:
    of_family = [server for server in servers if server.id.family is family]
    if not of_family:
        return 0
    begin = time.monotonic()
    ended = table.end_stale(of_family)
    looked(family, time.monotonic() - begin, ended)
    return ended
