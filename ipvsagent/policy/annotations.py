"""Reads what the annotations of a Service and of Nodes ask for: scheduler, its flags, weights, drain timeout.

Ours are `ipvsagent.io/...`; kube-router's `kube-router.io/service.scheduler` and `.schedflags` are read where
ours are absent, so that its users can migrate without changing their Services. An annotation that is invalid makes a
finding, and is otherwise ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct

from ipvsagent.address import Address, parse_address
from ipvsagent.config import parse_duration
from ipvsagent.errors import ConfigError
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.policy.capabilities import IPVS, Capabilities
from ipvsagent.rows import SCHED1, SCHED2, SCHED3

SCHEDULER = "ipvsagent.io/scheduler"
FLAGS = "ipvsagent.io/scheduler-flags"
WEIGHTS = "ipvsagent.io/weights"
DRAIN_TIMEOUT = "ipvsagent.io/drain-timeout"
NODE_WEIGHT = "ipvsagent.io/weight"
KUBE_ROUTER_SCHEDULER = "kube-router.io/service.scheduler"
KUBE_ROUTER_FLAGS = "kube-router.io/service.schedflags"

LINUX_SCHEDULERS = frozenset(
    ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "fo", "ovf", "twos")
)
"""The schedulers of Linux up to 6.12 (net/netfilter/ipvs/Kconfig). Annotations may name these and the agent's own; they
are assumed to be available when there is no kernel to ask."""
RANDOM_SCHEDULERS = frozenset(("rr", "wrr"))
"""The schedulers that a backend without schedulers honours: a random choice gives each endpoint its share, too."""
MAX_WEIGHT = 65535
ONE_PACKET_FLAG = "ops"
_FLAG_BITS = {
    "sh-fallback": ("sh", SCHED1),
    "sh-port": ("sh", SCHED2),
    "mh-fallback": ("mh", SCHED1),
    "mh-port": ("mh", SCHED2),
    "flag-1": ("", SCHED1),
    "flag-2": ("", SCHED2),
    "flag-3": ("", SCHED3),
}
# A hashing scheduler without fallback refuses the clients of a real server at weight 0, so draining one endpoint would
# be an outage for them. mh-port is kube-proxy's choice for mh (pkg/proxy/ipvs/proxier.go).
_DEFAULT_FLAGS = {"sh": SCHED1, "mh": SCHED1 | SCHED2}


class Weight(Struct, frozen=True, gc=False):
    """Describes one clause of a weights annotation."""

    kind: str
    """address, node, zone or any"""
    value: str
    weight: int


class ServiceOverrides(Struct, frozen=True):
    """Holds the settings that the annotations of one Service override."""

    scheduler: str
    scheduler_flags: int
    one_packet: bool = False
    weights: tuple[Weight, ...] = ()
    drain_timeout: float | None = None
    """Seconds; None = the agent's."""
    findings: tuple[Finding, ...] = ()
    missing_scheduler: str = ""
    """The scheduler that an annotation names, if the kernel does not have it."""


SchedulerWorks = Callable[[str], bool]


def default_flags(scheduler: str) -> int:
    """Return the flags of a scheduler where no annotation sets any."""
    return _DEFAULT_FLAGS.get(scheduler, 0)


def read_annotations(
    subject: str,
    annotations: Mapping[str, str],
    default_scheduler: str,
    scheduler_works: SchedulerWorks,
    *,
    capabilities: Capabilities = IPVS,
) -> ServiceOverrides:
    """Return what the annotations of one Service override.

    subject: the Service, for findings. scheduler_works: whether this kernel has a scheduler of that name.
    A backend without schedulers gets wrr in place of any that it cannot imitate.
    """
    at_random = not capabilities.schedulers
    if at_random and default_scheduler not in RANDOM_SCHEDULERS:
        default_scheduler = "wrr"
    if not annotations:
        return ServiceOverrides(default_scheduler, default_flags(default_scheduler))
    findings: list[Finding] = []

    def report(annotation: str, reason: str) -> None:
        field = f"metadata.annotations[{annotation}]"
        findings.append(Finding(FindingKind.INVALID_ANNOTATION, subject, reason, field))

    missing = ""
    scheduler, source = _first(annotations, SCHEDULER, KUBE_ROUTER_SCHEDULER)
    if not scheduler:
        scheduler = default_scheduler
    elif at_random and scheduler not in RANDOM_SCHEDULERS:
        report(source, f"the iptables backend chooses at random, by weight; scheduler {scheduler!r} is not honoured")
        scheduler = "wrr"
    elif scheduler not in LINUX_SCHEDULERS and scheduler != default_scheduler:
        # Asking the kernel loads a module of that name, and any user that may edit a Service chooses the name.
        report(source, f"{scheduler[:40]!r} is not an IPVS scheduler of Linux; {default_scheduler} is used")
        scheduler = default_scheduler
    elif not scheduler_works(scheduler):
        report(source, f"this kernel has no IPVS scheduler {scheduler!r}; {default_scheduler} is used until it has")
        missing, scheduler = scheduler, default_scheduler
    words, source = _first(annotations, FLAGS, KUBE_ROUTER_FLAGS)
    flags, one_packet = default_flags(scheduler), False
    if words:
        flags = 0
        for word in (w.strip() for w in words.split(",")):
            owner, bit = _FLAG_BITS.get(word, ("", 0))
            if word == ONE_PACKET_FLAG and at_random:
                report(source, f"the iptables backend keeps UDP flows at their endpoint; {word!r} is not honoured")
            elif word == ONE_PACKET_FLAG:
                one_packet = True
            elif not bit or (owner and owner != scheduler):
                report(source, f"{word!r} is not a flag of scheduler {scheduler}; it is ignored")
            else:
                flags |= bit
        if one_packet and not flags and words.strip() == ONE_PACKET_FLAG:
            flags = default_flags(scheduler)
        if scheduler in _DEFAULT_FLAGS and not flags & SCHED1:
            report(source, f"without {scheduler}-fallback, clients of a draining endpoint are refused until it is gone")
    weights: tuple[Weight, ...] = ()
    if text := annotations.get(WEIGHTS, "").strip():
        try:
            weights = parse_weights(text)
        except ValueError as error:
            report(WEIGHTS, f"{error}; the whole annotation is ignored")
    drain_timeout = None
    if text := annotations.get(DRAIN_TIMEOUT, "").strip():
        try:
            drain_timeout = parse_duration(text)
        except ConfigError as error:
            report(DRAIN_TIMEOUT, f"{error}; the agent's drain timeout is used")
    return ServiceOverrides(scheduler, flags, one_packet, weights, drain_timeout, tuple(findings), missing)


def parse_weights(text: str) -> tuple[Weight, ...]:
    """Parse `10.1.0.7=0,node:a=10,zone:b=5,*=1`: the first clause that matches an endpoint gives its weight.

    Raises ValueError with a message for people.
    """
    clauses = []
    for clause in (c.strip() for c in text.split(",")):
        name, equals, number = clause.rpartition("=")
        name = name.strip()
        if not equals or not name:
            raise ValueError(f"{clause!r} is not of the form <address>|node:<name>|zone:<name>|*=<weight>")
        weight = parse_weight(number)
        kind, colon, value = name.partition(":")
        if name == "*":
            clauses.append(Weight("any", "", weight))
        elif colon and kind in ("node", "zone"):
            clauses.append(Weight(kind, value.strip(), weight))
        else:
            clauses.append(Weight("address", parse_address(name), weight))
    return tuple(clauses)


def parse_weight(text: str) -> int:
    """Parse a weight, 0 to 65535. Raises ValueError with a message for people."""
    text = text.strip()
    if not (text.isascii() and text.isdigit()) or int(text) > MAX_WEIGHT:
        raise ValueError(f"weight {text!r} is not a whole number from 0 to {MAX_WEIGHT}")
    return int(text)


def weight_of(weights: tuple[Weight, ...], node_weight: int | None, address: Address, node: str, zone: str) -> int:
    """Return the weight of one endpoint: that of the Service's first matching clause, or its Node's, or 1."""
    for clause in weights:
        if (
            clause.kind == "any"
            or (clause.kind == "address" and clause.value == address)
            or (clause.kind == "node" and clause.value == node)
            or (clause.kind == "zone" and clause.value == zone)
        ):
            return clause.weight
    return 1 if node_weight is None else node_weight


def _first(annotations: Mapping[str, str], *names: str) -> tuple[str, str]:
    """Return the value and the name of the first of these annotations that is not empty."""
    for name in names:
        if value := annotations.get(name, "").strip():
            return value, name
    return "", ""
