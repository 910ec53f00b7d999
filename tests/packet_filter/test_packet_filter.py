"""The packet rules of a node whose iptables can do less than all."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable

import pytest

from ipvsagent.address import Address, Family
from ipvsagent.config import Config, parse_network
from ipvsagent.kernel.fake.kernel import FakeKernel
from ipvsagent.kernel.fake.rules import FakeRules, FakeRuleTool, fake_rules, server_rules
from ipvsagent.kernel.iptables import server_chains as iptables_servers
from ipvsagent.kernel.iptables.commands import Mode, RulesLocked, RulesRefused, Variant
from ipvsagent.kernel.iptables.rule_table import Feature, RuleTable
from ipvsagent.model import Protocol, VirtualServerId
from ipvsagent.packet_filter import iptables as packet_filter
from ipvsagent.packet_filter.iptables import IptablesPacketFilter
from ipvsagent.packet_filter.profiles import INSTEAD_OF_IPVS
from ipvsagent.render.set_members import set_specs
from ipvsagent.rows import TranslationRow
from ipvsagent.rows.packet_rules import INSIDE
from tests.support.clock import Clock


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    made = FakeKernel()
    made.sets.ensure(set_specs())
    monkeypatch.setattr(packet_filter, "find_variant", lambda *_, **__: Variant(Mode.NFT, "it is a fake"))
    monkeypatch.setattr(packet_filter, "families", lambda: tuple(Family))
    monkeypatch.setattr(packet_filter, "KernelRules", lambda family, _: family)
    monkeypatch.setattr(packet_filter, "RuleTable", lambda family: FakeRules(made, family))
    return made


def rules(kernel: FakeKernel) -> str:
    return "".join(kernel.rule_tools[family].save() for family in Family)


CONFIG = Config(node_name="node-1", cluster_cidrs=(parse_network("10.244.0.0/16"), parse_network("fd00::/56")))


def test_everything_is_used_where_it_is_there(kernel: FakeKernel) -> None:
    kept = IptablesPacketFilter(CONFIG)
    assert kept.install() and not kept.findings() and not kept.repair()
    text = rules(kernel)
    assert text.count("-m bpf") == 2 and "--random-fully" in text and "--map-mark" not in text


def test_no_mark_but_the_masquerade_bit_is_set(kernel: FakeKernel) -> None:
    IptablesPacketFilter(Config(node_name="node-1", masquerade_bit=30)).install()
    marks = set(re.findall(r"--set-x?mark (\S+)", rules(kernel)))
    assert marks == {"0x40000000/0x40000000", "0x0/0x40000000"}


@pytest.mark.parametrize("lacks", [set(), {Feature.BPF}, {Feature.BPF, Feature.RANDOM_FULLY}])
def test_differences_are_found_without_a_write(kernel: FakeKernel, lacks: set[Feature]) -> None:
    kernel.features -= lacks
    before = rules(kernel)
    found = IptablesPacketFilter(CONFIG).differences()
    assert any(s.startswith("IPv4 mangle: chain IPVSAGENT-") for s in found) and any("IPv6 nat" in s for s in found)
    assert rules(kernel) == before

    IptablesPacketFilter(CONFIG).install()
    held = rules(kernel)
    assert IptablesPacketFilter(CONFIG).differences() == [], "an iptables that lacks something is as it should be"
    assert rules(kernel) == held

    chain = next(line.split()[1] for line in held.splitlines() if line.startswith("-A IPVSAGENT-"))
    kernel.rule_tools[Family.IPV4].restore(f"*mangle\n-A {chain} -p sctp -j DROP\nCOMMIT\n")
    (sentence,) = IptablesPacketFilter(CONFIG).differences()
    assert sentence.startswith(f"IPv4 mangle: chain {chain}: a rule is not ours:")


@pytest.mark.parametrize("mode", Mode)
def test_a_change_that_legacy_iptables_does_not_tell_of(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    monkeypatch.setattr(packet_filter, "find_variant", lambda *_, **__: Variant(mode, "it is a fake"))
    kept = IptablesPacketFilter(CONFIG)
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


def beside_ipvs(kernel: FakeKernel) -> IptablesPacketFilter:
    return IptablesPacketFilter(CONFIG)


def instead_of_ipvs(kernel: FakeKernel) -> IptablesPacketFilter:
    return IptablesPacketFilter(CONFIG, INSTEAD_OF_IPVS, server_rules(kernel).tables)


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
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, opened: Callable[[FakeKernel], IptablesPacketFilter]
) -> None:
    monkeypatch.setattr(iptables_servers, "_READ_PAUSE", 0.0)
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
    kept = IptablesPacketFilter(CONFIG)
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
    table = RuleTable(fake_rules(kernel, Family.IPV4))
    with monkeypatch.context() as patch:
        trouble(patch, tool, RulesRefused("it did not end in 60 s", code=errno.ETIMEDOUT))
        with pytest.raises(RulesRefused, match="60 s"):
            table.supports(Feature.CONNMARK)
    assert table.supports(Feature.CONNMARK)


def test_a_module_that_is_loaded_later_is_used(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = kernel.rule_tools[Family.IPV4]
    table = RuleTable(fake_rules(kernel, Family.IPV4))
    with monkeypatch.context() as patch:
        trouble(patch, tool, RulesRefused("Couldn't load match `connmark'"))
        assert not table.supports(Feature.CONNMARK)
    assert table.supports(Feature.CONNMARK) and table.supports(Feature.CONNMARK)


# Translations


def translation(last: int, family: Family = Family.IPV4) -> TranslationRow:
    addresses = (f"192.0.2.{last}", "10.96.0.1") if family is Family.IPV4 else (f"2001:db8::{last}", "fd00:96::1")
    source, target = (VirtualServerId(Protocol.TCP, Address(text), 80) for text in addresses)
    return TranslationRow(source, target)


ONE, TWO, SIX = translation(1), translation(2), translation(1, Family.IPV6)


def translated(kernel: FakeKernel) -> list[str]:
    """Where packets are translated from, in the order of the rules."""
    lines = [rule for family in Family for rule in kernel.rule_tools[family].held["nat"].get(INSIDE, [])]
    return [line.split()[1].partition("/")[0] for line in lines]


def test_translations_are_written_by_whoever_keeps_the_rules(kernel: FakeKernel) -> None:
    kept = IptablesPacketFilter(CONFIG)
    kept.install()
    assert translated(kernel) == [] and not kept.pending and not kept.wake.is_set()
    kept.translate(frozenset({TWO, ONE, SIX}))
    assert kept.pending and kept.wake.is_set() and translated(kernel) == []
    kept.apply_pending()
    assert not kept.pending and translated(kernel) == ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
    assert not kept.repair() and not IptablesPacketFilter(CONFIG).differences()
    kept.translate(frozenset({ONE, SIX}))
    kept.apply_pending()
    assert translated(kernel) == ["192.0.2.1", "2001:db8::1"]
    kept.translate(frozenset({ONE, SIX}))
    assert not kept.pending
    calls = kernel.calls
    kept.apply_pending()
    assert kernel.calls == calls, "what is there already costs nothing"


def test_only_the_rules_that_differ_are_written(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = IptablesPacketFilter(CONFIG)
    kept.install()
    kept.translate(frozenset({ONE, TWO}))
    kept.apply_pending()
    written: list[str] = []
    tool = kernel.rule_tools[Family.IPV4]
    restore = tool.restore

    def noted(text: str) -> None:
        written.extend(line for line in text.splitlines() if INSIDE in line and "-j IPVSAGENT" not in line)
        restore(text)

    monkeypatch.setattr(tool, "restore", noted)
    kept.translate(frozenset({TWO, translation(3)}))
    kept.apply_pending()
    assert [line.split()[:4] for line in written] == [
        ["-D", INSIDE, "-d", "192.0.2.1/32"],
        ["-A", INSIDE, "-d", "192.0.2.3/32"],
    ]


def test_a_new_agent_finds_those_that_are_there_and_keeps_them(kernel: FakeKernel) -> None:
    kept = IptablesPacketFilter(CONFIG)
    kept.install()
    kept.translate(frozenset({ONE, SIX}))
    kept.apply_pending()
    held = rules(kernel)
    new = IptablesPacketFilter(CONFIG)
    assert new.held_translations() == {ONE, SIX}
    assert new.install() == 0 and rules(kernel) == held and not new.pending
    assert IptablesPacketFilter(CONFIG, INSTEAD_OF_IPVS, server_rules(kernel).tables).held_translations() == frozenset()
    new.translate(frozenset({SIX}))
    new.apply_pending()
    assert translated(kernel) == ["2001:db8::1"]


def test_a_translation_that_somebody_removed_comes_back(kernel: FakeKernel) -> None:
    kept = IptablesPacketFilter(CONFIG)
    kept.install()
    kept.translate(frozenset({ONE, TWO}))
    kept.apply_pending()
    tool = kernel.rule_tools[Family.IPV4]
    (first, _) = tool.held["nat"][INSIDE]
    tool.restore(f"*nat\n-D {INSIDE} {first}\nCOMMIT\n")
    assert kept.repair() == 1 and translated(kernel) == ["192.0.2.2", "192.0.2.1"] and not kept.repair()


def test_translations_stay_when_the_configuration_changes(kernel: FakeKernel) -> None:
    kept = IptablesPacketFilter(CONFIG)
    kept.install()
    kept.translate(frozenset({ONE}))
    kept.apply_pending()
    kept.configure(Config(node_name="node-1", masquerade_bit=20))
    assert kept.pending
    kept.apply_pending()
    assert not kept.pending and translated(kernel) == ["192.0.2.1"] and "0x100000/0x100000" in rules(kernel)


def test_translations_go_with_the_rest_where_iptables_can_do_less(kernel: FakeKernel) -> None:
    kernel.features -= {Feature.BPF, Feature.RANDOM_FULLY}
    kept = IptablesPacketFilter(CONFIG)
    kept.install()
    kept.translate(frozenset({ONE}))
    kernel.calls = 0
    kept.apply_pending()
    assert translated(kernel) == ["192.0.2.1"] and not kept.pending and not kept.repair()
    assert "-m bpf" not in rules(kernel) and len(kept.findings()) == 1


def test_translations_that_could_not_be_written_are_tried_again(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = IptablesPacketFilter(CONFIG)
    kept.install()
    kept.translate(frozenset({ONE}))
    kept.apply_pending()
    locked = RulesLocked("another program holds the lock", code=errno.EAGAIN)
    for failing in Family:
        kept.translate(frozenset({TWO, SIX}))
        with monkeypatch.context() as patch:
            trouble(patch, kernel.rule_tools[failing], locked)
            for _ in range(2):
                with pytest.raises(RulesLocked):
                    kept.apply_pending()
                assert kept.pending
        kept.apply_pending()
        assert not kept.pending and translated(kernel) == ["192.0.2.2", "2001:db8::1"]
        with monkeypatch.context() as patch:
            trouble(patch, kernel.rule_tools[failing], locked)
            kept.translate(frozenset({ONE}))
            with pytest.raises(RulesLocked):
                kept.apply_pending()
        kept.translate(frozenset({TWO, SIX}))
        kept.apply_pending()
        assert not kept.repair() and translated(kernel) == ["192.0.2.2", "2001:db8::1"], "the old ones are wanted again"
        kept.translate(frozenset({ONE}))
        kept.apply_pending()


# Rules of others that come in front of ours, and what is said of those in the way


@pytest.fixture
def clock(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()

    def table(family: Family) -> FakeRules:
        found = FakeRules(kernel, family)
        found._clock = made
        return found

    monkeypatch.setattr(packet_filter, "RuleTable", table)
    return made


def push_in_front(kernel: FakeKernel, rule: str = "-p tcp -m tcp --dport 22 -j ACCEPT") -> None:
    """As a program that wants its own rule to be first."""
    rules = kernel.rule_tools[Family.IPV4].held["filter"]["INPUT"]
    removal = f"-D INPUT {rule}\n" if rule in rules else ""
    kernel.rule_tools[Family.IPV4].restore(f"*filter\n{removal}-I INPUT 1 {rule}\nCOMMIT\n")


def is_first(kernel: FakeKernel) -> bool:
    return kernel.rule_tools[Family.IPV4].held["filter"]["INPUT"][0] == "-j IPVSAGENT-INPUT"


def test_who_comes_in_front_is_answered_at_once_and_then_ever_more_slowly(kernel: FakeKernel, clock: Clock) -> None:
    kept = IptablesPacketFilter(CONFIG)
    kept.install()
    push_in_front(kernel)
    assert kept.repair() and is_first(kernel)
    answered: list[float] = []
    last = clock.now
    while len(answered) < 4:
        push_in_front(kernel)
        for _ in range(10_000):
            clock.now += 1.0
            if kept.repair():
                break
        assert is_first(kernel)
        answered.append(clock.now - last)
        last = clock.now
    assert answered == [60.0, 120.0, 240.0, 480.0]


def test_waiting_for_it_costs_next_to_nothing_and_other_changes_do_not_wait(kernel: FakeKernel, clock: Clock) -> None:
    kept = IptablesPacketFilter(CONFIG)
    kept.install()
    push_in_front(kernel)
    kept.repair()
    push_in_front(kernel)
    assert not kept.repair() and not is_first(kernel)
    calls = kernel.calls
    for _ in range(50):
        clock.now += 1.0
        assert not kept.repair()
    assert kernel.calls == calls
    (finding,) = kept.findings()
    assert "accepts packets, `-p tcp -m tcp --dport 22 -j ACCEPT`" in finding.reason and "chain INPUT" in finding.reason
    kernel.rule_tools[Family.IPV4].restore("*nat\n-D OUTPUT -j IPVSAGENT-SERVICES-OUT\nCOMMIT\n")
    assert kept.repair()
    assert "-j IPVSAGENT-SERVICES-OUT" in kernel.rule_tools[Family.IPV4].held["nat"]["OUTPUT"]


def test_a_restart_finds_its_jump_behind_and_moves_it(kernel: FakeKernel, clock: Clock) -> None:
    IptablesPacketFilter(CONFIG).install()
    push_in_front(kernel)
    assert IptablesPacketFilter(CONFIG).install() and is_first(kernel)


@pytest.mark.parametrize("opened", [beside_ipvs, instead_of_ipvs])
def test_accepts_come_and_go_with_the_default(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, opened: Callable[[FakeKernel], IptablesPacketFilter]
) -> None:
    monkeypatch.setattr(iptables_servers, "_READ_PAUSE", 0.0)
    kept = opened(kernel)
    kept.install()
    tool = kernel.rule_tools[Family.IPV4]
    before = {chain: list(some) for chain, some in tool.held["filter"].items()}
    assert not any("before-the-default" in rule for some in before.values() for rule in some)
    tool.restore(
        "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n-P OUTPUT DROP\n-A INPUT -s 10.9.9.9/32 -j DROP\nCOMMIT\n"
    )
    assert kept.repair() and not kept.repair()
    for chain in ("INPUT", "FORWARD", "OUTPUT"):
        assert "before-the-default" in tool.held["filter"][chain][-1]
    assert tool.held["filter"]["INPUT"][-2] == "-s 10.9.9.9/32 -j DROP", "what others deny stays denied"
    assert sum("the policy of chain" in finding.reason for finding in kept.findings()) == 3
    tool.restore(
        "*filter\n-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n-D INPUT -s 10.9.9.9/32 -j DROP\nCOMMIT\n"
    )
    assert kept.repair() and not kept.repair() and not kept.findings()
    assert tool.held["filter"] == before


def test_a_denial_that_no_accept_can_answer_is_said_with_a_remedy(kernel: FakeKernel) -> None:
    kernel.rule_tools[Family.IPV6].restore(
        "*filter\n:zone - [0:0]\n-A INPUT -i eth0 -g zone\n-A zone -p tcp -m tcp --dport 22 -j ACCEPT\n"
        "-A zone -j REJECT\nCOMMIT\n"
    )
    kept = IptablesPacketFilter(CONFIG)
    kept.install()
    (finding,) = kept.findings()
    assert finding.reason == (
        "rule 2 of chain zone (IPv6), `-j REJECT`, denies traffic of Services that reaches it from INPUT; our rules do "
        "not override it, because it applies to some interfaces only or also to other traffic; `ip6tables -I zone 2 "
        "-j IPVSAGENT-ALLOW-IN` accepts the traffic of Services"
    )
    kernel.rule_tools[Family.IPV6].restore("*filter\n-I zone 2 -j IPVSAGENT-ALLOW-IN\nCOMMIT\n")
    kept.repair()
    assert "-j IPVSAGENT-ALLOW-IN" in kernel.rule_tools[Family.IPV6].held["filter"]["zone"], "it is the operator's"


def test_removal_leaves_others_as_they_were(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packet_filter, "remove_from_variant", lambda family, mode: None)
    tool = kernel.rule_tools[Family.IPV4]
    tool.restore(
        "*filter\n:zone - [0:0]\n-P FORWARD DROP\n-A INPUT -j zone\n-A zone -p tcp -j ACCEPT\n-A zone -j DROP\nCOMMIT\n"
    )
    before = rules(kernel)
    kept = IptablesPacketFilter(CONFIG)
    kept.install()
    kept.translate(frozenset({ONE}))
    kept.apply_pending()
    assert "before-the-default" in tool.held["filter"]["zone"][1]
    lines = kept.removals()
    assert any(
        line.startswith("iptables -t filter -D zone ") and line.endswith(" -j IPVSAGENT-ALLOW-IN") for line in lines
    )
    kept.remove()
    assert rules(kernel) == before
