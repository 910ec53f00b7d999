"""Ends UDP flows that no real server answers, in a thread beside the main loop.

Reading the connection tracking table takes longer the more connections the node has, and no change of a Service may
wait for that. The loop reports which virtual servers have changed real servers; one look at the table serves all that
were reported meanwhile.
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


OnLook = Callable[[Family, float, int], object]
"""Called after a look at the table with the family, the seconds that it took, and the number of flows ended."""


class UdpFlows:
    """Collects virtual servers whose real servers have changed, and ends the stale flows of these."""

    def __init__(self, on_look: OnLook) -> None:
        self._on_look = on_look
        self._changed: SimpleQueue[Sequence[VirtualServer]] = SimpleQueue()

    def changed(self, servers: Iterable[VirtualServer]) -> None:
        """Report changed virtual servers. Any thread may call this; it does not wait."""
        concerned = [server for server in servers if may_have_stale_flows(server)]
        if concerned:
            self._changed.put(concerned)

    def run(self, put: Callable[[Findings], None]) -> None:
        """End stale flows for ever, in a thread of its own. A failure is put as a finding; the next change tries
        again."""
        failed = False
        while True:
            servers = {server.id: server for server in self._changed.get()}
            while not self._changed.empty():
                servers.update((server.id, server) for server in self._changed.get())
            findings = end_stale_flows(servers.values(), self._on_look)
            if findings or failed:
                put(Findings(ORIGIN, findings))
            failed = bool(findings)


def end_stale_flows(servers: Iterable[VirtualServer], on_look: OnLook = lambda *_: None) -> tuple[Finding, ...]:
    """End the stale flows of these virtual servers now. Return what is wrong if that fails."""
    concerned = [server for server in servers if may_have_stale_flows(server)]
    if not concerned:
        return ()
    try:
        with contextlib.closing(ConntrackTable()) as table:
            ended = sum(_look(table, family, concerned, on_look) for family in Family)
    except (KernelError, OSError) as error:
        reason = (
            f"conntrack entries of stale UDP flows cannot be removed ({error}): clients that keep sending from one "
            "port may get no answer; load the kernel module nf_conntrack_netlink"
        )
        return (Finding(FindingKind.HOST, "conntrack", reason),)
    if ended:
        log.info("ended %d UDP flows that no real server answers", ended)
    return ()


def _look(table: ConntrackTable, family: Family, servers: Iterable[VirtualServer], on_look: OnLook) -> int:
    of_family = [server for server in servers if server.id.family is family]
    if not of_family:
        return 0
    begin = time.monotonic()
    ended = table.end_stale(of_family)
    on_look(family, time.monotonic() - begin, ended)
    return ended
