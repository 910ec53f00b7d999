"""Describes each backend of the agent to the demo: how to read the kernel, and the claims specific to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from integration.demo.agent import Agent
from integration.demo.stage import Stage
from integration.lab import Lab, Namespace
from integration.lab.chains import translations
from integration.lab.ipvs import virtual_servers

# `TCP 10.96.0.1:443` -> `10.0.0.1:6443` -> weight
Programmed = dict[str, dict[str, int]]


class Backend(ABC):
    """name: as the agent's --backend has it. at_random: endpoints are chosen so, shares are even only in the long run.
    localhost: node ports are on 127.0.0.1, too.

    kernel, devices: what the kernel must have. programs: what must be on PATH. options: the agent's. rows: what the
    kernel has for addresses of Services. drained, drained_weight: how an endpoint is kept from new connections; None
    if it is not there any more.
    """

    name: ClassVar[str]
    kernel: ClassVar[str]
    devices: ClassVar[str]
    here: ClassVar[str]
    programs: ClassVar[tuple[str, ...]]
    options: ClassVar[tuple[str, ...]] = ()
    at_random: ClassVar[bool] = False
    localhost: ClassVar[bool] = False
    rows: ClassVar[str] = "virtual servers"
    none_left: ClassVar[str]
    drained: ClassVar[str]
    drained_weight: ClassVar[int | None]
    goes_on: ClassVar[str] = "the open connection goes on"

    def introduce(self, stage: Stage) -> None:  # noqa: B027
        """A line that tells somebody who knows IPVS what to expect."""

    @abstractmethod
    def trial(self, namespace: Namespace) -> str | None:
        """Returns why the backend does not work in a namespace, None if it does. Raises LabError if the kernel
        fails."""

    def prepare(self, lab: Lab) -> None:  # noqa: B027
        """Prepares the network for the backend before the agent starts."""

    @abstractmethod
    def programmed(self, node: Namespace) -> Programmed: ...

    @abstractmethod
    def compare_status(self, stage: Stage, node: Namespace, agent: Agent) -> None:
        """Claims that the usual tool shows the same as `ipvsagent status`."""


class Ipvs(Backend):
    name = "ipvs"
    kernel = "ip_vs"
    devices = "dummy"
    here = "ip_vs works here"
    programs = ("ip", "ipvsadm", "setpriv")
    none_left = "no virtual server is left"
    drained = "weight 0"
    drained_weight = 0

    def trial(self, namespace: Namespace) -> str | None:
        namespace.run("ipvsadm", "-A", "-t", "10.96.0.1:80", "-s", "rr")
        if "10.96.0.1:80" not in namespace.run("ipvsadm", "-Ln"):
            return "ip_vs took a virtual server and does not show it"
        namespace.ip(["link add trial type dummy"])
        return None

    def programmed(self, node: Namespace) -> Programmed:
        return {
            name: {place: real.weight for place, real in reals.items()} for name, reals in virtual_servers(node).items()
        }

    def compare_status(self, stage: Stage, node: Namespace, agent: Agent) -> None:
        theirs = _without_counters(node.run("ipvsadm", "-Ln"))
        ours = _without_counters(agent.status_like_ipvsadm())
        virtual = [line for line in theirs if not line.lstrip().startswith("->")][2:]
        stage.claim(
            "ipvsadm -Ln shows the same",
            theirs == ours,
            f"{len(virtual)} virtual servers, {len(theirs) - len(virtual) - 3} real servers",
        )


class Iptables(Backend):
    name = "iptables"
    kernel = "iptables and ipset"
    devices = "veth"
    here = "iptables and ipset work here, and IPVS is not used"
    programs = ("ip", "iptables", "iptables-save", "ip6tables-save", "iptables-restore", "ipset", "setpriv")
    options = ("--backend", "iptables")
    at_random = True
    localhost = True
    rows = "chains of Service addresses"
    none_left = "no chain of a Service is left"
    drained = "out of its Service's chain"
    drained_weight = None
    goes_on = "the open connection goes on, because conntrack remembers where to"

    def introduce(self, stage: Stage) -> None:
        stage.say("Backend iptables, for kernels without IPVS: Service addresses are chains of the nat table.")
        stage.say("Schedulers and ipvsadm have no part in it: endpoints are chosen at random; see iptables-save.")

    def trial(self, namespace: Namespace) -> str | None:
        rule = ["-p", "tcp", "-m", "statistic", "--mode", "random", "--probability", "0.5"]
        namespace.run("iptables", "-t", "nat", "-A", "OUTPUT", *rule, "-j", "DNAT", "--to-destination", "10.0.0.1:80")
        namespace.run("ipset", "create", "trial", "hash:ip,port,ip", "timeout", "1")
        namespace.run("iptables", "-A", "OUTPUT", "-m", "set", "--match-set", "trial", "src,dst,dst")
        if "10.0.0.1:80" not in namespace.run("iptables-save", "-t", "nat"):
            return "iptables took a rule and does not show it"
        namespace.ip(["link add trial type veth peer name trial1"])
        return None

    def prepare(self, lab: Lab) -> None:
        # Addresses of Services are on no device here, so the node needs some way there: its default route, as nodes
        # have it. The lab's say that there is none.
        lab.node.ip(f"route del unreachable {network}" for network in lab.topology.service_networks)

    def programmed(self, node: Namespace) -> Programmed:
        return {name: dict.fromkeys(places, 1) for name, places in translations(node).items()}

    def compare_status(self, stage: Stage, node: Namespace, agent: Agent) -> None:
        shown = {
            f"{one['protocol']} {_place(one)}": {_place(real) for real in one.get("real_servers", ())}
            for one in agent.status_document()["virtual_servers"]
        }
        there = translations(node)
        endpoints = sum(map(len, there.values()))
        stage.claim("iptables-save shows the same", shown == there, f"{len(there)} addresses, {endpoints} endpoints")


BACKENDS = {backend.name: backend for backend in (Ipvs(), Iptables())}


def _place(row: dict[str, object]) -> str:
    address = str(row["address"])
    return f"[{address}]:{row['port']}" if ":" in address else f"{address}:{row['port']}"


def _without_counters(listing: str) -> list[str]:
    """Returns the output of `ipvsadm -Ln` without connection counters, which change by themselves."""
    return [
        " ".join(words[:4] if words[:1] == ["->"] else words)
        for line in listing.splitlines()
        if (words := line.split())
    ]
