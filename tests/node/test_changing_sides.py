"""From one backend to the other and back, under traffic: what was begun goes on, and what is new is not lost."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from integration.flows import network
from integration.flows.table import Case, read_table
from integration.lab import Lab, Load, Namespace, Servers, Target
from integration.lab.load import Conversation, Outcome, Report
from ipvsagent.cli import WOULD_CHANGE
from tests.support.agent_processes import Agents, executed
from tests.support.proxied_node import ProxiedNode, eventually

pytestmark = pytest.mark.kernel

LEFT = "IPVS: virtual servers, which this node used before, remain"


def chains(node: Namespace) -> set[str]:
    """Chains of ours, whatever the table."""
    lines = node.run("iptables-save").splitlines()
    return {line[1:].split()[0] for line in lines if line.startswith(":IPVSAGENT-")}


def test_cleanup_takes_what_both_left(place: ProxiedNode, agents: Agents, web: tuple[dict, dict, str]) -> None:
    document, pieces, address = web
    agents.wants(document, pieces)
    agents.in_sync("--backend", "ipvs").stop()
    with place.held(address, 1):
        agents.in_sync("--backend", "iptables").stop()
        assert place.saved() and "IPVSAGENT-DNAT" in chains(place.node)
        assert "Services are on iptables" in executed(place.node, agents.words("status")).stdout
        plan = executed(place.node, agents.words("plan", "--backend", "iptables"))
        assert plan.returncode == WOULD_CHANGE and LEFT in plan.stderr
        assert agents.end_of("cleanup", "--yes").wait() == 0
    assert not place.saved() and not chains(place.node)
    assert "IPVSAGENT" not in place.node.run("ipset", "list", "-n")
    assert "kube-ipvs0" not in place.node.run("ip", "-o", "link")
    assert not place.node.run("ip", "route", "show", "table", "local", "proto", "119")


# Every kind of connection: from pods, from outside and from this node's processes, to every kind of address, through
# translations where a Local policy needs them, in both families.

CLIENTS = ("pod", "outside", "node")
PLACES = [
    ("split", "ClusterIP"),
    ("split", "NodePort"),
    ("e-split", "LoadBalancer"),
    ("e-split", "ExternalIP"),
    ("e-split", "NodePort"),
    ("e-remote", "LoadBalancer"),
]
OPTIONS = ("--cluster-cidr", network.CLUSTER_CIDRS, "--allow-external-ips", network.EXTERNAL_IPS)
ROUTES = ("--route-mode", "--service-cidrs", network.SERVICE_CIDRS)


def _struck(report: Report) -> list[Outcome]:
    """Those that failed or lost a packet: a second SYN is sent after a second."""
    struck = [o for o in report.outcomes if o.failure or (o.sent_again and o.seconds > 0.9)]
    return sorted(struck, key=lambda o: o.begun)


class Sides:
    """Two nodes and what flows through the first of them, with the Services of the packet table.

    No client uses a port twice. IPVS tells connections by client and endpoint when the endpoint answers, so that of two
    from one port, to two Services with one endpoint, one gets the answers of both (ip_vs_conn_out_get of ip_vs_conn.c).
    """

    def __init__(self, make_agents: Callable[[Namespace], Agents]) -> None:
        self._table = read_table()
        self.lab = Lab(network.topology(bridged=False))
        self._servers = Servers()
        self._servers.add(self.lab, network.servers())
        self._ports = {client: itertools.count(20_000) for client in CLIENTS}
        self.lab.node.ip(f"route del unreachable {own}" for own in network.SERVICE_NETWORKS)
        self.agents = make_agents(self.lab.node)
        used = {name for name, _ in PLACES}
        services = [service for service in self._table.services if service.name in used]
        self.agents.writes("flows.json", network.documents(services))

    def close(self) -> None:
        self.agents.close()
        self._servers.close()
        self.lab.close()

    def targets(self, client: str) -> list[Target]:
        """Clients outside get nothing where all endpoints are elsewhere."""
        return [
            network.target(Case("", "", client, address, service, "TCP", 0, version, "", "", ""), self._table)
            for service, address in PLACES
            for version in (4, 6)
            if client != "outside" or service != "e-remote"
        ]

    def namespace(self, client: str) -> Namespace:
        return self.lab.at(network.ADDRESSES[network.CLIENTS.get(client, client)][0])

    @contextmanager
    def held(self) -> Iterator[Callable[[], list[str]]]:
        """Connections of every kind, each of which was answered; gives what finds out which of them are broken."""
        with ExitStack() as open_ones:
            made = {}
            for client in CLIENTS:
                for target in self.targets(client):
                    made[f"{client} {target}"] = Conversation(
                        self.namespace(client), target, timeout=5.0, port=next(self._ports[client])
                    )
                    open_ones.callback(made[f"{client} {target}"].close)

            def broken() -> list[str]:
                outcomes = {name: conversation.ask() for name, conversation in made.items()}
                return [f"{name}: {outcome.failure}" for name, outcome in outcomes.items() if outcome.failure]

            assert broken() == []
            yield broken

    @contextmanager
    def under_load(self, what: str) -> Iterator[None]:
        """New connections of every kind all the while. Some may lose a packet, or fail, at one moment and no other."""
        loads = {
            client: Load(self.namespace(client), self.targets(client), rate=12, timeout=8.0, ports=ports)
            for client, ports in self._ports.items()
        }
        try:
            yield
        finally:
            reports = {client: load.stop() for client, load in loads.items()}
        for client, report in reports.items():
            struck = _struck(report)
            gap = struck[-1].begun - struck[0].begun if struck else 0.0
            print(f"{what}: new connections from {client}: {report}; {len(struck)} lost a packet, within {gap:.3f} s")
            for o in struck:
                fate = o.failure or f"answered after {o.seconds:.2f} s"
                print(f"  {o.begun - report.outcomes[0].begun:.2f} s: {o.target}: {fate}")
        for report in reports.values():
            struck = _struck(report)
            assert report.answered
            assert not struck or struck[-1].begun - struck[0].begun < 0.5

    def chains(self) -> set[str]:
        return chains(self.lab.node)

    def left_of_ipvs(self) -> str:
        """What its backend has on the node, in the words of the node's own programs."""
        run = self.lab.node.run
        members = run("ipset", "list", "IPVSAGENT-VIP"), run("ipset", "list", "IPVSAGENT-6-VIP")
        return "".join(
            [
                run("ipvsadm", "-Sn"),
                run("sh", "-c", "ip -o address show dev kube-ipvs0 2>/dev/null; true"),
                *(run("ip", version, "route", "show", "table", "local", "proto", "119") for version in ("-4", "-6")),
                *(line for text in members for line in text.partition("Members:\n")[2:]),
                *(line for line in run("iptables-save").splitlines(True) if line.startswith(":IPVSAGENT-M")),
            ]
        )


@pytest.fixture
def sides(tmp_path) -> Iterator[Sides]:
    made = Sides(lambda namespace: Agents(namespace, tmp_path))
    yield made
    made.close()


def test_connections_of_every_kind_survive(sides: Sides, capsys) -> None:
    """With routes for cluster IPs and addresses for all others, so that both ways into IPVS are there."""
    agent = sides.agents.in_sync("--backend", "ipvs", *OPTIONS, *ROUTES)
    assert sides.left_of_ipvs() and "IPVSAGENT-DNAT" not in sides.chains()
    with ExitStack() as later:
        with sides.held() as broken:
            with sides.under_load("ipvs to iptables"):
                agent.stop()
                agent = sides.agents.in_sync("--backend", "iptables", *OPTIONS)
                agent.says(LEFT)
                time.sleep(2)
            assert broken() == []
            broken_on_iptables = later.enter_context(sides.held())
            assert broken() == []
        agent.stop()
        agent = sides.agents.in_sync("--backend", "iptables", "--drain-timeout", "1s", *OPTIONS)
        eventually(lambda: not sides.left_of_ipvs())
        assert broken_on_iptables() == []
        with sides.under_load("iptables to ipvs"):
            agent.stop()
            agent = sides.agents.in_sync("--backend", "ipvs", *OPTIONS, *ROUTES)
            eventually(lambda: "IPVSAGENT-DNAT" not in sides.chains())
            time.sleep(1)
        assert broken_on_iptables() == []
    assert not any("IPVSAGENT-S-" in chain or "NAT" in chain for chain in sides.chains())
    with sides.held() as broken:
        assert broken() == []
    with capsys.disabled():
        print(capsys.readouterr().out)
