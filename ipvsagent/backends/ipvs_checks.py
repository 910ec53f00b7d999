"""Checks a host for the IPVS backend. Nothing is changed, except that a virtual server on a documentation address
exists for the moment in which the scheduler is tried."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ipvsagent.backends.checks import Check, State
from ipvsagent.config import Config, PortRange
from ipvsagent.errors import StartError
from ipvsagent.kernel import host
from ipvsagent.kernel.arp import Answers
from ipvsagent.kernel.ipvs.timeouts import ESTABLISHED, IdleTimeout
from ipvsagent.kernel.reserved_ports import source_ports
from ipvsagent.rows import Observed, Owner


def scheduler_check(scheduler: str) -> Check:
    name = f"scheduler {scheduler}"
    try:
        host.require_scheduler(scheduler)
    except StartError as error:
        return Check(name, State.FAILED, error.what, error.remedy)
    return Check(name, State.OK, "works")


def virtual_servers_check(services: Iterable[Observed]) -> Check:
    owners = [seen.owner for seen in services]
    foreign = owners.count(Owner.FOREIGN)
    found = f"{len(owners) - foreign} of ours, {foreign} of other programs, which are left alone"
    return Check("virtual servers", State.OK, found)


def source_ports_check(node_ports: PortRange) -> Check:
    """Check whether connections of the node itself can have a node port as their source port, where IPVS would take
    the answers."""
    name = "source ports"
    now = source_ports(node_ports)
    if not now.missing:
        return Check(name, State.OK, f"{now.summary}: they are reserved")
    if now.crowded:
        return Check(name, State.WARNING, now.summary, now.remedy)
    if now.writable:
        return Check(name, State.TO_DO, f"{now.summary}; they are not reserved")
    return Check(name, State.WARNING, now.summary, now.remedy) if now.clashing else Check(name, State.OK, now.summary)


def timeout_checks(timeouts: tuple[IdleTimeout, ...]) -> Iterator[Check]:
    """Check whether connection tracking keeps an idle connection at least as long as IPVS does."""
    for each in timeouts:
        if each.conntrack_setting != ESTABLISHED or each.ipvs is None:
            continue
        if each.conntrack is None:
            yield Check(
                "idle TCP", State.OK, f"forgotten after {each.ipvs} s by IPVS; connection tracking does not report it"
            )
        elif each.conntrack < each.ipvs:
            found = f"forgotten after {each.conntrack} s by connection tracking, before the {each.ipvs} s of IPVS"
            yield Check("idle TCP", State.WARNING, found, "Set both at once with --idle-timeout")
        else:
            found = f"forgotten after {each.ipvs} s by IPVS ({each.conntrack} s by connection tracking)"
            yield Check("idle TCP", State.OK, found)


def arp_checks(config: Config, odd_addresses: int, answers: tuple[Answers, ...]) -> Iterator[Check]:
    """Check which interfaces answer ARP for Service addresses.

    odd_addresses: how many are bound with another scope than host. They are answered for whatever the settings are.
    """
    if odd_addresses:
        bound = f"{odd_addresses} addresses on {config.interface} are bound as kube-proxy does"
        found = f"{bound}, so that ARP is answered for them"
        yield Check("address scopes", State.TO_DO, found)
    for each in answers:
        name = f"ARP on {each.interface}"
        values = f"(arp_ignore {each.ignore}, arp_announce {each.announce})"
        if not each.answers and not each.names:
            yield Check(name, State.OK, f"silent for Service addresses {values}")
        elif not each.lan:
            yield Check(name, State.OK, f"leads to no other machine, and is left alone {values}")
        elif config.answer_arp:
            yield Check(name, State.WARNING, f"answers for Service addresses, as --answer-arp asks {values}")
        else:
            what = "answers for Service addresses" if each.answers else "gives Service addresses as its own in requests"
            yield Check(name, State.TO_DO, f"{what} {values}")
