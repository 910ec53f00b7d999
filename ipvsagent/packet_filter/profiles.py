"""Defines which packet rules each backend needs, and what they depend on."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from ipvsagent.address import Family
from ipvsagent.config import Config
from ipvsagent.kernel.iptables.chains import is_servers
from ipvsagent.kernel.iptables.rule_table import Feature
from ipvsagent.render.iptables.ipvs_rules import Detector, RuleOptions, rule_set
from ipvsagent.render.iptables.nat_rules import nat_rule_set
from ipvsagent.rows import TranslationRow
from ipvsagent.rows.packet_rules import INSIDE, RuleSet


class RuleProfile(Struct, frozen=True):
    """Describes the packet rules of one backend, and how they coexist with those of the other."""

    rules: Callable[[Family, RuleOptions, Config, Iterable[TranslationRow]], RuleSet]
    required: Mapping[Feature, str]
    """Features without which the rules cannot work, each with its kernel module."""
    is_others: Callable[[str], bool]
    """Returns whether a chain belongs to the other backend, which serves until this one does."""
    others_first: bool
    """Packets traverse the chains of the other backend before ours."""
    is_draining: Callable[[str], bool]
    """Returns whether connections of the other backend need a chain of it after it has stopped serving."""


def _chains_of(rules: RuleSet) -> frozenset[str]:
    return frozenset(chain.name for chain in rules.chains)


_BESIDE = _chains_of(rule_set(Family.IPV4, RuleOptions()))
_INSTEAD = _chains_of(nat_rule_set(Family.IPV4, RuleOptions()))
_BESIDE_FOR_NEW = ("IPVSAGENT-MARK-", "IPVSAGENT-SERVICES", INSIDE)
"""Chains that mark, drop or accept packets that begin a connection, before `INSTEAD_OF_IPVS` could translate them."""
BESIDE_IPVS = RuleProfile(
    lambda family, options, config, translations: rule_set(family, options, translations),
    {Feature.SET: "xt_set", Feature.IPVS: "xt_ipvs", Feature.CONNMARK: "xt_connmark"},
    is_others=lambda chain: chain in _INSTEAD or is_servers(chain),
    others_first=True,
    is_draining=lambda chain: False,
)
INSTEAD_OF_IPVS = RuleProfile(
    lambda family, options, config, translations: nat_rule_set(
        family, options, localhost=serves_localhost(config), drop_invalid=not config.conntrack_be_liberal
    ),
    {Feature.SET: "xt_set", Feature.CONNMARK: "xt_connmark"},
    is_others=lambda chain: chain in _BESIDE,
    others_first=False,
    is_draining=lambda chain: chain in _BESIDE and not chain.startswith(_BESIDE_FOR_NEW),
)


def serves_localhost(config: Config) -> bool:
    """Return whether node ports are served on 127.0.0.1, which `node_port_addresses` may exclude."""
    chosen = config.node_port_addresses
    loopback = not chosen or any(_has_loopback(text) for text in chosen)
    return config.localhost_node_ports and loopback


def families() -> tuple[Family, ...]:
    """Return the address families that this kernel has."""
    return (Family.IPV4, Family.IPV6) if Path("/proc/net/if_inet6").exists() else (Family.IPV4,)


def _has_loopback(text: str) -> bool:
    return text != "primary" and ipaddress.ip_address("127.0.0.1") in ipaddress.ip_network(text, strict=False)


def rule_options(
    config: Config,
    family: Family,
    *,
    random_fully: bool = True,
    self_match: bool = True,
) -> RuleOptions:
    """Return the options of one family. random_fully, self_match: whether iptables on this node supports them."""
    version = 6 if family is Family.IPV6 else 4
    detector = Detector(config.detect_local)
    return RuleOptions(
        masquerade_all=config.masquerade_all,
        masquerade_bit=config.masquerade_bit,
        detector=detector,
        interface=config.pod_interface,
        pods_known=detector is Detector.NODE_CIDR or any(n.version == version for n in config.cluster_cidrs),
        random_fully=random_fully,
        self_match=self_match,
    )
