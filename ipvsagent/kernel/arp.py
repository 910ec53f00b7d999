"""Keeps the kernel from answering ARP for Service addresses, and for no others.

Linux answers for every local address on every interface, so with a load balancer address bound on all nodes each of
them would draw its traffic: what announces the address (MetalLB's speaker answers by itself, in user space) would be
one voice among many. kube-proxy's strictARP changes `conf/all`, and with it the answers for addresses that are none of
ours. Here two things together do it, whatever the number of Services:

* IPv4 addresses on our interface have scope host (addresses.py);
* `arp_ignore=3` on the interfaces of the LAN: the kernel answers there for all addresses but those of scope host
  (arp_ignore() in net/ipv4/arp.c).

`arp_announce=2` goes with it: else the node's own ARP requests carry the Service address of the packet that is waiting
as their sender, which teaches neighbours the wrong thing just as an answer does. Both are only ever raised, because the
kernel takes the larger one of an interface's and `conf/all`, and raised values of others stay.

IPv6 needs nothing: the kernel answers neighbour solicitations for an address on the interface that has it, and on no
other (ndisc_recv_ns() in net/ipv6/ndisc.c).
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from ipvsagent.address import Address
from ipvsagent.config import Network
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.kernel.pyroute import Link, links
from ipvsagent.kernel.sysctls import Setting, read_sysctl, write_sysctl

_SILENT = (1, 2, 3, 8)  # values of arp_ignore under which an address of scope host on another interface is not answered
_BEST_SOURCE = 2
_IGNORE_WHY = "the node would answer ARP for every Service address, and draw the traffic of all of them to itself"
_ANNOUNCE_WHY = "the node would name Service addresses as its own in ARP requests, and neighbours would believe it"


class Answers(Struct, frozen=True):
    """What one interface does about ARP for Service addresses.

    ignore, announce: the values in force, the larger one of the interface's and of `conf/all`.
    answers: the kernel answers for them there. names: it gives them as the sender of its requests.
    lan: the agent silences it, unless it is told not to.
    """

    interface: str
    ignore: int
    announce: int
    answers: bool
    names: bool
    lan: bool


def lan_interfaces(
    found: Iterable[Link], addresses: Mapping[Address, str], pods: Iterable[Network], own: str
) -> list[str]:
    """Interfaces by which other machines may ask who has an address: hardware, and what has an IPv4 address of the
    node, as bridges, bonds and VLANs do; not the ports of those, and not what leads to pods.

    addresses: the node's, with the interface of each. pods: where pods' addresses are. own: our interface.
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
    """The settings that keep these interfaces from answering. An interface that does not answer already, as where
    strictARP is set, gets none: a 3 would make it answer for more than it does."""
    settings = []
    for name in interfaces:
        if not _is_silent(name) or read_sysctl(_key(name, "ignore")) == 3:
            settings.append(Setting(_key(name, "ignore"), 3, _IGNORE_WHY, at_least=True, vital=False))
        if _in_force(name, "announce") < _BEST_SOURCE or read_sysctl(_key(name, "announce")) == _BEST_SOURCE:
            settings.append(Setting(_key(name, "announce"), _BEST_SOURCE, _ANNOUNCE_WHY, at_least=True, vital=False))
    return settings


def answers(found: Iterable[Link], lan: Iterable[str], own: str) -> list[Answers]:
    """Every interface that speaks ARP and is up, without ports of bridges and bonds."""
    silenced = set(lan)
    return [
        Answers(
            interface=link.name,
            ignore=_in_force(link.name, "ignore"),
            announce=_in_force(link.name, "announce"),
            answers=not _is_silent(link.name),
            names=_in_force(link.name, "announce") < _BEST_SOURCE,
            lan=link.name in silenced,
        )
        for link in found
        if link.ethernet and link.up and link.name != own and not link.master
    ]


class Raised:
    """What was raised, in a file, so that cleanup can put it back: `NAME BEFORE NOW` lines."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, settings: Iterable[Setting]) -> None:
        """Before they are set: those of single interfaces. What is noted already keeps its first value."""
        settings = [s for s in settings if s.at_least and s.name.startswith("net.ipv4.conf.")]
        lines = self._lines()
        known = {name for name, _, _ in lines}
        new = [(s.name, value, s.value) for s in settings if s.name not in known and not s.holds(value := _value(s))]
        if new:
            text = "".join(f"{name} {before} {after}\n" for name, before, after in [*lines, *new])
            with contextlib.suppress(OSError):  # then cleanup leaves them raised, which harms nobody
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._path.write_text(text)

    def restored(self) -> tuple[Finding, ...]:
        """As `restore`; what could not be put back is a finding."""
        try:
            self.restore()
        except OSError as error:
            names = ", ".join(name for name, _, _ in self._lines())
            reason = f"{names} cannot be put back to what it was before this agent ({error.strerror}); tried again"
            return (Finding(FindingKind.HOST, "sysctls", reason),)
        return ()

    def restore(self) -> None:
        """Puts back what is still as it was set. Raises OSError."""
        for name, before, after in self._lines():
            if read_sysctl(name) == after:
                write_sysctl(name, before)
        self._path.unlink(missing_ok=True)

    def _lines(self) -> list[tuple[str, int, int]]:
        try:
            words = [line.split() for line in self._path.read_text().splitlines()]
            return [(name, int(before), int(after)) for name, before, after in words]
        except (OSError, ValueError):
            return []


def lan_here(addresses: Mapping[Address, str], pods: Iterable[Network], own: str) -> list[str]:
    return lan_interfaces(links(), addresses, pods, own)


def _key(interface: str, what: str) -> str:
    return f"net.ipv4.conf.{interface.replace('.', '/')}.arp_{what}"


def _in_force(interface: str, what: str) -> int:
    """Linux takes the larger one (IN_DEV_MAXCONF, include/linux/inetdevice.h)."""
    return max(read_sysctl(_key(interface, what)) or 0, read_sysctl(_key("all", what)) or 0)


def _is_silent(interface: str) -> bool:
    return _in_force(interface, "ignore") in _SILENT


def _value(setting: Setting) -> int:
    return read_sysctl(setting.name) or 0
