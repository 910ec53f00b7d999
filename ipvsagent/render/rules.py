"""The packet rules beside IPVS: a constant number, whatever the Services; the sets of members.py carry the rest.

IPVS takes a packet in LOCAL_IN, after filter INPUT, or in LOCAL_OUT, before filter OUTPUT; what it forwards passes
POSTROUTING. Goals, and where each is met:

1. An answer finds its way back (`MASQ`): what would be answered past this node is masqueraded. The decision needs the
   Service's address, so it is taken in mangle INPUT or OUTPUT as a mark bit (`MARK-IN`, `MARK-OUT`) and carried out in
   nat POSTROUTING, where only the endpoint's address is left. An endpoint that reaches itself is found by comparing
   source and destination there, without a set of endpoints. Needs net.ipv4.vs.conntrack=1.
2. A Service address shows its Services and nothing of the host (`INPUT`, its second half).
3. loadBalancerSourceRanges hold against everybody: pods and clients in filter INPUT, this node's own processes in
   mangle OUTPUT, which is the last place that sees the address before IPVS takes the packet.
4. No endpoint: refused at once; TCP by a reset, because a bare ICMP error is rate limited and may be missed.
5. Default-drop policies do not break Services (`INPUT`, `FORWARD`, `OUTPUT`): only what IPVS has seen is let in.
6. Only our bits of a mark are ever touched, and only on packets to Services.
7. Clients on this node reach every endpoint of a Service with a Local policy, by the virtual server whose firewall mark
   the set LOCAL maps their packets to (`MARK-IN`, `MARK-OUT`). IPVS compares the whole mark, so a packet that has other
   bits set is left as it is. Clients outside get endpoints of this node or nothing (`INPUT`, with INNER).
8. internalTrafficPolicy Local: what has endpoints elsewhere alone is dropped, for clients on the node as well (SILENT).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct

from ipvsagent.address import Family
from ipvsagent.packet_rules import Chain, Jump, RuleSet
from ipvsagent.render.members import set_name

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

    pods_known: some network is in the POD set of this family. node_mark_mask: bits of marks that the set LOCAL maps to;
    0 = nothing is mapped. random_fully, self_match: what iptables here can do.
    """

    masquerade_all: bool = False
    masquerade_bit: int = 14
    detector: Detector = Detector.CLUSTER_CIDR
    interface: str = ""
    pods_known: bool = False
    node_mark_mask: int = 0
    random_fully: bool = True
    self_match: bool = True


def rule_set(family: Family, options: RuleOptions) -> RuleSet:
    chains = (
        Chain("mangle", "IPVSAGENT-MARK-IN", tuple(_mark_in(family, options))),
        Chain("mangle", "IPVSAGENT-MARK-OUT", tuple(_mark_out(family, options))),
        Chain("mangle", "IPVSAGENT-TRACK", tuple(_track(family, options))),
        Chain("nat", "IPVSAGENT-MASQ", tuple(_masq(family, options))),
        Chain("filter", "IPVSAGENT-INPUT", tuple(_input(family, options))),
        Chain("filter", "IPVSAGENT-HOST", tuple(_host(family))),
        Chain("filter", "IPVSAGENT-FORWARD", ("-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",)),
        Chain("filter", "IPVSAGENT-OUTPUT", tuple(_output(family))),
    )
    jumps = (
        Jump("mangle", "INPUT", "IPVSAGENT-MARK-IN"),
        Jump("mangle", "OUTPUT", "IPVSAGENT-MARK-OUT"),
        Jump("mangle", "POSTROUTING", "IPVSAGENT-TRACK"),
        Jump("nat", "POSTROUTING", "IPVSAGENT-MASQ"),
        Jump("filter", "INPUT", "IPVSAGENT-INPUT"),
        Jump("filter", "FORWARD", "IPVSAGENT-FORWARD"),
        Jump("filter", "OUTPUT", "IPVSAGENT-OUTPUT"),
    )
    return RuleSet(family, chains, jumps)


def _mark_in(family: Family, options: RuleOptions) -> Iterable[str]:
    """Packets of pods and of other hosts, on their way into IPVS."""
    mark = _mark(options)
    yield f"{in_set('EXTERNAL', family)} {mark}"
    yield f"{in_set('CLUSTER', family)} {_not_from_pods(family, options)}{mark}"
    if options.node_mark_mask:
        yield _map_mark(family, options, _from_pods(family, options))


def _mark_out(family: Family, options: RuleOptions) -> Iterable[str]:
    """Packets of this node's own processes."""
    mark = _mark(options)
    yield f"{in_set('LIMITED', family)} {not_in_set('RANGE', family, 'dst,dst,src')} -j DROP"
    yield f"{in_set('SILENT', family)} -m conntrack --ctstate NEW -j DROP"
    yield f"{in_set('EXTERNAL', family)} {mark}"
    if options.masquerade_all or options.interface:
        yield f"{in_set('CLUSTER', family)} {mark}"
    elif options.pods_known:
        yield f"{in_set('CLUSTER', family)} {not_in_set('POD', family, 'src')} {mark}"
    if options.node_mark_mask:
        yield _map_mark(family, options, "")


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


def _map_mark(family: Family, options: RuleOptions, clients: str) -> str:
    """Every packet, not only the first: IPVS may have forgotten a connection that conntrack still knows."""
    unmarked = f"-m mark --mark 0x0/{~options.node_mark_mask & 0xFFFFFFFF:#x}"
    local = set_name("LOCAL", family)
    return f"{in_set('LOCAL', family)} {clients}{unmarked} -j SET --map-set {local} dst,dst --map-mark"


def _track(family: Family, options: RuleOptions) -> Iterable[str]:
    """Behind IPVS. A pod of another node that was served as one of this node's would be answered past this node. What
    was marked for IPVS leaves the node without that mark."""
    yield f"-m ipvs --ipvs -j CONNMARK --set-xmark {bit_of(options)}"
    mask = options.node_mark_mask
    if not mask:
        return
    others = ~(mask | 1 << options.masquerade_bit) & 0xFFFFFFFF
    ours = f"-m ipvs --ipvs -m mark --mark 0x0/{others:#x} -m mark ! --mark 0x0/{mask:#x}"
    if options.pods_known and not options.interface:
        yield f"{ours} {in_set('POD', family, 'src')} {not_in_set('HOME', family, 'src')} {_mark(options)}"
    yield f"{ours} -j MARK --set-xmark 0x0/{mask:#x}"


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


def _input(family: Family, options: RuleOptions) -> Iterable[str]:
    new = "-m conntrack --ctstate NEW"
    empty, silent = in_set("EMPTY", family), in_set("SILENT", family)
    yield f"{in_set('LIMITED', family)} {not_in_set('RANGE', family, 'dst,dst,src')} -j DROP"
    yield f"-p tcp {empty} {new} -j REJECT --reject-with tcp-reset"
    yield f"{empty} {new} -j REJECT"
    yield f"{silent} {new} -j DROP"
    yield f"{in_set('INNER', family)} {from_outside(family, options)}{new} -j DROP"
    yield f"{in_set('SERVICE', family)} -j ACCEPT"
    yield f"{in_set('VIP', family, 'dst')} -j IPVSAGENT-HOST"
    yield f"-m connmark --mark {bit_of(options)} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"


def _output(family: Family) -> Iterable[str]:
    """What IPVS forwards, what a Service address answers by itself (ping, resets), and our ICMP refusals."""
    yield "-m ipvs --ipvs -j ACCEPT"
    yield f"{in_set('VIP', family, 'src')} -j ACCEPT"
    yield f"{in_set('SERVICE', family, 'src,src')} -j ACCEPT"
    yield f"-p {'ipv6-icmp' if family is Family.IPV6 else 'icmp'} -m conntrack --ctstate RELATED -j ACCEPT"


def _host(family: Family) -> Iterable[str]:
    """A Service address on a port that is no Service's: whatever listens on this host is not to be seen there."""
    if family is Family.IPV6:
        yield "-p ipv6-icmp -m icmp6 --icmpv6-type echo-request -j ACCEPT"
    else:
        yield "-p icmp -m icmp --icmp-type echo-request -j ACCEPT"
    yield "-p tcp -m conntrack --ctstate NEW -j REJECT --reject-with tcp-reset"
    yield "-m conntrack --ctstate NEW -j REJECT"


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
