"""Whether this node is fit for the agent, and what would be done to it: one answer for each thing that can be wrong.

Changes nothing, but for a virtual server on a documentation address that lives for the moment in which the scheduler is
tried. Each check says what was found, and where something is to do, what; `run` does what is TO_DO by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from enum import StrEnum

from msgspec import Struct

from ipvsagent import __version__
from ipvsagent.address import Family
from ipvsagent.backends.assembly import lock_path
from ipvsagent.backends.iptables import IptablesBackend
from ipvsagent.backends.ipvs import IpvsBackend
from ipvsagent.config import BackendChoice, Config, PortRange
from ipvsagent.errors import KernelError, StartError
from ipvsagent.kernel import arp, host
from ipvsagent.kernel.addresses import AddressTable
from ipvsagent.kernel.arp import Answers
from ipvsagent.kernel.iptables.commands import Mode, SavedRules, Variant, find_variant, saved_rules
from ipvsagent.kernel.ipvs.timeouts import ESTABLISHED, IdleTimeout, idle_timeouts
from ipvsagent.kernel.kube_proxy import rules as kube_proxy_rules
from ipvsagent.kernel.links import links
from ipvsagent.kernel.neighbours.obstacles import find_obstacles
from ipvsagent.kernel.neighbours.programs import NodeView, neighbours
from ipvsagent.kernel.nftables.tables import tables
from ipvsagent.kernel.reserved_ports import source_ports
from ipvsagent.kernel.sysctls import ConnReuse, Setting, conn_reuse, is_writable, read_sysctl
from ipvsagent.rows import Owner


class State(StrEnum):
    """FAILED alone keeps `run` from working."""

    OK = "ok"
    TO_DO = "to-do"
    WARNING = "warning"
    FAILED = "failed"


class Check(Struct, frozen=True, omit_defaults=True):
    """remedy: what an operator can do; "" where nothing is to do, or `run` does it."""

    name: str
    state: State
    found: str
    remedy: str = ""


class NodeChecks(Struct, frozen=True):
    """fit: nothing failed. neighbours: other programs and tables of the node's network that Services meet, by
    `neighbour NAME` and `obstacle PLACE`. conn_reuse, timeouts, arp: the facts behind some of the checks."""

    version: str
    node: str
    kernel: str
    fit: bool
    checks: tuple[Check, ...]
    conn_reuse: ConnReuse
    neighbours: tuple[Check, ...] = ()
    timeouts: tuple[IdleTimeout, ...] = ()
    arp: tuple[Answers, ...] = ()


def check_node(config: Config) -> NodeChecks:
    """What cannot be found out because something else failed is left out."""
    checks: list[Check] = []
    timeouts: tuple[IdleTimeout, ...] = ()
    answers: tuple[Answers, ...] = ()
    beside: tuple[Check, ...] = ()
    if _passed(checks, "privileges", host.require_privilege, "CAP_NET_ADMIN"):
        saved = saved_rules()
        checks += _others(config, saved)
        rules, variant = _iptables(saved)
        ip_vs = _ip_vs(config.backend)
        checks += [rules, ip_vs]
        translated = config.backend is BackendChoice.IPTABLES or ip_vs.state is State.WARNING
        if variant is not None:
            beside = tuple(neighbour_checks(config, saved, variant.mode, translated))
        if translated:
            if variant is not None:
                checks += [_setting(setting) for setting in IptablesBackend(config, variant=variant).settings()]
        elif ip_vs.state is State.OK:
            node = IpvsBackend(config)
            _passed(checks, f"scheduler {config.scheduler}", lambda: host.require_scheduler(config.scheduler), "works")
            checks += _tables(node)
            checks += [_setting(setting) for setting in node.settings()]
            checks.append(_source_ports(config.service_node_port_range))
            timeouts = idle_timeouts(node.ipvs)
            checks += _timeouts(timeouts)
            lan = node.lan()
            answers = tuple(arp.answers(links(), lan, config.interface))
            checks += _arp(config, node, answers)
    decision = conn_reuse()
    checks.append(_reuse(decision))
    for finding in host.host_findings((Family.IPV6,) if os.path.exists("/proc/net/if_inet6") else ()):
        checks.append(Check(finding.subject, State.WARNING, finding.reason))
    fit = not any(check.state is State.FAILED for check in checks)
    return NodeChecks(
        __version__, config.node_name, os.uname().release, fit, tuple(checks), decision, beside, timeouts, answers
    )


def neighbour_checks(config: Config, saved: SavedRules, mode: Mode, translated: bool) -> Iterator[Check]:
    """saved: what iptables-save prints. mode: the variant of our rules. translated: by the iptables backend."""
    interface = "" if translated else config.interface
    addresses = AddressTable(config.interface).node_addresses()
    for each in neighbours(NodeView(saved, tuple(tables()), tuple(links()), addresses, mode, interface)):
        state = State.WARNING if each.remedy else State.OK
        found = f"{each.role} ({', '.join(each.evidence)}): {each.effect}"
        yield Check(f"neighbour {each.name}", state, found, each.remedy)
    for obstacle in find_obstacles(mode, bit=1 << config.masquerade_bit, translated=translated, saved=saved):
        yield Check(f"obstacle {obstacle.place}", State.WARNING, obstacle.reason, obstacle.remedy)


def _passed(checks: list[Check], name: str, require: Callable[[], None], found: str) -> bool:
    try:
        require()
    except StartError as error:
        checks.append(Check(name, State.FAILED, error.what, error.remedy))
        return False
    checks.append(Check(name, State.OK, found))
    return True


def _others(config: Config, saved: SavedRules) -> Iterator[Check]:
    pid = host.kube_proxy_here()
    if pid:
        remedy = "Stop it before `ipvsagent run`: kubectl -n kube-system delete daemonset kube-proxy"
        yield Check(
            "kube-proxy", State.FAILED, f"runs on this node (pid {pid}): two proxies undo each other's work", remedy
        )
    else:
        yield Check("kube-proxy", State.OK, "none is visible from here")
    left = kube_proxy_rules.find_leftovers(saved)
    if left.translating or left.canary:
        remedy = f"Once kube-proxy is stopped for good, run `{kube_proxy_rules.REMEDY}`"
        what = "its chain KUBE-PROXY-CANARY is there: it runs here, or ran and left its rules"
        if left.translating:
            what = f"translate packets to its last endpoints ({', '.join(left.translating)})"
        yield Check("rules of kube-proxy", State.WARNING, what, remedy)
    lock = host.AgentLock(lock_path(config))
    if lock.is_held():
        yield Check(
            "other agents", State.OK, f"an agent (pid {lock.holder() or 'unknown'}) runs here; a second one waits"
        )
        return
    yield Check("other agents", State.OK, "none")


def _iptables(saved: SavedRules) -> tuple[Check, Variant | None]:
    try:
        variant = find_variant(saved)
    except (StartError, KernelError) as error:
        remedy = error.remedy if isinstance(error, StartError) else ""
        what = error.what if isinstance(error, StartError) else str(error)
        return Check("iptables", State.FAILED, what, remedy), None
    return Check("iptables", State.OK, f"{variant.mode} ({variant.reason})"), variant


def _ip_vs(backend: BackendChoice) -> Check:
    """WARNING: auto takes iptables."""
    if backend is BackendChoice.IPTABLES:
        return Check("ip_vs", State.OK, "not needed: Services are to be on iptables")
    try:
        host.require_ip_vs(load=False)
    except host.IpvsAbsent as absent:
        if backend is BackendChoice.IPVS:
            return Check("ip_vs", State.FAILED, absent.what, absent.remedy)
        found = f"{absent.what} now: unless `run` can load the module, it serves by iptables"
        remedy = f"{absent.remedy} for IPVS, or choose iptables with --backend iptables"
        return Check("ip_vs", State.WARNING, found, remedy)
    except StartError as error:
        return Check("ip_vs", State.FAILED, error.what, error.remedy)
    return Check("ip_vs", State.OK, "the kernel has IPVS")


def _tables(node: IpvsBackend) -> Iterator[Check]:
    owners = [seen.owner for seen in node.ipvs.services()]
    foreign = owners.count(Owner.FOREIGN)
    found = f"{len(owners) - foreign} of ours, {foreign} of other programs, which are left alone"
    yield Check("virtual servers", State.OK, found)


def _setting(setting: Setting) -> Check:
    value = read_sysctl(setting.name)
    if setting.holds(value):
        return Check(setting.name, State.OK, str(value))
    found = f"{'missing' if value is None else value}, wanted {setting.value}: {setting.why}"
    if value is not None and is_writable(setting.name):
        return Check(setting.name, State.TO_DO, found)
    remedy = f"Run on the host `sysctl -w {setting.name}={setting.value}`"
    return Check(setting.name, State.FAILED if setting.vital else State.WARNING, found, remedy)


def _source_ports(node_ports: PortRange) -> Check:
    """Whether connections of the node itself may begin at a node port, where IPVS takes their answers."""
    name = "source ports"
    now = source_ports(node_ports)
    if not now.missing:
        return Check(name, State.OK, f"{now.said}: they are reserved")
    if now.crowded:
        return Check(name, State.WARNING, now.said, now.remedy)
    if now.writable:
        return Check(name, State.TO_DO, f"{now.said}; they are not reserved")
    return Check(name, State.WARNING, now.said, now.remedy) if now.clashing else Check(name, State.OK, now.said)


def _reuse(decision: ConnReuse) -> Check:
    value = "absent" if decision.value is None else str(decision.value)
    state = State.OK if decision.wanted in (None, decision.value) else State.TO_DO
    if decision.wanted is None and decision.value == 0:
        state = State.WARNING
    return Check("conn_reuse_mode", state, f"{value} on kernel {decision.kernel}; {decision.reason}")


def _timeouts(timeouts: tuple[IdleTimeout, ...]) -> Iterator[Check]:
    for each in timeouts:
        if each.conntrack_setting != ESTABLISHED or each.ipvs is None:
            continue
        if each.conntrack is None:
            yield Check(
                "idle TCP", State.OK, f"forgotten after {each.ipvs} s by IPVS; connection tracking does not say"
            )
        elif each.conntrack < each.ipvs:
            found = f"forgotten after {each.conntrack} s by connection tracking, before the {each.ipvs} s of IPVS"
            yield Check("idle TCP", State.WARNING, found, "Set both at once with --idle-timeout")
        else:
            found = f"forgotten after {each.ipvs} s by IPVS ({each.conntrack} s by connection tracking)"
            yield Check("idle TCP", State.OK, found)


def _arp(config: Config, node: IpvsBackend, answers: tuple[Answers, ...]) -> Iterator[Check]:
    """Who answers for Service addresses, by interface; addresses of another scope are answered whatever is set."""
    odd = len(node.addresses.odd)
    if odd:
        found = f"{odd} addresses on {config.interface} are bound as kube-proxy does, so that ARP is answered for them"
        yield Check("address scopes", State.TO_DO, found)
    for each in answers:
        name = f"ARP on {each.interface}"
        said = f"(arp_ignore {each.ignore}, arp_announce {each.announce})"
        if not each.answers and not each.names:
            yield Check(name, State.OK, f"silent for Service addresses {said}")
        elif not each.lan:
            yield Check(name, State.OK, f"leads to no other machine, and is left alone {said}")
        elif config.answer_arp:
            yield Check(name, State.WARNING, f"answers for Service addresses, as --answer-arp asks {said}")
        else:
            what = "answers for Service addresses" if each.answers else "gives Service addresses as its own in requests"
            yield Check(name, State.TO_DO, f"{what} {said}")
