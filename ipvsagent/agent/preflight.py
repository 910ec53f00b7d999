"""Checks whether this node is fit for the agent, for `ipvsagent check`.

Here are the checks that hold for every backend; each backend adds its own (backends/backend.py). They change nothing,
except that the IPVS backend tries the scheduler on a virtual server that exists for a moment only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from msgspec import Struct

from ipvsagent import __version__
from ipvsagent.address import Family
from ipvsagent.backends.assembly import lock_path
from ipvsagent.backends.checks import BackendChecks, Check, State
from ipvsagent.backends.selection import open_to_check
from ipvsagent.config import Config
from ipvsagent.errors import KernelError, StartError
from ipvsagent.kernel import host
from ipvsagent.kernel.addresses import AddressTable
from ipvsagent.kernel.arp import Answers
from ipvsagent.kernel.iptables.commands import Mode, SavedRules, Variant, find_variant, saved_rules
from ipvsagent.kernel.ipvs.timeouts import IdleTimeout
from ipvsagent.kernel.kube_proxy import rules as kube_proxy_rules
from ipvsagent.kernel.links import links
from ipvsagent.kernel.neighbours.obstacles import find_obstacles
from ipvsagent.kernel.neighbours.programs import NodeView, neighbours
from ipvsagent.kernel.nftables.tables import tables
from ipvsagent.kernel.sysctls import ConnReuse, conn_reuse


class NodeChecks(Struct, frozen=True):
    """Holds the document that `check` prints. conn_reuse, timeouts and arp are the facts behind some checks."""

    version: str
    node: str
    kernel: str
    fit: bool
    """Whether no check failed."""
    checks: tuple[Check, ...]
    conn_reuse: ConnReuse
    neighbours: tuple[Check, ...] = ()
    """Other programs and tables through which packets to Services pass: `neighbour NAME` and `obstacle PLACE`."""
    timeouts: tuple[IdleTimeout, ...] = ()
    arp: tuple[Answers, ...] = ()


def check_node(config: Config) -> NodeChecks:
    """Run all checks. A check that depends on a failed one is omitted."""
    checks: list[Check] = []
    own = BackendChecks(())
    found: tuple[Check, ...] = ()
    if _passed(checks, "privileges", host.require_privilege, "CAP_NET_ADMIN"):
        saved = saved_rules()
        checks += _others(config, saved)
        rules, variant = _iptables(saved)
        ip_vs, backend = open_to_check(config, variant)
        checks += [rules, ip_vs]
        if variant is not None:
            translated = backend is not None and not backend.capabilities.binds
            found = tuple(neighbour_checks(config, saved, variant.mode, translated))
        if backend is not None:
            own = backend.check()
            checks += own.checks
    decision = conn_reuse()
    checks.append(_reuse(decision))
    for finding in host.host_findings((Family.IPV6,) if os.path.exists("/proc/net/if_inet6") else ()):
        checks.append(Check(finding.subject, State.WARNING, finding.reason))
    fit = not any(check.state is State.FAILED for check in checks)
    return NodeChecks(
        __version__, config.node_name, os.uname().release, fit, tuple(checks), decision, found, own.timeouts, own.arp
    )


def neighbour_checks(config: Config, saved: SavedRules, mode: Mode, translated: bool) -> Iterator[Check]:
    """Check which other programs and tables packets to Services pass through.

    saved: what iptables-save prints. mode: the variant of iptables that holds our rules. translated: whether Services
    are served by rules of nat, rather than at local addresses.
    """
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
        what = "its chain KUBE-PROXY-CANARY exists: it runs here, or ran and left its rules"
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


def _reuse(decision: ConnReuse) -> Check:
    value = "absent" if decision.value is None else str(decision.value)
    state = State.OK if decision.wanted in (None, decision.value) else State.TO_DO
    if decision.wanted is None and decision.value == 0:
        state = State.WARNING
    return Check("conn_reuse_mode", state, f"{value} on kernel {decision.kernel}; {decision.reason}")
