"""The constant packet rules of the iptables backend: what holds for every Service, whatever its endpoints.

A packet that begins a connection to a Service passes nat PREROUTING (pods, other hosts) or OUTPUT (this node's
processes), where `DNAT` finds the Service's own chains (iptables.py); from then on it goes to an endpoint. Goals:

1. What is no Service's costs one look into a set, and no rule of ours decides on it.
2. Services are found through one of 64 buckets by the last bits of the address, not in one long chain.
3. An answer finds its way back: as in rules.py, with the mark decided before the translation and carried out, by
   `SNAT`, after it. An endpoint that reaches itself is found by comparing source and destination.
4. Without endpoints: refused at once; TCP by a reset, since ICMP errors are rate limited. A packet that is still
   addressed to a Service behind nat was not translated: `REFUSE` says why in table filter, and `NAT-DROP` drops in
   table mangle, where no accept of others comes first, what source ranges and Local policies keep out.
5. Default-drop policies do not break Services, and no other rule is overridden: the accepts (`NAT-ALLOW-IN`, `-FWD`,
   `-OUT`) stand directly before a chain's default. Connections that we translated carry our bit as a connection mark.
6. Only our bit of a mark is ever touched, and only on packets to Services.
"""

from __future__ import annotations

from collections.abc import Iterable

from ipvsagent.address import Family
from ipvsagent.render.iptables.ipvs_rules import (
    NEW,
    SELF_MATCH,
    RuleOptions,
    bit_of,
    denied_to_all,
    from_outside,
    in_set,
    not_in_set,
)
from ipvsagent.rows.nat_chains import BUCKETS, bucket_name
from ipvsagent.rows.packet_rules import Chain, Jump, Place, RuleSet

_ANSWER = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"


def nat_rule_set(
    family: Family, options: RuleOptions, *, localhost: bool = False, drop_invalid: bool = True
) -> RuleSet:
    """All constant rules of one family.

    localhost: node ports are served on 127.0.0.1, which takes net.ipv4.conf.all.route_localnet.

    drop_invalid: packets that conntrack can make nothing of are not forwarded.
    """
    localhost = localhost and family is Family.IPV4
    chains = (
        Chain("mangle", "IPVSAGENT-NAT-DROP", tuple(_drop(family, options, localhost))),
        Chain("mangle", "IPVSAGENT-NAT-DROP-OUT", tuple(denied_to_all(family))),
        Chain("nat", "IPVSAGENT-DNAT", tuple(_dnat(family, options, localhost))),
        Chain("nat", "IPVSAGENT-SNAT", tuple(_snat(family, options))),
        Chain("filter", "IPVSAGENT-NAT-IN", (f"{in_set('SERVICE', family)} {NEW} -j IPVSAGENT-REFUSE",)),
        Chain("filter", "IPVSAGENT-NAT-FWD", tuple(_forward(family, drop_invalid))),
        Chain("filter", "IPVSAGENT-REFUSE", tuple(_refuse(family))),
        Chain("filter", "IPVSAGENT-NAT-ALLOW-IN", (_translated(options), f"{in_set('SERVICE', family)} -j ACCEPT")),
        Chain("filter", "IPVSAGENT-NAT-ALLOW-FWD", (_translated(options), _ANSWER)),
        Chain("filter", "IPVSAGENT-NAT-ALLOW-OUT", tuple(_allow_out(family, options))),
    )
    jumps = (
        Jump("mangle", "INPUT", "IPVSAGENT-NAT-DROP"),
        Jump("mangle", "FORWARD", "IPVSAGENT-NAT-DROP"),
        Jump("mangle", "OUTPUT", "IPVSAGENT-NAT-DROP-OUT"),
        Jump("nat", "PREROUTING", "IPVSAGENT-DNAT"),
        Jump("nat", "OUTPUT", "IPVSAGENT-DNAT"),
        Jump("nat", "POSTROUTING", "IPVSAGENT-SNAT"),
        Jump("filter", "INPUT", "IPVSAGENT-NAT-IN"),
        Jump("filter", "FORWARD", "IPVSAGENT-NAT-FWD"),
        Jump("filter", "OUTPUT", "IPVSAGENT-NAT-IN"),
        Jump("filter", "INPUT", "IPVSAGENT-NAT-ALLOW-IN", Place.DEFAULT),
        Jump("filter", "FORWARD", "IPVSAGENT-NAT-ALLOW-FWD", Place.DEFAULT),
        Jump("filter", "OUTPUT", "IPVSAGENT-NAT-ALLOW-OUT", Place.DEFAULT),
    )
    return RuleSet(family, chains, jumps)


def from_pods(family: Family, options: RuleOptions) -> str:
    """Matches what pods send."""
    if options.interface:
        return f"-i {options.interface}"
    return in_set("POD" if options.pods_known else "HOME", family, "src")


def mark_to_masquerade(options: RuleOptions) -> str:
    return f"-j MARK --set-xmark {bit_of(options)}"


def _dnat(family: Family, options: RuleOptions, localhost: bool) -> Iterable[str]:
    mark = mark_to_masquerade(options)
    yield f"{not_in_set('SERVICE', family, 'dst,dst')} -j RETURN"
    if localhost:
        yield "-d 127.0.0.0/8 ! -s 127.0.0.0/8 -j RETURN"
    yield f"{in_set('LIMITED', family)} {not_in_set('RANGE', family, 'dst,dst,src')} -j RETURN"
    yield f"-j CONNMARK --set-xmark {bit_of(options)}"
    yield f"{in_set('EXTERNAL', family)} {mark}"
    cluster = in_set("CLUSTER", family)
    if options.masquerade_all:
        yield f"{cluster} {mark}"
    elif options.interface:
        yield f"{cluster} ! -i {options.interface} {mark}"
    elif options.pods_known:
        yield f"{cluster} {not_in_set('POD', family, 'src')} {mark}"
    for number in range(BUCKETS):
        last_bits = (
            f"::{number:x}/::{BUCKETS - 1:x}" if family is Family.IPV6 else f"0.0.0.{number}/0.0.0.{BUCKETS - 1}"
        )
        yield f"-d {last_bits} -j {bucket_name(number)}"


def _snat(family: Family, options: RuleOptions) -> Iterable[str]:
    """Only the first packet of a connection comes here."""
    target = "-j MASQUERADE" + (" --random-fully" if options.random_fully else "")
    bit = bit_of(options)
    yield f"-m connmark ! --mark {bit} -j RETURN"
    if options.self_match:
        yield f"-m conntrack --ctstate DNAT {SELF_MATCH[family]} {target}"
    yield f"-m mark ! --mark {bit} -j RETURN"
    yield f"-j MARK --set-xmark 0x0/{bit.partition('/')[2]}"
    yield target


def _translated(options: RuleOptions) -> str:
    return f"-m connmark --mark {bit_of(options)} -m conntrack --ctstate DNAT -j ACCEPT"


def _drop(family: Family, options: RuleOptions, localhost: bool) -> Iterable[str]:
    """Packets of pods and of other hosts, behind nat. The guard is kubelet's: with route_localnet, other hosts could
    reach what listens on 127.0.0.1 alone (CVE-2020-8558)."""
    if localhost:
        yield "-d 127.0.0.0/8 ! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
    yield f"{not_in_set('SERVICE', family, 'dst,dst')} -j RETURN"
    yield from denied_to_all(family)
    # Clients on the node are translated; while they are not yet, IPVS serves them still.
    yield f"{in_set('INNER', family)} {from_outside(family, options)}{NEW} -j DROP"


def _forward(family: Family, drop_invalid: bool) -> Iterable[str]:
    """An answer that is late, or out of its window, is INVALID and not translated back: it would reach the client from
    the pod's own address, and the reset that it is answered with ends the connection (kubernetes/kubernetes#74839)."""
    if drop_invalid:
        yield "-m conntrack --ctstate INVALID -j DROP"
    yield f"{in_set('SERVICE', family)} {NEW} -j IPVSAGENT-REFUSE"


def _allow_out(family: Family, options: RuleOptions) -> Iterable[str]:
    """The last two let our own refusals out."""
    yield _translated(options)
    yield f"{in_set('SERVICE', family, 'src,src')} -j ACCEPT"
    yield f"-p {'ipv6-icmp' if family is Family.IPV6 else 'icmp'} -m conntrack --ctstate RELATED -j ACCEPT"


def _refuse(family: Family) -> Iterable[str]:
    empty = in_set("EMPTY", family)
    yield f"-p tcp {empty} -j REJECT --reject-with tcp-reset"
    yield f"{empty} -j REJECT"
