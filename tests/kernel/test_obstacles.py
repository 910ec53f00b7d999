"""Tables of other tools and variants in the way of Services, and that the command of each finding helps."""

from __future__ import annotations

import re
import shlex
import socket
from pathlib import Path

import pytest

from ipvsagent.address import Family
from ipvsagent.kernel.iptables import commands as iptables_tool
from ipvsagent.kernel.iptables.commands import Mode
from ipvsagent.kernel.neighbours import obstacles
from ipvsagent.kernel.neighbours.obstacles import ObstacleKind, find_obstacles, iptables_obstacles, nftables_obstacles
from ipvsagent.kernel.nftables.messages import BaseChain, Table
from tests.support.iptables import skip_unless_native

DATA = Path(__file__).parent.parent / "data" / "packet_filters"
BIT = 0x4000
WALL = Table("inet", "wall")


def dropping(hook: str, *, table: Table = WALL, priority: int = 0, name: str = "") -> BaseChain:
    return BaseChain(table, name or f"chain_{hook}", "filter", hook, priority, drops=True)


def commands(chains: list[BaseChain], *, translated: bool = False) -> list[str]:
    return [obstacle.command for obstacle in nftables_obstacles(chains, lambda table: {}, BIT, translated)]


def test_a_policy_of_another_table():
    assert commands([dropping("input")]) == [
        "Run `nft insert rule inet wall chain_input ct mark and 0x4000 == 0x4000 accept`"
    ]
    assert commands([dropping("forward")], translated=True) == [
        "Run `nft insert rule inet wall chain_forward ct status dnat accept`"
    ]


@pytest.mark.parametrize(
    "chain",
    [
        dropping("input", table=Table("ip", "filter"), name="INPUT"),
        dropping("input", table=Table("inet", "kube-proxy")),
        dropping("prerouting"),
        BaseChain(WALL, "open", "filter", "input", 0),
    ],
    ids=str,
)
def test_what_is_no_obstacle(chain):
    assert commands([chain]) == []


def test_a_chain_before_our_marks():
    (command,) = commands([dropping("input", priority=-200)])
    assert command.startswith("Give the chain a priority above -150")
    (command,) = commands([dropping("output", priority=-150)], translated=True)
    assert command.startswith("Give the chain a priority above -100")
    assert commands([dropping("input", priority=-200)], translated=True)[0].startswith("Run ")


def test_a_table_that_only_its_owner_may_change():
    chains = [dropping("input", table=Table("inet", name, owned=True)) for name in ("firewalld", "other")]
    firewalld, other = nftables_obstacles(chains, lambda table: {}, BIT, translated=False)
    assert "firewall-cmd --permanent --add-rich-rule" in firewalld.command and "nft insert" not in firewalld.remedy
    assert "the program that owns the table" in other.command


def test_the_other_variant_of_iptables():
    text = (DATA / "ufw-deny-4.rules").read_text()
    found = list(iptables_obstacles(text, Mode.LEGACY, Family.IPV4, BIT, translated=False))
    assert [(each.place, each.hook, each.command) for each in found] == [
        (
            "iptables-legacy, chain INPUT",
            "input",
            "Run `iptables-legacy -I INPUT -m connmark --mark 0x4000/0x4000 -j ACCEPT`",
        )
    ], "it accepts the answers that are forwarded"
    found = list(iptables_obstacles(text, Mode.LEGACY, Family.IPV6, BIT, translated=True))
    assert [each.command for each in found] == [
        f"Run `ip6tables-legacy -I {chain} -m conntrack --ctstate DNAT -j ACCEPT`" for chain in ("INPUT", "FORWARD")
    ]


def test_ports_that_the_other_variant_publishes():
    found = list(
        iptables_obstacles((DATA / "docker-4.rules").read_text(), Mode.NFT, Family.IPV4, BIT, translated=False)
    )
    assert [(each.kind, each.hook) for each in found] == [
        (ObstacleKind.DENIES, "forward"),
        (ObstacleKind.NAT, "prerouting"),
        (ObstacleKind.NAT, "output"),
    ]
    assert found[1].place == "iptables-nft, chain PREROUTING of table nat" and found[1].reason.startswith(
        "port 443 of every address"
    )


def test_ports_that_a_table_of_nftables_publishes(netns):
    skip_unless_native(Mode.NFT)
    netns.run("nft", "-f", str(DATA / "recorded.nft"))
    (found,) = [each for each in find_obstacles(Mode.NFT, bit=BIT) if each.kind is ObstacleKind.NAT]
    assert found.place == "table inet wall, chain published" and "ports 53, 8080 " in found.reason
    netns.run("nft", "-f", "-", stdin="table ip late { chain c { type nat hook output priority -90; redirect; }\n}\n")
    found = [each for each in find_obstacles(Mode.NFT, bit=BIT) if each.kind is ObstacleKind.NAT]
    assert len(found) == 2 and found[1].reason.startswith("ports of every address")
    # Our own translation comes before it, and settles the connection.
    found = [each for each in find_obstacles(Mode.NFT, bit=BIT, translated=True) if each.kind is ObstacleKind.NAT]
    assert [each.place for each in found] == ["table inet wall, chain published"]


def test_firewalld_without_and_with_the_command(netns):
    skip_unless_native(Mode.NFT)
    netns.run("nft", "-f", str(DATA / "firewalld-eth0.nft"))
    for mode in Mode:
        (found,) = find_obstacles(mode, bit=BIT)
        assert found.place == "table inet firewalld, chain filter_INPUT" and "filter_IN_public denies" in found.reason
        assert "`firewall-cmd --reload` removes it" in found.lasting and found.hook == "input"
        assert found.finding().subject == "packet rules" and found.reason in found.finding().reason
        assert find_obstacles(mode, bit=BIT, translated=True) == [], "it accepts what was translated"
    netns.run(*words_of(found.command))
    assert find_obstacles(Mode.NFT, bit=BIT) == []
    assert find_obstacles(Mode.NFT, bit=0x8000) == [found_with_other_bit(found)]


def found_with_other_bit(found: obstacles.Obstacle) -> obstacles.Obstacle:
    command = found.command.replace("0x4000", "0x8000")
    return obstacles.Obstacle(found.kind, found.place, found.hook, found.reason, command, found.lasting)


def words_of(command: str) -> list[str]:
    match = re.search("`(.*)`", command)
    assert match
    return shlex.split(match[1])


NFT_WALL = "table inet wall { chain input { type filter hook input priority 0; policy drop; }\n}\n"


@pytest.mark.parametrize("translated", [False, True])
@pytest.mark.parametrize("variant", [*Mode, None])
def test_the_command_lets_the_connections_of_services_through_and_no_others(netns, variant, translated):
    """variant: of the rules that are in the way; None: a table of nftables."""
    for mode in Mode:
        skip_unless_native(mode)
    ours = Mode.NFT if variant is Mode.LEGACY else Mode.LEGACY
    before = [f"iptables-{ours}", "-t", "mangle"]
    netns.run(*before, "-A", "OUTPUT", "-d", "127.0.0.2", "-j", "CONNMARK", "--set-xmark", f"{BIT:#x}/{BIT:#x}")
    if translated:
        to = ["-j", "DNAT", "--to-destination", "127.0.0.3"]
        netns.run(f"iptables-{ours}", "-t", "nat", "-A", "OUTPUT", "-d", "127.0.0.2", *to)
    assert find_obstacles(ours, bit=BIT, translated=translated) == []
    if variant is None:
        netns.run("nft", "-f", "-", stdin=NFT_WALL)
    else:
        netns.run(f"iptables-{variant}", "-P", "INPUT", "DROP")
    (found,) = find_obstacles(ours, bit=BIT, translated=translated)
    assert not gets_through("127.0.0.2") and not gets_through("127.0.0.1")
    netns.run(*words_of(found.command))
    assert find_obstacles(ours, bit=BIT, translated=translated) == []
    assert gets_through("127.0.0.2") and not gets_through("127.0.0.1")


def gets_through(address: str) -> bool:
    """A datagram to this namespace itself, which is there as soon as it is sent."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("0.0.0.0", 0))
        receiver.setblocking(False)
        sender.sendto(b"x", (address, receiver.getsockname()[1]))
        try:
            return receiver.recv(1) == b"x"
        except BlockingIOError:
            return False


def test_looking_makes_no_table_of_legacy(netns):
    skip_unless_native(Mode.LEGACY)
    assert find_obstacles(Mode.NFT, bit=BIT) == []
    assert Path("/proc/net/ip_tables_names").read_text() == Path("/proc/net/ip6_tables_names").read_text() == ""


def test_nothing_is_found_without_nf_tables_and_without_iptables(netns, monkeypatch):
    monkeypatch.setattr(iptables_tool, "_PATH", "/nowhere")
    monkeypatch.setattr(obstacles, "_LEGACY_TABLES", {family: Path("/nowhere/names") for family in Family})
    monkeypatch.setattr("ipvsagent.kernel.nftables.tables.NETLINK_NETFILTER", 31)  # a protocol that no kernel has
    for mode in Mode:
        assert find_obstacles(mode, bit=BIT) == []
