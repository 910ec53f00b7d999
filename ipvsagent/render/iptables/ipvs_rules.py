"""Renders the constant packet rules that accompany IPVS. Their number does not depend on the Services, except for one
rule for each external address with a Local policy; what depends on Services is in the sets of render/set_members.py.

IPVS receives a packet in LOCAL_IN, after filter INPUT, or in LOCAL_OUT, before filter OUTPUT; the packets that it
forwards pass POSTROUTING. Goals, and where each is met:

1. Answers return through this node (`MASQ`): packets whose answers would bypass it are masqueraded. The decision needs
   the Service's address, so it is made in mangle INPUT or OUTPUT, recorded as a mark bit (`MARK-IN`, `MARK-OUT`), and
   applied in nat POSTROUTING, where only the endpoint's address is known. There an endpoint that connects to itself is
   recognized by comparing source and destination, without a set of endpoints. This needs net.ipv4.vs.conntrack=1.
2. A Service address exposes its Services and nothing of the host (`INPUT`, second half).
3. loadBalancerSourceRanges apply to all clients: to pods and outside clients in mangle INPUT, before any accept of
   others, and to this node's own processes in mangle OUTPUT, the last chain before the address is translated.
4. A Service without endpoints refuses at once; TCP by a reset, because a bare ICMP error is rate limited and may be
   missed.
5. Default-drop policies do not break Services (`ALLOW-IN`, `ALLOW-FWD`, `ALLOW-OUT`), and no other rule is overridden:
   packets enter these chains directly before a chain's default, and only where there is one. The bit as a connection
   mark, set before IPVS, shows which packets belong to a Service.
6. Only our bit of a mark is ever changed, and only on packets to Services. No mark selects a virtual server.
7. Clients on this node reach every endpoint of a Service with a Local policy: in nat PREROUTING and OUTPUT they are
   translated to a virtual server with all endpoints (`INSIDE`), which is the cluster IP, or a hidden port of it if the
   cluster IP has a Local policy itself. Outside clients only reach endpoints of this node (`MARK-IN`, with INNER).
8. With internalTrafficPolicy Local, packets to a Service whose endpoints are all on other nodes are dropped, including
   those of clients on this node (SILENT).
9. Redirections of local addresses by others (hostPort, `docker run -p`) do not capture Service traffic (`SERVICES`):
   an accept in nat precedes the rules of others, and it applies to members of SERVICE only.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct

from ipvsagent.address import Family
from ipvsagent.render.set_members import set_name
from ipvsagent.rows import TranslationRow
from ipvsagent.rows.packet_rules import INSIDE, Chain, Exemption, Jump, Place, RuleSet

NEW = "-m conntrack --ctstate NEW"
# Matches packets whose source is their destination: IPv4 at offsets 12 and 16, IPv6 the four words at 8 and 24.
_SELF_V4 = "6,32 0 0 12,7 0 0 0,32 0 0 16,29 0 1 0,6 0 0 65535,6 0 0 0"
_SELF_V6 = (
    "18,32 0 0 8,7 0 0 0,32 0 0 24,29 0 13 0,32 0 0 12,7 0 0 0,32 0 0 28,29 0 9 0,32 0 0 16,7 0 0 0,32 0 0 32,"
    "29 0 5 0,32 0 0 20,7 0 0 0,32 0 0 36,29 0 1 0,6 0 0 65535,6 0 0 0"
)
SELF_MATCH = {family: f'-m bpf --bytecode "{_SELF_V6 if family is Family.IPV6 else _SELF_V4}"' for family in Family}


class Detector(StrEnum):
    """Names the ways to recognize traffic of pods, as kube-proxy does (pkg/proxy/apis/config/types.go)."""

    CLUSTER_CIDR = "ClusterCIDR"
    NODE_CIDR = "NodeCIDR"
    BRIDGE_INTERFACE = "BridgeInterface"
    INTERFACE_NAME_PREFIX = "InterfaceNamePrefix"


class RuleOptions(Struct, frozen=True):
    """Holds what the constant rules of one family depend on."""

    masquerade_all: bool = False
    masquerade_bit: int = 14
    """From 0 to 31, in packet marks and connection marks."""
    detector: Detector = Detector.CLUSTER_CIDR
    interface: str = ""
    """The interface of an interface detector; a prefix ends in +."""
    pods_known: bool = False
    """The POD set of this family contains a network."""
    random_fully: bool = True
    """iptables on this node supports --random-fully."""
    self_match: bool = True
    """iptables on this node supports the match `bpf`."""


def rule_set(family: Family, options: RuleOptions, translations: Iterable[TranslationRow] = ()) -> RuleSet:
    """Return all rules of one family. translations: those of this family, in any order."""
    inside = tuple(row.rule for row in sorted(translations))
    chains = (
        Chain("mangle", "IPVSAGENT-MARK-IN", tuple(_mark_in(family, options))),
        Chain("mangle", "IPVSAGENT-MARK-OUT", tuple(_mark_out(family, options))),
        Chain("nat", "IPVSAGENT-SERVICES", tuple(_services(family, f"{from_pods(family, options)} "))),
        Chain("nat", "IPVSAGENT-SERVICES-OUT", tuple(_services(family, ""))),
        Chain("nat", INSIDE, inside, ordered=False),
        Chain("nat", "IPVSAGENT-MASQ", tuple(_masq(family, options))),
        Chain("filter", "IPVSAGENT-INPUT", tuple(_input(family))),
        Chain("filter", "IPVSAGENT-HOST", tuple(_host(family))),
        Chain("filter", "IPVSAGENT-ALLOW-IN", tuple(_allow_in(family, options))),
        Chain("filter", "IPVSAGENT-ALLOW-FWD", ("-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",)),
        Chain("filter", "IPVSAGENT-ALLOW-OUT", tuple(_allow_out(family, options))),
    )
    jumps = (
        Jump("mangle", "INPUT", "IPVSAGENT-MARK-IN"),
        Jump("mangle", "OUTPUT", "IPVSAGENT-MARK-OUT"),
        Jump("nat", "PREROUTING", "IPVSAGENT-SERVICES"),
        Jump("nat", "OUTPUT", "IPVSAGENT-SERVICES-OUT"),
        Jump("nat", "POSTROUTING", "IPVSAGENT-MASQ"),
        Jump("filter", "INPUT", "IPVSAGENT-INPUT"),
        Jump("filter", "INPUT", "IPVSAGENT-ALLOW-IN", Place.DEFAULT),
        Jump("filter", "FORWARD", "IPVSAGENT-ALLOW-FWD", Place.DEFAULT),
        Jump("filter", "OUTPUT", "IPVSAGENT-ALLOW-OUT", Place.DEFAULT),
    )
    return RuleSet(family, chains, jumps, tuple(_exemptions(family)))


def _exemptions(family: Family) -> Iterable[Exemption]:
    """Exempt Services from what kube-proxy denied when it last ran: its rules would refuse newer Services."""
    served = in_set("SERVICE", family)
    for chain in ("KUBE-IPVS-FILTER", "KUBE-PROXY-FIREWALL", "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES"):
        yield Exemption(chain, served)
    yield Exemption("KUBE-IPVS-OUT-FILTER", "-m ipvs --ipvs")


def denied_to_all(family: Family) -> Iterable[str]:
    """Drop what no client may reach, not even processes of this node: the packets outside loadBalancerSourceRanges, and
    those to a Local policy without an endpoint on this node."""
    yield f"{in_set('LIMITED', family)} {not_in_set('RANGE', family, 'dst,dst,src')} -j DROP"
    yield f"{in_set('SILENT', family)} {NEW} -j DROP"


def _mark_in(family: Family, options: RuleOptions) -> Iterable[str]:
    """Drop or mark packets of pods and of other hosts before IPVS receives them."""
    mark = _mark(options)
    yield f"{not_in_set('SERVICE', family, 'dst,dst')} -j RETURN"
    yield from denied_to_all(family)
    yield f"{in_set('INNER', family)} {from_outside(family, options)}{NEW} -j DROP"
    yield f"-j CONNMARK --set-xmark {bit_of(options)}"
    yield f"{in_set('EXTERNAL', family)} {mark}"
    translated = f"{in_set('CLUSTER', family)} {from_pods(family, options)} -m conntrack --ctstate DNAT"
    if options.pods_known and not options.interface:
        # An endpoint on another node would answer a pod of another node directly, bypassing this node.
        yield f"{translated} {not_in_set('HOME', family, 'src')} {mark}"
    yield f"{translated} -j RETURN"
    yield f"{in_set('CLUSTER', family)} {_not_from_pods(family, options)}{mark}"


def _mark_out(family: Family, options: RuleOptions) -> Iterable[str]:
    """Drop or mark packets of this node's own processes."""
    mark = _mark(options)
    yield f"{not_in_set('SERVICE', family, 'dst,dst')} -j RETURN"
    yield from denied_to_all(family)
    yield f"{in_set('HIDDEN', family)} {NEW} -j DROP"
    yield f"-j CONNMARK --set-xmark {bit_of(options)}"
    yield f"{in_set('EXTERNAL', family)} {mark}"
    if options.masquerade_all or options.interface:
        yield f"{in_set('CLUSTER', family)} {mark}"
    elif options.pods_known:
        yield f"{in_set('CLUSTER', family)} {not_in_set('POD', family, 'src')} {mark}"


def _services(family: Family, clients: str) -> Iterable[str]:
    """Leave connections to Services to IPVS, whatever other programs do with local addresses. clients: matches clients
    on this node; it ends in a space, or is empty to match all."""
    yield f"{not_in_set('SERVICE', family, 'dst,dst')} -j RETURN"
    # An untranslated packet can still be recognized by its address where it is dropped.
    yield f"{in_set('LIMITED', family)} {not_in_set('RANGE', family, 'dst,dst,src')} -j ACCEPT"
    yield f"{in_set('INSIDE', family)} {clients}-j {INSIDE}"
    yield "-j ACCEPT"


def _not_from_pods(family: Family, options: RuleOptions) -> str:
    """Return a match for the packets to a cluster IP that must be masqueraded; it ends in a space, or is empty to match
    all."""
    if options.masquerade_all:
        return ""
    if options.interface:
        return f"! -i {options.interface} "
    if options.pods_known:
        return not_in_set("POD", family, "src") + " "
    return in_set("VIP", family, "src") + " "


def from_pods(family: Family, options: RuleOptions) -> str:
    """Return a match for packets of pods."""
    if options.interface:
        return f"-i {options.interface}"
    return in_set("POD" if options.pods_known else "HOME", family, "src")


def from_outside(family: Family, options: RuleOptions) -> str:
    """Return a match for packets in mangle or filter INPUT that are not from pods; it ends in a space."""
    if options.interface:
        return f"! -i {options.interface} "
    return not_in_set("POD" if options.pods_known else "HOME", family, "src") + " "


def _masq(family: Family, options: RuleOptions) -> Iterable[str]:
    """Masquerade the first packet of a connection, the only one that passes nat, if it is marked. Answers are not
    changed."""
    target = masquerade_target(options)
    yield "-m ipvs ! --ipvs -j RETURN"
    yield "-m ipvs --ipvs --vdir REPLY -j RETURN"
    if options.self_match:
        yield f"{SELF_MATCH[family]} {target}"
    # The kernel chose the Service's address as the source for a process of this node; other nodes could not answer it.
    bit = bit_of(options)
    yield f"-m mark ! --mark {bit} {in_set('VIP', family, 'src')} {target}"
    yield from masquerade_marked(options)


def masquerade_target(options: RuleOptions) -> str:
    return "-j MASQUERADE" + (" --random-fully" if options.random_fully else "")


def masquerade_marked(options: RuleOptions) -> Iterable[str]:
    """Clear our bit of the mark of marked packets, and masquerade them."""
    bit = bit_of(options)
    yield f"-m mark ! --mark {bit} -j RETURN"
    yield f"-j MARK --set-xmark 0x0/{bit.partition('/')[2]}"
    yield masquerade_target(options)


def _input(family: Family) -> Iterable[str]:
    empty = in_set("EMPTY", family)
    yield f"-p tcp {empty} {NEW} -j REJECT --reject-with tcp-reset"
    yield f"{empty} {NEW} -j REJECT"
    yield f"{in_set('HIDDEN', family)} -m conntrack ! --ctstate DNAT -j IPVSAGENT-HOST"
    yield f"{in_set('SERVICE', family)} -j RETURN"
    yield f"{in_set('VIP', family, 'dst')} -j IPVSAGENT-HOST"


def _host(family: Family) -> Iterable[str]:
    """Hide what listens on this host from Service addresses with a port that no Service has."""
    yield f"{_echo_request(family)} -j RETURN"
    yield "-p tcp -m conntrack --ctstate NEW -j REJECT --reject-with tcp-reset"
    yield "-m conntrack --ctstate NEW -j REJECT"


def _allow_in(family: Family, options: RuleOptions) -> Iterable[str]:
    """Accept requests, pings of Service addresses, and answers of endpoints to this node's own processes."""
    yield f"{in_set('SERVICE', family)} -j ACCEPT"
    yield f"{in_set('VIP', family, 'dst')} {_echo_request(family)} -j ACCEPT"
    yield _of_services(options)


def _of_services(options: RuleOptions) -> str:
    """Return a rule that accepts packets of connections to Services, except the first."""
    return f"-m connmark --mark {bit_of(options)} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"


def _allow_out(family: Family, options: RuleOptions) -> Iterable[str]:
    """Accept what IPVS forwards, what connection tracking forwards without it (all but the first packet of a translated
    client on this node), what a Service address answers by itself (pings, resets), and our ICMP refusals."""
    yield "-m ipvs --ipvs -j ACCEPT"
    yield _of_services(options)
    yield f"{in_set('VIP', family, 'src')} -j ACCEPT"
    yield from allow_refusals(family)


def allow_refusals(family: Family) -> Iterable[str]:
    """Accept our own refusals: resets, and ICMP errors."""
    yield f"{in_set('SERVICE', family, 'src,src')} -j ACCEPT"
    yield f"-p {'ipv6-icmp' if family is Family.IPV6 else 'icmp'} -m conntrack --ctstate RELATED -j ACCEPT"


def _echo_request(family: Family) -> str:
    if family is Family.IPV6:
        return "-p ipv6-icmp -m icmp6 --icmpv6-type echo-request"
    return "-p icmp -m icmp --icmp-type echo-request"


def _mark(options: RuleOptions) -> str:
    """Mark only packets that begin a connection: later ones do not pass nat, so their mark would leave the node."""
    return f"-m conntrack --ctstate NEW -j MARK --set-xmark {bit_of(options)}"


def bit_of(options: RuleOptions) -> str:
    bit = 1 << options.masquerade_bit
    return f"{bit:#x}/{bit:#x}"


def in_set(noun: str, family: Family, directions: str = "dst,dst") -> str:
    return f"-m set --match-set {set_name(noun, family)} {directions}"


def not_in_set(noun: str, family: Family, directions: str) -> str:
    return f"-m set ! --match-set {set_name(noun, family)} {directions}"
