"""Renders the constant packet rules of the iptables backend, which apply to every Service, whatever its endpoints.

A packet that begins a connection to a Service passes nat PREROUTING (pods, other hosts) or OUTPUT (this node's
processes), where `DNAT` leads to the Service's own chains (nat_chains.py); after that its destination is an endpoint.
Goals, and how each is met:

1. A packet that is not for a Service costs one lookup in a set, and no rule of ours decides on it.
2. Services are found through one of 64 buckets by the last bits of the address, not in one long chain.
3. Answers return through this node as in ipvs_rules.py; the mark is set before the translation and applied by `SNAT`
   after it. An endpoint that connects to itself is recognized by comparing source and destination.
4. A Service without endpoints refuses at once; TCP by a reset, since ICMP errors are rate limited. A packet that is
   still addressed to a Service after nat was not translated: `REFUSE` refuses it in table filter, unless `NAT-DROP`
   dropped it in table mangle, before any accept of others, because of source ranges or a Local policy.
5. Default-drop policies do not break Services, and no other rule is overridden: packets enter the chains that accept
   (`NAT-ALLOW-IN`, `-FWD`, `-OUT`) directly before a chain's default. Connections that we translated carry our bit as a
   connection mark.
6. Only our bit of a mark is ever changed, and only on packets to Services.
"""

from __future__ import annotations

from collections.abc import Iterable

from ipvsagent.address import Family
from ipvsagent.render.iptables.ipvs_rules import (
    NEW,
    SELF_MATCH,
    RuleOptions,
    allow_refusals,
    bit_of,
    denied_to_all,
    from_outside,
    in_set,
    masquerade_marked,
    masquerade_target,
    not_in_set,
)
from ipvsagent.rows.nat_chains import BUCKETS, bucket_name
from ipvsagent.rows.packet_rules import Chain, Jump, Place, RuleSet

_ANSWER = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"


def nat_rule_set(
    family: Family, options: RuleOptions, *, localhost: bool = False, drop_invalid: bool = True
) -> RuleSet:
    """Return all constant rules of one family.

    localhost: node ports are served on 127.0.0.1, which needs net.ipv4.conf.all.route_localnet.

    drop_invalid: packets that conntrack considers invalid are not forwarded.
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
    """Masquerade the first packet of a connection, the only one that passes nat, if it is marked."""
    yield f"-m connmark ! --mark {bit_of(options)} -j RETURN"
    if options.self_match:
        yield f"-m conntrack --ctstate DNAT {SELF_MATCH[family]} {masquerade_target(options)}"
    yield from masquerade_marked(options)


def _translated(options: RuleOptions) -> str:
    return f"-m connmark --mark {bit_of(options)} -m conntrack --ctstate DNAT -j ACCEPT"


def _drop(family: Family, options: RuleOptions, localhost: bool) -> Iterable[str]:
    """Drop packets of pods and of other hosts after nat. The first rule is kubelet's guard: with route_localnet, other
    hosts could reach what listens on 127.0.0.1 only (CVE-2020-8558)."""
    if localhost:
        yield "-d 127.0.0.0/8 ! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
    yield f"{not_in_set('SERVICE', family, 'dst,dst')} -j RETURN"
    yield from denied_to_all(family)
    # Connections of clients on the node are translated; until the chains for that exist, IPVS still serves them.
    yield f"{in_set('INNER', family)} {from_outside(family, options)}{NEW} -j DROP"


def _forward(family: Family, drop_invalid: bool) -> Iterable[str]:
    """Drop answers that conntrack considers INVALID because they are late or out of the window. They are not translated
    back, so they would reach the client from the pod's address, and the client's reset would end the connection
    (kubernetes/kubernetes#74839)."""
    if drop_invalid:
        yield "-m conntrack --ctstate INVALID -j DROP"
    yield f"{in_set('SERVICE', family)} {NEW} -j IPVSAGENT-REFUSE"


def _allow_out(family: Family, options: RuleOptions) -> Iterable[str]:
    yield _translated(options)
    yield from allow_refusals(family)


def _refuse(family: Family) -> Iterable[str]:
    empty = in_set("EMPTY", family)
    yield f"-p tcp {empty} -j REJECT --reject-with tcp-reset"
    yield f"{empty} -j REJECT"
