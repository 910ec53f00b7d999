"""What the table of virtual servers on iptables promises: in the fake, and with both kinds of iptables and families."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from ipvsagent.address import Address, Family
from ipvsagent.kernel.fake.kernel import FakeKernel
from ipvsagent.kernel.fake.rules import FakeRuleTool, server_rules
from ipvsagent.kernel.ipset.client_sets import ClientSets
from ipvsagent.kernel.ipset.table import SetTable
from ipvsagent.kernel.iptables import server_chains as iptables_servers
from ipvsagent.kernel.iptables.chains import real_servers_of
from ipvsagent.kernel.iptables.commands import Mode, RulesRefused, Variant
from ipvsagent.kernel.iptables.kernel_rules import KernelRules
from ipvsagent.kernel.iptables.rule_table import RuleTable
from ipvsagent.kernel.iptables.server_chains import ServerChains, ServerRules
from ipvsagent.model import Frontend, Protocol, RealServer, ServicePortName, VirtualServer, VirtualServerId
from ipvsagent.render.iptables.ipvs_rules import RuleOptions
from ipvsagent.render.iptables.nat_chains import IptablesRenderer
from ipvsagent.render.iptables.nat_rules import nat_rule_set
from ipvsagent.render.set_members import set_specs
from ipvsagent.rows import Op, SetSpec, Verb
from ipvsagent.rows.nat_chains import ChainsRow
from ipvsagent.rows.packet_rules import Chain, RuleSet
from tests.support.iptables import GUEST, NATIVE, skip_unless_native

OPTIONS = {family: RuleOptions(pods_known=True) for family in Family}
RENDERER = IptablesRenderer(OPTIONS)
ADD, SET, DELETE = Verb.ADD, Verb.SET, Verb.DELETE


class Table:
    """The table of one family, its constant rules, and a way to look with iptables itself."""

    def __init__(self, servers: ServerRules) -> None:
        self.servers = servers
        self.rules = rules = servers.tables[0]
        self.tool = rules.kernel.tool
        self.constant: RuleSet = nat_rule_set(rules.family, OPTIONS[rules.family])

    def ensure(self) -> None:
        if self.rules.verify(self.constant):
            self.rules.apply(self.constant)

    def server(self, number: int, reals: int = 2, **changes: object) -> VirtualServer:
        v6 = self.rules.family is Family.IPV6
        server = VirtualServer(
            id=VirtualServerId(Protocol.TCP, Address(f"fd00:96::{number:x}" if v6 else f"10.96.0.{number}"), 80),
            service=ServicePortName("shop", f"web-{number}", "http"),
            frontend=Frontend.CLUSTER_IP,
            scheduler="wrr",
            real_servers=tuple(
                RealServer(Address(f"fd00:1::{n:x}" if v6 else f"10.244.1.{n}"), 8080) for n in range(1, reals + 1)
            ),
        )
        return replace(server, **changes)

    def write(self, verb: Verb, *servers: VirtualServer) -> list[VirtualServerId]:
        """Those that were refused."""
        ops = [Op(verb, row) for server in servers for row in RENDERER.rows(server)]
        return [failure.op.row.id for failure in self.servers.write(ops)]  # type: ignore[union-attr]

    def rows(self) -> dict[VirtualServerId, ChainsRow]:
        return self.servers.chains[self.rules.family].rows()

    def read_again(self) -> dict[VirtualServerId, ChainsRow]:
        """What somebody who remembers nothing reads."""
        return ServerChains(KernelRules(self.rules.family, self.rules.variant, tool=self.tool)).rows()

    def tells(self, *servers: VirtualServer) -> bool:
        """Whether somebody who remembers nothing reads back exactly these."""
        return self.read_again() == {server.id: RENDERER.rows(server)[0] for server in servers}


def real_server_rules(family: Family, mode: Mode, clients: ClientSets) -> ServerRules:
    return ServerRules([ServerChains(KernelRules(family, Variant(mode, "the test says so")), clients.make)])


@pytest.fixture(params=["fake", *NATIVE, *GUEST])
def table(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Table]:
    monkeypatch.setattr(iptables_servers, "_READ_PAUSE", 0.0)
    if request.param == "fake":
        kernel = FakeKernel()
        kernel.sets.ensure(set_specs())
        made = Table(server_rules(kernel))
        made.ensure()
        yield made
        return
    mode, family = request.param
    if "guest" not in request.node.callspec.id:
        skip_unless_native(mode)
    request.getfixturevalue("netns")
    sets, clients = SetTable(), ClientSets()
    sets.ensure(set_specs())
    made = Table(real_server_rules(family, mode, clients))
    made.ensure()
    yield made
    made.rules.close()
    clients.close()
    sets.close()


def test_what_is_written_is_read_back_exactly(table: Table) -> None:
    some = [table.server(1), table.server(2, 3, persistence_timeout=600), table.server(65, 0), table.server(3, 40)]
    local = table.server(4, 1, node_real_servers=table.server(4, 3).real_servers, persistence_timeout=60)
    weights = tuple(replace(real, weight=n) for n, real in enumerate(table.server(5, 4).real_servers))
    weighted = table.server(5, real_servers=weights)
    assert table.write(ADD, *some, local, weighted) == []
    assert table.tells(*some, local, weighted)
    rows = table.rows()
    assert [weight for _, _, weight in real_servers_of(rows[weighted.id])] == [1, 2, 3]
    assert len(real_servers_of(rows[some[1].id])) == 3


@pytest.mark.parametrize("options", [RuleOptions(), RuleOptions(pods_known=True), RuleOptions(interface="cali+")])
def test_endpoints_for_clients_outside_are_told_from_the_others(table: Table, options: RuleOptions) -> None:
    reals = table.server(1, 3).real_servers
    local = table.server(1, real_servers=reals[:1], node_real_servers=reals)
    elsewhere = table.server(2, real_servers=(), node_real_servers=reals, persistence_timeout=60)
    renderer = IptablesRenderer(dict.fromkeys(Family, options))
    assert table.servers.write([Op(ADD, row) for server in (local, elsewhere) for row in renderer.rows(server)]) == []
    rows = table.read_again()
    assert [address for address, _, _ in real_servers_of(rows[local.id])] == [reals[0].address]
    assert {address for address, _, _ in real_servers_of(rows[elsewhere.id])} == {real.address for real in reals}


def test_changes_and_deletions(table: Table) -> None:
    table.write(ADD, table.server(1, 3, persistence_timeout=60), table.server(2), table.server(66))
    renamed = table.server(2, service=ServicePortName("shop", "other", ""))
    assert table.write(SET, table.server(1, 2), renamed) == []
    assert table.tells(table.server(1, 2), renamed, table.server(66))
    assert table.write(DELETE, table.server(1, 2), table.server(99)) == []
    assert table.tells(renamed, table.server(66))


def test_own_writes_are_no_changes_of_others(table: Table) -> None:
    assert not table.rules.changed()
    table.write(ADD, table.server(1), table.server(2))
    table.write(DELETE, table.server(1))
    assert not table.rules.changed()
    table.tool.restore(f"*nat\n-A {RENDERER.rows(table.server(2))[0].chains[0].name} -j RETURN\nCOMMIT\n")
    assert table.rules.changed()
    table.ensure()
    assert table.servers.take_externally_modified() == {table.server(2).id}
    assert table.servers.take_externally_modified() == set()
    assert table.write(SET, table.server(2)) == []
    assert table.tells(table.server(2))


def test_a_bad_one_keeps_no_other_out(table: Table) -> None:
    v6 = table.rules.family is Family.IPV6
    wrong = RealServer(Address("10.1.1.1" if v6 else "fd00::1"), 80)  # of the other family
    if isinstance(table.tool, FakeRuleTool):
        table.tool.refuses = lambda line: str(wrong.address) in line
    good = [table.server(number) for number in range(1, 9)]
    bad = [table.server(number, real_servers=(wrong,)) for number in (20, 21)]
    assert set(table.write(ADD, *good[:4], bad[0], *good[4:], bad[1])) == {server.id for server in bad}
    assert table.tells(*good)


def test_rules_are_counted_and_so_are_writes_that_are_refused(table: Table) -> None:
    failed: list[bool] = []
    table.rules.kernel.failed = failed.append

    def in_kernel() -> dict[str, int]:
        sections = {text.partition("\n")[0]: text for text in table.tool.save().split("*")}
        return {name: sections.get(name, "").count("\n-A IPVSAGENT-") for name in ("mangle", "nat", "filter")}

    assert table.rules.counts().held == in_kernel()
    table.write(ADD, table.server(1, 3, persistence_timeout=60), table.server(2))
    assert table.rules.counts().held == in_kernel() and not failed
    table.write(SET, table.server(2, 5))
    assert table.rules.counts().written == {"mangle": 0, "nat": 5, "filter": 0}
    table.write(DELETE, table.server(1))
    assert table.rules.counts().held == in_kernel() and not failed
    assert in_kernel()["nat"] == sum(len(chain.rules) for chain in table.constant.chains_of("nat")) + 1 + 5

    wrong = RealServer(Address("10.1.1.1" if table.rules.family is Family.IPV6 else "fd00::1"), 80)
    if isinstance(table.tool, FakeRuleTool):
        table.tool.refuses = lambda line: str(wrong.address) in line
    before = table.rules.counts()
    table.write(ADD, table.server(3, real_servers=(wrong,)))
    assert failed == [True] and table.rules.counts() == before
    with pytest.raises(RulesRefused):
        table.rules.apply(replace(table.constant, chains=(Chain("filter", "IPVSAGENT-NAT-IN", ("-j NONE",)),)))
    assert failed == [True, False]


def test_somebody_took_a_chain_away_meanwhile(table: Table) -> None:
    """What is remembered is wrong, and nothing has reported that yet."""
    table.write(ADD, table.server(1), table.server(2))
    row = RENDERER.rows(table.server(1))[0]
    held = table.rows()[row.id]
    lines = [f"-D {held.bucket} {held.dispatch.text}", f":{row.chains[0].name} - [0:0]", f"-X {row.chains[0].name}"]
    table.tool.restore("".join(f"{line}\n" for line in ["*nat", *lines, "COMMIT"]))
    assert table.write(DELETE, table.server(1)) == []
    assert table.write(SET, table.server(2, 1)) == []
    assert table.tells(table.server(2, 1))


def test_strays_are_swept_and_buckets_come_back(table: Table) -> None:
    table.write(ADD, table.server(1))
    name = RENDERER.rows(table.server(1))[0].chains[0].name
    text = f"*nat\n:IPVSAGENT-S-STRAY - [0:0]\n-A IPVSAGENT-S-STRAY -j RETURN\n-A IPVSAGENT-B-05 -j {name}\nCOMMIT\n"
    table.tool.restore(text)
    assert len(table.rules.verify(table.constant)) == 2
    table.rules.apply(table.constant)
    assert table.rules.verify(table.constant) == []
    assert table.tells(table.server(1))


def test_a_stray_chain_that_somebody_uses_keeps_nothing_from_being_repaired(table: Table) -> None:
    table.write(ADD, table.server(1))
    text = (
        "*nat\n:IPVSAGENT-S-STRAY - [0:0]\n-A IPVSAGENT-S-STRAY -j RETURN\n:OTHER - [0:0]\n"
        "-A OTHER -j IPVSAGENT-S-STRAY\n:IPVSAGENT-SNAT - [0:0]\nCOMMIT\n"
    )
    table.tool.restore(text)
    table.ensure()
    assert table.rules.verify(table.constant) == []
    assert table.tells(table.server(1))


def test_cleanup_takes_everything(table: Table) -> None:
    table.write(ADD, table.server(1, 2, persistence_timeout=60), table.server(2))
    RuleTable(KernelRules(table.rules.family, table.rules.variant, tool=table.tool)).remove()
    assert "IPVSAGENT" not in table.tool.save()


def test_sets_of_clients_are_made_for_rules_and_swept(netns) -> None:
    skip_unless_native(Mode.NFT)
    clients, names = ClientSets(), ["IPVSAGENT-CLIENTS-07", "IPVSAGENT-6-CLIENTS-ff"]
    clients.make(names)
    clients.make(names)
    listing = netns.run("ipset", "list", "-t")
    assert "timeout 10800" in listing and "family inet6" in listing
    sets = SetTable()
    sets.ensure([SetSpec("IPVSAGENT-POD", "hash:net", Family.IPV4)])
    assert list(sets.state()) == ["IPVSAGENT-POD"]
    clients.sweep(names[:1])
    assert netns.run("ipset", "list", "-n").split() == ["IPVSAGENT-CLIENTS-07", "IPVSAGENT-POD"]
    sets.remove()
    assert netns.run("ipset", "list", "-n") == ""
    clients.close()
    sets.close()


def with_sets_of_clients(family: Family) -> tuple[SetTable, ClientSets, Table]:
    skip_unless_native(Mode.NFT)
    sets, clients = SetTable(), ClientSets()
    sets.ensure(set_specs())
    table = Table(real_server_rules(family, Mode.NFT, clients))
    table.ensure()
    return sets, clients, table


def test_affinity_holds_with_a_thousand_clients(netns) -> None:
    """Each comes five times. The match `recent` would have forgotten nine of ten by the second time."""
    sets, clients, table = with_sets_of_clients(Family.IPV4)
    sets.write([Op(ADD, row) for row in RENDERER.shared(table.server(1, 5))])
    table.write(ADD, table.server(1, 5, persistence_timeout=600))
    netns.run("ip", "link", "add", "pod", "type", "veth", "peer", "name", "far")
    netns.run("ip", "link", "set", "pod", "up")
    netns.run("ip", "link", "set", "far", "up")
    netns.run("ip", "address", "add", "10.244.1.254/24", "dev", "pod")
    netns.run("ip", "route", "add", "local", "10.244.200.0/22", "dev", "lo")
    netns.run("ip", "route", "add", "10.96.0.0/16", "dev", "pod")
    netns.run("ip", "neighbour", "replace", "10.244.1.9", "lladdr", "02:00:00:00:00:01", "dev", "pod")
    for number in range(1, 6):
        netns.run("ip", "neighbour", "add", f"10.244.1.{number}", "lladdr", "02:00:00:00:00:01", "dev", "pod")
    sent = subprocess.run(["python3", "-c", _CALLS], capture_output=True, text=True, cwd=os.getcwd())
    assert sent.returncode == 0, sent.stderr
    time.sleep(0.2)
    went: dict[str, set[str]] = {}
    for line in netns.run("cat", "/proc/net/nf_conntrack").splitlines():
        words = dict(word.split("=", 1) for word in reversed(line.split()) if "=" in word)
        answers = [word[4:] for word in line.split() if word.startswith("src=")]
        if words["dst"].startswith("10.96"):
            went.setdefault(words["src"], set()).add(answers[1])
    assert len(went) == 1000
    assert all(len(endpoints) == 1 for endpoints in went.values())
    assert len(set().union(*went.values())) == 5
    sets.close()
    clients.close()
    table.rules.close()


def test_affinity_with_more_endpoints_than_slots(netns) -> None:
    sets, clients, table = with_sets_of_clients(Family.IPV6)
    server = table.server(1, 300, persistence_timeout=600)
    assert table.write(ADD, server) == [] and table.tells(server)
    names = [name for name in netns.run("ipset", "list", "-n").split() if "CLIENTS" in name]
    assert len(names) == 300
    sets.close()
    clients.close()
    table.rules.close()


_CALLS = """
import socket
for turn in range(5):
    for number in range(1000):
        client = socket.socket()
        client.setblocking(False)
        client.bind((f"10.244.{200 + number // 250}.{1 + number % 250}", 20000 + turn))
        try:
            client.connect(("10.96.0.1", 80))
        except BlockingIOError:
            pass
        client.close()
"""
