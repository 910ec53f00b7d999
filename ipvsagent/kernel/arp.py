"""Chooses the settings that keep the kernel from answering ARP for Service addresses, and for no others.

Linux answers for every local address on every interface. If a load balancer address is bound on all nodes, each of them
would attract its traffic, in competition with whatever announces the address (MetalLB's speaker answers by itself, in
user space). kube-proxy's strictARP changes `conf/all`, and so the answers for addresses that are not ours. Here, two
things together have that effect, however many Services there are:

* IPv4 addresses on our interface have scope host (addresses.py);
* `arp_ignore=3` on the interfaces of the LAN: there, the kernel answers for all addresses except those of scope host
  (arp_ignore() in net/ipv4/arp.c).

`arp_announce=2` is needed as well. Otherwise the node's own ARP requests name as their sender the Service address of
the packet that is waiting, which misleads neighbours as an answer would. Both settings are only ever raised, because
the kernel uses the larger of the values of an interface and of `conf/all`. Values that others raised stay.

IPv6 needs no setting: the kernel answers neighbour solicitations for an address only on the interface that has it
(ndisc_recv_ns() in net/ipv6/ndisc.c).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from msgspec import Struct

from ipvsagent.address import Address
from ipvsagent.config import Network
from ipvsagent.kernel.links import Link
from ipvsagent.kernel.sysctls import Setting, read_sysctl

_SILENT = (1, 2, 3, 8)  # values of arp_ignore with which addresses of scope host are not answered
_BEST_SOURCE = 2
_IGNORE_WHY = "the node would answer ARP for every Service address, and attract the traffic of all of them"
_ANNOUNCE_WHY = "the node would name Service addresses as its own in ARP requests, and neighbours would learn them"


class Answers(Struct, frozen=True):
    """Describes what the kernel does on one interface about ARP for Service addresses."""

    interface: str
    ignore: int
    """The effective value: the larger of the interface's and of `conf/all`."""
    announce: int
    """The effective value, likewise."""
    answers: bool
    """Whether the kernel answers for Service addresses."""
    names: bool
    """Whether it names them as the sender of its own requests."""
    lan: bool
    """Whether the agent silences this interface, unless --answer-arp is set."""


def lan_interfaces(
    found: Iterable[Link], addresses: Mapping[Address, str], pods: Iterable[Network], own: str
) -> list[str]:
    """Return the interfaces on which other machines may ask for an address: hardware, and interfaces with an IPv4
    address of the node, such as bridges, bonds and VLANs. Their ports are not among them, nor are interfaces to pods.

    addresses: the node's, each with its interface. pods: the networks of pods. own: our interface.
    """
    networks = [network for network in pods if network.version == 4]
    with_address = {
        name
        for address, name in addresses.items()
        if ":" not in address and not any(ipaddress.ip_address(address) in network for network in networks)
    }
    all_links = list(found)
    kinds = {link.index: link.kind for link in all_links}
    return [
        link.name
        for link in all_links
        if link.ethernet
        and link.name != own
        and (not link.master or kinds.get(link.master) == "vrf")
        and (not link.kind or link.name in with_address)
    ]


def silence(interfaces: Iterable[str]) -> list[Setting]:
    """Return the settings that keep these interfaces from answering. An interface that is silent already, as with
    strictARP, needs none: with arp_ignore=3, it would answer for more addresses than now."""
    settings = []
    for name in interfaces:
        if not _is_silent(name) or read_sysctl(_key(name, "ignore")) == 3:
            settings.append(Setting(_key(name, "ignore"), 3, _IGNORE_WHY, at_least=True, vital=False))
        if _effective(name, "announce") < _BEST_SOURCE or read_sysctl(_key(name, "announce")) == _BEST_SOURCE:
            settings.append(Setting(_key(name, "announce"), _BEST_SOURCE, _ANNOUNCE_WHY, at_least=True, vital=False))
    return settings


def answers(found: Iterable[Link], lan: Iterable[str], own: str) -> list[Answers]:
    """Return what each interface answers that uses ARP and is up; ports of bridges and bonds are left out."""
    silenced = set(lan)
    return [
        Answers(
            interface=link.name,
            ignore=_effective(link.name, "ignore"),
            announce=_effective(link.name, "announce"),
            answers=not _is_silent(link.name),
            names=_effective(link.name, "announce") < _BEST_SOURCE,
            lan=link.name in silenced,
        )
        for link in found
        if link.ethernet and link.up and link.name != own and not link.master
    ]


def _key(interface: str, what: str) -> str:
    return f"net.ipv4.conf.{interface.replace('.', '/')}.arp_{what}"


def _effective(interface: str, what: str) -> int:
    """Return the effective value: the kernel uses the larger one (IN_DEV_MAXCONF, include/linux/inetdevice.h)."""
    return max(read_sysctl(_key(interface, what)) or 0, read_sysctl(_key("all", what)) or 0)


def _is_silent(interface: str) -> bool:
    return _effective(interface, "ignore") in _SILENT
