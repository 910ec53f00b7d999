"""Chains of virtual servers: what cannot be seen from packets in a reasonable time."""

from __future__ import annotations

from ipvsagent.address import Address, Family
from ipvsagent.model import Frontend, Protocol, RealServer, ServicePortName, VirtualServer, VirtualServerId
from ipvsagent.render.iptables.ipvs_rules import RuleOptions
from ipvsagent.render.iptables.nat_chains import IptablesRenderer
from ipvsagent.rows.nat_chains import ChainsRow

RENDERER = IptablesRenderer({family: RuleOptions() for family in Family})


def chains(endpoints: int) -> ChainsRow:
    server = VirtualServer(
        id=VirtualServerId(Protocol.TCP, Address("10.96.0.1"), 80),
        service=ServicePortName("shop", "web", "http"),
        frontend=Frontend.CLUSTER_IP,
        scheduler="rr",
        persistence_timeout=600,
        real_servers=tuple(RealServer(Address(f"10.244.{n // 250}.{n % 250 + 1}"), 8080) for n in range(endpoints)),
    )
    (row,) = RENDERER.rows(server)
    assert isinstance(row, ChainsRow)
    return row


def sets_of_endpoints(row: ChainsRow) -> dict[str, str]:
    """By the endpoint, where its clients are remembered."""
    found = {}
    for chain in row.chains:
        for remember, translate in zip(chain.rules, chain.rules[1:], strict=False):
            if "--add-set" in remember.text:
                found[translate.text.split("--to-destination ")[1].split()[0]] = remember.text.split()[3]
    return found


def test_the_clients_of_every_endpoint_are_remembered_apart() -> None:
    few, many = sets_of_endpoints(chains(256)), sets_of_endpoints(chains(600))
    assert len(few) == len(set(few.values())) == 256
    assert len(many) == len(set(many.values())) == 600
    assert max(map(len, many.values())) < 32  # IPSET_MAXNAMELEN with its end
