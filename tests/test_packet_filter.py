"""The packet rules of a node whose iptables can do less than all."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from ipvsagent import packet_filter
from ipvsagent.address import Family
from ipvsagent.config import Config, parse_network
from ipvsagent.kernel import iptables_servers
from ipvsagent.kernel.fake import FakeKernel
from ipvsagent.kernel.fake_rules import FakeRules, FakeRuleTool, server_rules
from ipvsagent.kernel.iptables import Feature, RuleTable
from ipvsagent.kernel.iptables_tool import Mode, RulesLocked, RulesRefused, Variant
from ipvsagent.packet_filter import INSTEAD_OF_IPVS, PacketFilter
from ipvsagent.render.members import set_specs


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    made = FakeKernel()
    made.sets.ensure(set_specs())
    monkeypatch.setattr(packet_filter, "find_variant", lambda *_, **__: Variant(Mode.NFT, "it is a fake"))
    monkeypatch.setattr(packet_filter, "families", lambda: tuple(Family))
    monkeypatch.setattr(packet_filter, "RuleTable", lambda family, *_, **__: FakeRules(made, family))
    return made


def rules(kernel: FakeKernel) -> str:
    return "".join(kernel.rule_tools[family].save() for family in Family)


CONFIG = Config(node_name="node-1", cluster_cidrs=(parse_network("10.244.0.0/16"), parse_network("fd00::/56")))


def test_everything_is_used_where_it_is_there(kernel: FakeKernel) -> None:
    kept = PacketFilter(CONFIG)
    assert kept.install() and not kept.findings() and not kept.repair()
    assert rules(kernel).count("--map-mark") == 4


def test_without_marks_by_set_the_rest_works_and_it_is_said(kernel: FakeKernel) -> None:
    kernel.features.discard(Feature.MARK_BY_SET)
    kept = PacketFilter(CONFIG)
    assert kept.install() and not kept.repair()
    (finding,) = kept.findings()
    assert "externalTrafficPolicy Local" in finding.reason and "IPv4, IPv6" in finding.reason
    text = rules(kernel)
    assert "--map-mark" not in text and "-m bpf" in text and text.count("INNER") == 2


def test_the_masquerade_bit_is_not_a_mark_of_the_nodes_clients(kernel: FakeKernel) -> None:
    config = Config(node_name="node-1", masquerade_bit=30)
    assert config.node_marks == 0x3FF00000
    PacketFilter(config).install()
    assert "--set-xmark 0x0/0x3ff00000" in rules(kernel)


def test_no_mark_bits_no_marks(kernel: FakeKernel) -> None:
    PacketFilter(Config(node_name="node-1", local_mark_mask=0)).install()
    assert "--map-mark" not in rules(kernel)


def test_marks_of_others_are_said_unless_they_are_taken_over(kernel: FakeKernel) -> None:
    kernel.rule_tools[Family.IPV4].restore("*mangle\n-A PREROUTING -j MARK --set-xmark 0x40000/0x40000\nCOMMIT\n")
    kept = PacketFilter(CONFIG)
    kept.install()
    (finding,) = kept.findings()
    assert "mangle PREROUTING (IPv4) sets the bits 0x40000" in finding.reason
    kept = PacketFilter(Config(node_name="node-1", local_mark_mask=0x7FF40000))
    kept.install()
    assert not kept.findings()


@pytest.mark.parametrize("lacks", [set(), {Feature.MARK_BY_SET}, {Feature.BPF, Feature.RANDOM_FULLY}])
def test_differences_are_found_without_a_write(kernel: FakeKernel, lacks: set[Feature]) -> None:
    kernel.features -= lacks
    before = rules(kernel)
    found = PacketFilter(CONFIG).differences()
    assert any(s.startswith("IPv4 mangle: chain IPVSAGENT-") for s in found) and any("IPv6 nat" in s for s in found)
    assert rules(kernel) == before

    PacketFilter(CONFIG).install()
    held = rules(kernel)
    assert PacketFilter(CONFIG).differences() == [], "an iptables that lacks something is as it should be"
    assert rules(kernel) == held

    chain = next(line.split()[1] for line in held.splitlines() if line.startswith("-A IPVSAGENT-"))
    kernel.rule_tools[Family.IPV4].restore(f"*mangle\n-A {chain} -p sctp -j DROP\nCOMMIT\n")
    (sentence,) = PacketFilter(CONFIG).differences()
    assert sentence.startswith(f"IPv4 mangle: chain {chain}: a rule is not ours:")


@pytest.mark.parametrize("mode", Mode)
def test_a_change_that_legacy_iptables_does_not_tell_of(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    monkeypatch.setattr(packet_filter, "find_variant", lambda *_, **__: Variant(mode, "it is a fake"))
    kept = PacketFilter(CONFIG)
    kept.install()
    held = rules(kernel)
    table = kernel.rule_tools[Family.IPV4].held["mangle"]
    chain = next(name for name, lines in table.items() if name.startswith("IPVSAGENT-") and len(lines) > 1)
    table[chain].reverse()
    before = kernel.calls
    repaired = [kept.repair() for _ in range(packet_filter.READ_ALL_EVERY)]
    assert not any(repaired[:-1]) and bool(repaired[-1]) is (mode is Mode.LEGACY)
    assert (rules(kernel) == held) is (mode is Mode.LEGACY)
    assert kernel.calls - before < 10, "and the other looks read nothing"


def beside_ipvs(kernel: FakeKernel) -> PacketFilter:
    return PacketFilter(CONFIG)


def instead_of_ipvs(kernel: FakeKernel) -> PacketFilter:
    return PacketFilter(CONFIG, INSTEAD_OF_IPVS, server_rules(kernel).tables)


def trouble(monkeypatch: pytest.MonkeyPatch, tool: FakeRuleTool, error: Exception) -> None:
    def fails(text: str) -> None:
        raise error

    monkeypatch.setattr(tool, "restore", fails)


def flush(kernel: FakeKernel) -> None:
    """As `iptables -F` and `iptables -X` in all tables."""
    for tool in kernel.rule_tools.values():
        for chains in tool.held.values():
            for chain in [name for name in chains if name.startswith("IPVSAGENT-")]:
                del chains[chain]
            chains.update({chain: [] for chain in chains})
        tool.restore("*nat\nCOMMIT\n")


@pytest.mark.parametrize("opened", [beside_ipvs, instead_of_ipvs])
def test_a_repair_that_failed_is_tried_until_it_succeeds(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, opened: Callable[[FakeKernel], PacketFilter]
) -> None:
    monkeypatch.setattr(iptables_servers, "_READ_AGAIN_AFTER", 0.0)
    kept = opened(kernel)
    kept.install()
    held = rules(kernel)
    flush(kernel)
    with monkeypatch.context() as patch:
        trouble(patch, kernel.rule_tools[Family.IPV4], RulesLocked("another program holds the lock", code=errno.EAGAIN))
        for _ in range(3):
            with pytest.raises(RulesLocked):
                kept.repair()
        assert "IPVSAGENT" in kernel.rule_tools[Family.IPV6].save(), "the other family has its rules"
    assert kept.repair() and rules(kernel) == held and not kept.repair()


def test_rules_come_back_after_the_sets_that_they_ask(kernel: FakeKernel) -> None:
    kept = PacketFilter(CONFIG)
    kept.install()
    held = rules(kernel)
    flush(kernel)
    sets = dict(kernel.set_specs)
    kernel.set_specs.clear()
    for _ in range(2):
        with pytest.raises(RulesRefused, match="doesn't exist"):
            kept.repair()
    kernel.set_specs.update(sets)
    assert kept.repair() and rules(kernel) == held and not kept.repair()


def test_a_busy_node_does_not_decide_what_iptables_can_do(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = kernel.rule_tools[Family.IPV4]
    table = RuleTable(Family.IPV4, Variant(Mode.NFT, "it is a fake"), tool=tool)
    with monkeypatch.context() as patch:
        trouble(patch, tool, RulesRefused("it did not end in 60 s", code=errno.ETIMEDOUT))
        with pytest.raises(RulesRefused, match="60 s"):
            table.supports(Feature.CONNMARK)
    assert table.supports(Feature.CONNMARK)


def test_a_module_that_is_loaded_later_is_used(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = kernel.rule_tools[Family.IPV4]
    table = RuleTable(Family.IPV4, Variant(Mode.NFT, "it is a fake"), tool=tool)
    with monkeypatch.context() as patch:
        trouble(patch, tool, RulesRefused("Couldn't load match `connmark'"))
        assert not table.supports(Feature.CONNMARK)
    assert table.supports(Feature.CONNMARK) and table.supports(Feature.CONNMARK)
