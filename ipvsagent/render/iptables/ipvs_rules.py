"""The packet rules beside IPVS: a constant number, whatever the Services, but for one for each external address with a
Local policy; the sets of members.py carry the rest.

IPVS takes a packet in LOCAL_IN, after filter INPUT, or in LOCAL_OUT, before filter OUTPUT; what it forwards passes
POSTROUTING. Goals, and where each is met:

1. An answer finds its way back (`MASQ`): what would be answered past this node is masqueraded. The decision needs the
   Service's address, so it is taken in mangle INPUT or OUTPUT as a mark bit (`MARK-IN`, `MARK-OUT`) and carried out in
   nat POSTROUTING, where only the endpoint's address is left. An endpoint that reaches itself is found by comparing
   source and destination there, without a set of endpoints. Needs net.ipv4.vs.conntrack=1.
2. A Service address shows its Services and nothing of the host (`INPUT`, its second half).
3. loadBalancerSourceRanges hold against everybody: pods and clients in mangle INPUT, where no accept of others comes
   first, and this node's own processes in mangle OUTPUT, the last place that sees the address before it is translated.
4. No endpoint: refused at once; TCP by a reset, because a bare ICMP error is rate limited and may be missed.
5. Default-drop policies do not break Services (`ALLOW-IN`, `ALLOW-FWD`, `ALLOW-OUT`), and no other rule is overridden:
   these chains are entered directly before a chain's default, and only where there is one. The bit as a connection
   mark, set before IPVS, shows what belongs to a Service.
6. Only our bit of a mark is ever touched, and only on packets to Services. No mark selects a virtual server.
7. Clients on this node reach every endpoint of a Service with a Local policy: in nat PREROUTING and OUTPUT they are
   translated to where IPVS has all of them (`INSIDE`), which is the cluster IP, or a hidden port of it where that has a
   Local policy itself. Clients outside get endpoints of this node or nothing (`MARK-IN`, with INNER).
8. internalTrafficPolicy Local: what has endpoints elsewhere alone is dropped, for clients on the node as well (SILENT).
9. Redirections of local addresses by others (hostPort, `docker run -p`) do not take Service traffic (`SERVICES`): its
   accept in nat is the one that comes before rules of others, and it is for members of SERVICE alone.
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
# Passes packets whose source is their destination: IPv4 at offsets 12 and 16, IPv6 the four words at 8 and 24.
_SELF_V4 = "6,32 0 0 12,7 0 0 0,32 0 0 16,29 0 1 0,6 0 0 65535,6 0 0 0"
_SELF_V6 = (
    "18,32 0 0 8,7 0 0 0,32 0 0 24,29 0 13 0,32 0 0 12,7 0 0 0,32 0 0 28,29 0 9 0,32 0 0 16,7 0 0 0,32 0 0 32,"
    "29 0 5 0,32 0 0 20,7 0 0 0,32 0 0 36,29 0 1 0,6 0 0 65535,6 0 0 0"
)
SELF_MATCH = {family: f'-m bpf --bytecode "{_SELF_V6 if family is Family.IPV6 else _SELF_V4}"' for family in Family}


class Detector(StrEnum):
    """How traffic of pods is told from other traffic; kube-proxy's names (pkg/proxy/apis/config/types.go)."""

    CLUSTER_CIDR = "ClusterCIDR"
    NODE_CIDR = "NodeCIDR"
    BRIDGE_INTERFACE = "BridgeInterface"
    INTERFACE_NAME_PREFIX = "InterfaceNamePrefix"


class RuleOptions(Struct, frozen=True):
    """masquerade_bit: 0 to 31, of both kinds of marks. interface: of the interface detectors; a prefix ends in +.

    pods_known: some network is in the POD set of this family. random_fully, self_match: what iptables here can do.
    """

    masquerade_all: bool = False
    masquerade_bit: int = 14
    detector: Detector = Detector.CLUSTER_CIDR
    interface: str = ""
    pods_known: bool = False
    random_fully: bool = True
    self_match: bool = True


def rule_set(family: Family, options: RuleOptions, translations: Iterable[TranslationRow] = ()) -> RuleSet:
    """All rules of one family. translations: those of this family, in any order."""
    inside = tuple(row.rule for row in sorted(translations))
    chains = (
        Chain("mangle", "IPVSAGENT-MARK-IN", tuple(_mark_in(family, options))),
        Chain("mangle", "IPVSAGENT-MARK-OUT", tuple(_mark_out(family, options))),
        Chain("nat", "IPVSAGENT-SERVICES", tuple(_services(family, _from_pods(family, options)))),
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
    """What kube-proxy denied when it ran last holds for the Services of that time; it would refuse new ones."""
    served = in_set("SERVICE", family)
    for chain in ("KUBE-IPVS-FILTER", "KUBE-PROXY-FIREWALL", "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES"):
        yield Exemption(chain, served)
    yield Exemption("KUBE-IPVS-OUT-FILTER", "-m ipvs --ipvs")


def denied_to_all(family: Family) -> Iterable[str]:
    """What holds against processes of this node, too: loadBalancerSourceRanges, and a Local policy without an endpoint
    here."""
    yield f"{in_set('LIMITED', family)} {not_in_set('RANGE', family, 'dst,dst,src')} -j DROP"
    yield f"{in_set('SILENT', family)} {NEW} -j DROP"


def _mark_in(family: Family, options: RuleOptions) -> Iterable[str]:
    """Packets of pods and of other hosts, on their way into IPVS."""
    mark = _mark(options)
    yield f"{not_in_set('SERVICE', family, 'dst,dst')} -j RETURN"
    yield from denied_to_all(family)
    yield f"{in_set('INNER', family)} {from_outside(family, options)}{NEW} -j DROP"
    yield f"-j CONNMARK --set-xmark {bit_of(options)}"
    yield f"{in_set('EXTERNAL', family)} {mark}"
    translated = f"{in_set('CLUSTER', family)} {_from_pods(family, options)}-m conntrack --ctstate DNAT"
    if options.pods_known and not options.interface:
        # A pod of another node would be answered past this node by an endpoint that is not here.
        yield f"{translated} {not_in_set('HOME', family, 'src')} {mark}"
    yield f"{translated} -j RETURN"
    yield f"{in_set('CLUSTER', family)} {_not_from_pods(family, options)}{mark}"


def _mark_out(family: Family, options: RuleOptions) -> Iterable[str]:
    """Packets of this node's own processes."""
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
    """What begins a connection to a Service goes to IPVS, whatever other programs do with local addresses. clients: a
    match of those who are on this node; ends in a space, or is empty for everybody."""
    yield f"{not_in_set('SERVICE', family, 'dst,dst')} -j RETURN"
    # Untranslated it is still known by its address where it is dropped.
    yield f"{in_set('LIMITED', family)} {not_in_set('RANGE', family, 'dst,dst,src')} -j ACCEPT"
    yield f"{in_set('INSIDE', family)} {clients}-j {INSIDE}"
    yield "-j ACCEPT"


def _not_from_pods(family: Family, options: RuleOptions) -> str:
    """Matches what is to be masqueraded on its way to a cluster IP; ends in a space, or is empty for everything."""
    if options.masquerade_all:
        return ""
    if options.interface:
        return f"! -i {options.interface} "
    if options.pods_known:
        return not_in_set("POD", family, "src") + " "
    return in_set("VIP", family, "src") + " "


def _from_pods(family: Family, options: RuleOptions) -> str:
    """Matches packets of pods; ends in a space."""
    if options.interface:
        return f"-i {options.interface} "
    return in_set("POD" if options.pods_known else "HOME", family, "src") + " "


def from_outside(family: Family, options: RuleOptions) -> str:
    """Matches the other packets that come into mangle or filter INPUT; ends in a space."""
    if options.interface:
        return f"! -i {options.interface} "
    return not_in_set("POD" if options.pods_known else "HOME", family, "src") + " "


def _masq(family: Family, options: RuleOptions) -> Iterable[str]:
    """Only the first packet of a connection comes here. Answers are left alone: they have their way back."""
    target = "-j MASQUERADE" + (" --random-fully" if options.random_fully else "")
    yield "-m ipvs ! --ipvs -j RETURN"
    yield "-m ipvs --ipvs --vdir REPLY -j RETURN"
    if options.self_match:
        yield f"{SELF_MATCH[family]} {target}"
    # The kernel chose the Service's address as the source of a process of this node: no other node could answer.
    bit = bit_of(options)
    yield f"-m mark ! --mark {bit} {in_set('VIP', family, 'src')} {target}"
    yield f"-m mark ! --mark {bit} -j RETURN"
    yield f"-j MARK --set-xmark 0x0/{bit.partition('/')[2]}"
    yield target


def _input(family: Family) -> Iterable[str]:
    empty = in_set("EMPTY", family)
    yield f"-p tcp {empty} {NEW} -j REJECT --reject-with tcp-reset"
    yield f"{empty} {NEW} -j REJECT"
    yield f"{in_set('HIDDEN', family)} -m conntrack ! --ctstate DNAT -j IPVSAGENT-HOST"
    yield f"{in_set('SERVICE', family)} -j RETURN"
    yield f"{in_set('VIP', family, 'dst')} -j IPVSAGENT-HOST"


def _host(family: Family) -> Iterable[str]:
    """A Service address on a port that is no Service's: whatever listens on this host is not to be seen there."""
    yield f"{_echo_request(family)} -j RETURN"
    yield "-p tcp -m conntrack --ctstate NEW -j REJECT --reject-with tcp-reset"
    yield "-m conntrack --ctstate NEW -j REJECT"


def _allow_in(family: Family, options: RuleOptions) -> Iterable[str]:
    """Requests, pings of Service addresses, and answers of endpoints to this node's own processes."""
    yield f"{in_set('SERVICE', family)} -j ACCEPT"
    yield f"{in_set('VIP', family, 'dst')} {_echo_request(family)} -j ACCEPT"
    yield _of_services(options)


def _of_services(options: RuleOptions) -> str:
    """Accepts packets of connections to Services, but for the first."""
    return f"-m connmark --mark {bit_of(options)} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"


def _allow_out(family: Family, options: RuleOptions) -> Iterable[str]:
    """What IPVS forwards, what connection tracking alone forwards of it (all but the first packet of a translated
    client on this node), what a Service address answers by itself (ping, resets), and our ICMP refusals."""
    yield "-m ipvs --ipvs -j ACCEPT"
    yield _of_services(options)
    yield f"{in_set('VIP', family, 'src')} -j ACCEPT"
    yield f"{in_set('SERVICE', family, 'src,src')} -j ACCEPT"
    yield f"-p {'ipv6-icmp' if family is Family.IPV6 else 'icmp'} -m conntrack --ctstate RELATED -j ACCEPT"


def _echo_request(family: Family) -> str:
    if family is Family.IPV6:
        return "-p ipv6-icmp -m icmp6 --icmpv6-type echo-request"
    return "-p icmp -m icmp --icmp-type echo-request"


def _mark(options: RuleOptions) -> str:
    """Only what begins a connection: nat looks at nothing else, and on later packets the mark would leave the node."""
    return f"-m conntrack --ctstate NEW -j MARK --set-xmark {bit_of(options)}"


def bit_of(options: RuleOptions) -> str:
    bit = 1 << options.masquerade_bit
    return f"{bit:#x}/{bit:#x}"


def in_set(noun: str, family: Family, directions: str = "dst,dst") -> str:
    return f"-m set --match-set {set_name(noun, family)} {directions}"


def not_in_set(noun: str, family: Family, directions: str) -> str:
    return f"-m set ! --match-set {set_name(noun, family)} {directions}"
