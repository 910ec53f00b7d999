"""What a table of packet rules promises: in the fake, and with iptables-nft and iptables-legacy in both families."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from ipvsagent.address import Family
from ipvsagent.config import Config
from ipvsagent.errors import KernelError, StartError
from ipvsagent.kernel.fake.kernel import FakeKernel, Killed
from ipvsagent.kernel.ipset.table import SetTable
from ipvsagent.kernel.iptables import commands as iptables_tool
from ipvsagent.kernel.iptables.commands import Mode, RulesLocked, RulesRefused, Variant, find_variant, program
from ipvsagent.kernel.iptables.generation import NftGeneration
from ipvsagent.kernel.iptables.kernel_rules import KernelRules
from ipvsagent.kernel.iptables.rule_table import Feature, RuleTable
from ipvsagent.kernel.iptables.server_chains import ServerChains, ServerRules
from ipvsagent.packet_filter.iptables import IptablesPacketFilter
from ipvsagent.packet_filter.profiles import INSTEAD_OF_IPVS
from ipvsagent.render.set_members import set_specs
from ipvsagent.rows import SetSpec
from ipvsagent.rows.packet_rules import Chain, Jump, RuleSet
from tests.support.iptables import FAMILIES, GUEST, NATIVE, rule_set, skip_unless_native
from tests.support.variants import works

WRITES = 40  # has been 1,000, which takes a minute each
FOREIGN = """\
*mangle
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
*nat
:POSTROUTING ACCEPT [7:420]
:KUBE-POSTROUTING - [0:0]
[5:300] -A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
[2:120] -A KUBE-POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE
COMMIT
*filter
:INPUT DROP [9:540]
:FORWARD ACCEPT [0:0]
:KUBE-FIREWALL - [0:0]
[3:180] -A INPUT -j KUBE-FIREWALL
[1:60] -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
[4:240] -A KUBE-FIREWALL -m comment --comment "see -j IPVSAGENT-INPUT" -j RETURN
COMMIT
"""


class Node:
    """The rules of one family, with iptables itself beside them."""

    def __init__(self, table: RuleTable, run: Callable[..., str], in_guest: bool) -> None:
        self.table = table
        self.in_guest = in_guest  # where starting a process takes a tenth of a second
        self.family = table.family
        self.mode = table.variant.mode
        self.command = f"{'ip6tables' if self.family is Family.IPV6 else 'iptables'}-{self.mode}"
        self._run = run

    def iptables(self, *words: str) -> str:
        return self._run(self.command, *words)

    def restore(self, text: str) -> None:
        self._run(f"{self.command}-restore", "--counters", "--noflush", stdin=text)

    def saved(self) -> str:
        """Everything, with counters, without the dates; chains in the order of their names, which is not stable.

        Without the counters of policies for legacy: `iptables -N` and every other write of anybody resets them.
        """
        parts = []
        for table in ("mangle", "nat", "filter"):
            lines = self._run(f"{self.command}-save", "-c", "-t", table).splitlines()
            lines = [line for line in lines if line and not line.startswith("#")]
            declared = sorted(line for line in lines if line.startswith(":"))
            if self.mode is Mode.LEGACY:
                declared = [line.partition("[")[0] for line in declared]
            parts += [table, *declared, *(line for line in lines if not line.startswith(":"))]
        return "\n".join(parts)

    def foreign(self) -> str:
        return "\n".join(
            line for line in self.saved().splitlines() if not re.search(r"(^:|-A |-j )IPVSAGENT-(?!INPUT\")", line)
        )

    def chain(self, table: str, chain: str) -> list[str]:
        return self.iptables("-t", table, "-S", chain).splitlines()[1:]


@pytest.fixture(params=NATIVE + GUEST)
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    mode, family = request.param
    in_guest = "guest" in request.node.callspec.id
    if not in_guest:
        skip_unless_native(mode)
    netns = request.getfixturevalue("netns")
    table = RuleTable(KernelRules(family, Variant(mode, "the test says so")))
    yield Node(table, netns.run, in_guest)
    table.close()


@pytest.fixture(params=["fake", *NATIVE, *GUEST])
def rules(request: pytest.FixtureRequest) -> Iterator[RuleTable]:
    if request.param == "fake":
        yield FakeKernel().rules[Family.IPV4]
        return
    mode, family = request.param
    if "guest" not in request.node.callspec.id:
        skip_unless_native(mode)
    request.getfixturevalue("netns")
    table = RuleTable(KernelRules(family, Variant(mode, "the test says so")))
    yield table
    table.close()


# Fake and real


def test_apply_verify_remove(rules):
    wanted = rule_set(rules.family)
    assert rules.changed()
    assert len(rules.verify(wanted)) == 9
    rules.apply(wanted)
    assert rules.verify(wanted) == []
    assert not rules.changed()
    other = rule_set(rules.family, "-p sctp -j ACCEPT")
    assert len(rules.verify(other)) == 2
    rules.apply(other)
    assert rules.verify(other) == []
    assert rules.remove() == []
    assert rules.changed()
    assert len(rules.verify(wanted)) == 9
    assert rules.remove() == []


def test_chains_that_are_not_wanted_any_more_go(rules):
    rules.apply(rule_set(rules.family))
    less = RuleSet(
        rules.family,
        (Chain("filter", "IPVSAGENT-HOST", ("-j DROP",)),),
        (Jump("filter", "OUTPUT", "IPVSAGENT-HOST"),),
    )
    assert any("chain IPVSAGENT-MARK is no longer needed" in sentence for sentence in rules.verify(less))
    rules.apply(less)
    assert rules.verify(less) == []
    rules.apply(RuleSet(rules.family))
    assert rules.remove() == []


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("-m set --match-set IPVSAGENT-NEVER dst -j ACCEPT", "IPVSAGENT-NEVER"),
        ("-j NEVER-THERE", "NEVER-THERE"),
    ],
)
def test_a_refused_rule_changes_nothing_in_its_table(rules, rule, said):
    wanted = rule_set(rules.family)
    rules.apply(wanted)
    with pytest.raises(RulesRefused, match=said) as refusal:
        rules.apply(rule_set(rules.family, rule))
    assert isinstance(refusal.value, KernelError)
    assert said in refusal.value.line
    if said == "IPVSAGENT-NEVER":
        assert refusal.value.rule.startswith(f"-A IPVSAGENT-INPUT {rule}")
    assert [sentence for sentence in rules.verify(wanted) if not sentence.startswith(("mangle", "nat"))] == []
    rules.apply(wanted)
    assert rules.verify(wanted) == []


# With iptables itself


@pytest.mark.parametrize(
    "comment",
    [
        b"caf\xe9",
        b"two\nlines",
        b"\nCOMMIT\n:IPVSAGENT-HOST\n*raw",
        b'a "quote\\" \n-A INPUT -j IPVSAGENT-HOST',
        "\u2028\x0b\r\x85 end".encode(),
    ],
)
def test_whatever_others_write_into_a_comment(node, comment):
    text = os.fsdecode(comment)
    node.iptables("-A", "INPUT", "-m", "comment", "--comment", text, "-j", "ACCEPT")
    node.iptables("-t", "mangle", "-A", "INPUT", "-m", "comment", "--comment", text, "-j", "ACCEPT")
    wanted = rule_set(node.family)
    node.table.apply(wanted)
    assert node.table.verify(wanted) == [] and not node.table.changed()
    assert node.table.blocking == ()
    node.iptables("-A", "IPVSAGENT-HOST", "-m", "comment", "--comment", text, "-j", "ACCEPT")
    (sentence,) = node.table.verify(wanted)
    assert sentence.encode(), "it is said in text that any program can read"
    node.table.apply(wanted)
    assert node.table.remove() == []
    there = ("INPUT", "-m", "comment", "--comment", text, "-j", "ACCEPT")
    node.iptables("-D", *there)
    node.iptables("-t", "mangle", "-D", *there)


def test_other_programs_rules_and_counters_stay(node):
    node.restore(FOREIGN)
    before = node.saved()
    for extra in ("-p udp -j ACCEPT", "-p sctp -j ACCEPT"):
        node.table.apply(rule_set(node.family, extra))
        assert node.foreign() == before
    assert node.table.remove() == []
    assert node.saved() == before


def test_many_writes_leave_nothing_behind(node):
    node.restore(FOREIGN)
    before = node.saved()
    wanted = [rule_set(node.family), rule_set(node.family, "-p sctp -j ACCEPT")]
    node.table.apply(wanted[0])
    first = node.saved()
    for number in range(1, (4 if node.in_guest else WRITES) + 1):
        node.table.apply(wanted[number % 2])
    assert node.saved() == first
    node.table.remove()
    assert node.saved() == before


def test_jumps_come_back_to_the_top(node):
    wanted = rule_set(node.family)
    node.table.apply(wanted)
    node.iptables("-I", "INPUT", "-j", "ACCEPT")
    assert node.table.changed()
    assert node.table.verify(wanted) == [
        "filter: chain INPUT should begin with the jump to IPVSAGENT-INPUT and have no other of ours"
    ]
    node.table.apply(wanted)
    assert node.chain("filter", "INPUT") == ["-A INPUT -j IPVSAGENT-INPUT", "-A INPUT -j ACCEPT"]


@pytest.mark.parametrize(
    "words",
    [
        ["-A", "INPUT", "-j", "ACCEPT"],
        ["-D", "INPUT", "-j", "IPVSAGENT-INPUT"],
        ["-F", "IPVSAGENT-HOST"],
        ["-A", "IPVSAGENT-HOST", "-j", "ACCEPT"],
        ["-I", "INPUT", "-s", "198.51.100.7", "-j", "IPVSAGENT-HOST"],
        ["-F"],
        ["-t", "nat", "-F"],
        ["-N", "FOREIGN"],
    ],
    ids=" ".join,
)
def test_changes_of_others_are_noticed_and_repaired(node, words):
    if "-s" in words and node.family is Family.IPV6:
        words = [word.replace("198.51.100.7", "2001:db8::7") for word in words]
    wanted = rule_set(node.family)
    node.table.apply(wanted)
    assert not node.table.changed()
    ours = len(wanted.jumps)
    node.iptables(*words)
    assert node.table.changed()
    touches_ours = "FOREIGN" not in words and words != ["-A", "INPUT", "-j", "ACCEPT"]
    assert bool(node.table.verify(wanted)) is touches_ours
    assert node.table.changed() is touches_ours, "what is found and not yet repaired is not forgotten"
    node.table.apply(wanted)
    assert not node.table.changed()
    assert node.table.verify(wanted) == []
    assert node.saved().count("-j IPVSAGENT-") == ours + 1  # and the one between our chains


def test_a_chain_that_others_jump_to_stays_and_is_named(node):
    node.table.apply(rule_set(node.family))
    node.iptables("-N", "FOREIGN")
    node.iptables("-A", "FOREIGN", "-j", "IPVSAGENT-HOST")
    assert node.table.remove() == ["-A FOREIGN -j IPVSAGENT-HOST"]
    assert node.chain("filter", "IPVSAGENT-HOST") == []
    node.iptables("-F", "FOREIGN")
    assert node.table.remove() == []
    assert "IPVSAGENT" not in node.saved()


def test_asking_for_changes_costs_no_process(node, monkeypatch):
    node.table.apply(rule_set(node.family))
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("a process was started"))
    started = time.process_time()
    for _ in range(200):
        assert not node.table.changed()
    assert (time.process_time() - started) / 200 < (0.001 if node.in_guest else 0.0002)


def test_reading_is_no_change(node):
    wanted = rule_set(node.family)
    node.table.apply(wanted)
    node.saved()
    node.iptables("-S")
    node.table.verify(wanted)
    assert not node.table.changed()


def test_features(node):
    if not node.table.supports(Feature.IPVS):
        assert not node.in_guest
        assert "ipvs" in node.table.refused[Feature.IPVS]
    for feature in set(Feature) - {Feature.IPVS}:
        assert node.table.supports(feature), node.table.refused
    assert "IPVSAGENT" not in node.saved()


def test_features_are_tried_once(node, monkeypatch):
    node.table.supports(Feature.CONNMARK)
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("a process was started"))
    assert node.table.supports(Feature.CONNMARK)


def test_sets_may_be_destroyed_when_the_rules_are_gone(node):
    sets = SetTable()
    sets.ensure([SetSpec("IPVSAGENT-VIP", "hash:ip", node.family)])
    wanted = rule_set(node.family, "-m set --match-set IPVSAGENT-VIP dst -j ACCEPT")
    node.table.apply(wanted)
    assert node.table.verify(wanted) == []
    assert sets.state()["IPVSAGENT-VIP"].references == 1
    node.table.remove()
    sets.remove()
    assert sets.state() == {}
    sets.close()


WRITER = """
import itertools, sys
from ipvsagent.address import Family
from ipvsagent.kernel.iptables.kernel_rules import KernelRules
from ipvsagent.kernel.iptables.rule_table import RuleTable
from ipvsagent.kernel.iptables.generation import NftGeneration
from ipvsagent.kernel.iptables.commands import Mode, Variant
from tests.support.iptables import rule_set
family = Family(sys.argv[2])
table = RuleTable(KernelRules(family, Variant(Mode(sys.argv[1]), "test")))
print("ready", flush=True)
for number in itertools.count():
    if number % 5 == 4:
        table.remove()
    else:
        table.apply(rule_set(family, f"-p udp --dport {number % 7 + 1} -j ACCEPT"))
"""


def without_counters(saved: str) -> str:
    return re.sub(r"\[\d+:\d+\]", "", saved)


def test_the_next_write_repairs_what_a_killed_one_left(node):
    node.restore(FOREIGN)
    before = without_counters(node.saved())  # legacy may lose them, see IptablesCommands.restore
    wanted = rule_set(node.family)
    for delay in (0.05, 0.3) if node.in_guest else (0, 0.003, 0.006, 0.01, 0.014, 0.019, 0.025, 0.033):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, node.mode, node.family], stdout=subprocess.PIPE, process_group=0
        )
        assert writer.stdout and writer.stdout.readline()
        time.sleep(delay)
        os.killpg(writer.pid, signal.SIGKILL)  # with the iptables-restore that it may be running
        writer.communicate()
        node.table.apply(wanted)
        assert node.table.verify(wanted) == []
        assert without_counters(node.foreign()) == before
    node.table.remove()
    assert without_counters(node.saved()) == before


def test_two_writers_at_once(node):
    """Another program writes the same tables all the time; nobody's rules are lost."""
    stop = threading.Event()
    wanted = rule_set(node.family)
    writes = 0

    def write() -> None:
        nonlocal writes
        while not stop.is_set():
            text = f"*filter\n:FOREIGN - [0:0]\n-A FOREIGN -p tcp --dport {writes % 9 + 1} -j ACCEPT\nCOMMIT\n"
            subprocess.run([f"{node.command}-restore", "--noflush", "--wait", "5"], input=text, text=True, check=True)
            writes += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(2 if node.in_guest else 20):
            node.table.apply(wanted)
    finally:
        stop.set()
        writer.join()
    assert writes > 1
    assert node.table.verify(wanted) == []
    assert len(node.chain("filter", "FOREIGN")) == 1


@pytest.fixture(params=[pytest.param("native"), pytest.param("guest", marks=pytest.mark.kernel)])
def legacy(request: pytest.FixtureRequest) -> Iterator[RuleTable]:
    if request.param == "native":
        skip_unless_native(Mode.LEGACY)
    request.getfixturevalue("netns")
    variant = Variant(Mode.LEGACY, "only this one has a lock")
    table = RuleTable(KernelRules(Family.IPV4, variant, lock_seconds=1.5))
    yield table
    table.close()


def test_the_lock_is_waited_for(legacy):
    wanted = rule_set(legacy.family)
    with open("/run/xtables.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        threading.Timer(1.2, fcntl.flock, (lock, fcntl.LOCK_UN)).start()
        legacy.apply(wanted)
    assert legacy.verify(wanted) == []


def test_a_lock_that_is_never_let_go(legacy):
    with open("/run/xtables.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RulesLocked, match="xtables lock") as refusal:
            legacy.apply(rule_set(legacy.family))
    assert refusal.value.code == errno.EAGAIN


# Which kind of rules the node uses


@pytest.fixture
def both_kinds(request: pytest.FixtureRequest):
    for mode in Mode:
        skip_unless_native(mode)
    return request.getfixturevalue("netns")


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("command", ["iptables", "ip6tables"])
@pytest.mark.parametrize("chain", ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"])
def test_kubelets_chain_decides(both_kinds, mode, command, chain):
    other = Mode.LEGACY if mode is Mode.NFT else Mode.NFT
    for _ in range(3):
        both_kinds.run(f"iptables-{other}", "-A", "INPUT", "-j", "ACCEPT")
    both_kinds.run(f"{command}-{mode}", "-t", "mangle", "-N", chain)
    assert find_variant() == Variant(mode, f"kubelet's chain {chain} exists")


def test_then_the_number_of_rules(both_kinds):
    assert find_variant() == Variant(Mode.NFT, "there are 0 rules of nft, and 0 legacy ones")
    both_kinds.run("ip6tables-legacy", "-A", "INPUT", "-j", "ACCEPT")
    assert find_variant() == Variant(Mode.LEGACY, "there are 1 legacy rules, and 0 of nft")
    both_kinds.run("iptables-nft", "-A", "INPUT", "-j", "ACCEPT")
    assert find_variant() == Variant(Mode.NFT, "there are 1 rules of nft, and 1 legacy ones")


@pytest.mark.kernel
@pytest.mark.only_where(not works("iptables-nft"))
def test_a_kernel_without_nf_tables(netns):
    assert find_variant() == Variant(Mode.LEGACY, "this kernel has no nf_tables for iptables-nft to write")


def leaves_of(both_kinds, mode):
    return [
        line
        for command in ("iptables", "ip6tables")
        for line in both_kinds.run(f"{command}-{mode}-save").splitlines()
        if "IPVSAGENT" in line
    ]


def filter_here():
    variant = find_variant()
    return IptablesPacketFilter(
        Config(node_name="here"),
        INSTEAD_OF_IPVS,
        ServerRules(ServerChains(KernelRules(f, variant)) for f in FAMILIES).tables,
    )


@pytest.mark.parametrize("mode", Mode)
def test_the_variant_that_the_node_used_before_is_left_clean(both_kinds, mode):
    other = Mode.LEGACY if mode is Mode.NFT else Mode.NFT
    both_kinds.run(f"iptables-{other}", "-A", "INPUT", "-j", "ACCEPT")
    both_kinds.run(f"iptables-{other}", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")
    sets = SetTable()
    sets.ensure(set_specs())
    before = filter_here()
    before.install()
    assert before.variant.mode is other and leaves_of(both_kinds, other)
    before.close()

    both_kinds.run(f"iptables-{other}", "-t", "mangle", "-X", "KUBE-KUBELET-CANARY")
    both_kinds.run(f"iptables-{mode}", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")
    after = filter_here()
    after.install()
    assert after.variant.mode is mode and leaves_of(both_kinds, other), "they serve until the new ones do"
    after.take_over()
    assert leaves_of(both_kinds, mode) and not leaves_of(both_kinds, other)
    assert not after.differences()
    after.close()
    assert "-A INPUT -j ACCEPT" in both_kinds.run(f"iptables-{other}-save")


@pytest.mark.parametrize("mode", Mode)
def test_cleanup_finds_the_rules_of_both_variants(both_kinds, mode):
    other = Mode.LEGACY if mode is Mode.NFT else Mode.NFT
    both_kinds.run(f"iptables-{other}", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")
    sets = SetTable()
    sets.ensure(set_specs())
    filter_here().install()
    both_kinds.run(f"iptables-{other}", "-t", "mangle", "-X", "KUBE-KUBELET-CANARY")
    both_kinds.run(f"iptables-{mode}", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")
    filter_here().remove()
    assert not leaves_of(both_kinds, mode) and not leaves_of(both_kinds, other)
    sets.remove()


def test_finding_out_makes_no_tables(both_kinds):
    find_variant()
    assert both_kinds.run("iptables-legacy-save") == ""


def test_finding_out_writes_nothing_where_there_are_rules(both_kinds):
    both_kinds.run("iptables-legacy", "-A", "INPUT", "-j", "ACCEPT")
    generation = NftGeneration()
    before = generation.read([])
    find_variant()
    assert generation.read([]) == before
    generation.close()


def test_no_iptables_at_all(monkeypatch):
    monkeypatch.setattr(iptables_tool, "_PATH", "/nowhere")
    with pytest.raises(StartError, match=r"iptables-nft-save is not installed\. Install the Debian package iptables"):
        KernelRules(Family.IPV4)


@pytest.mark.parametrize(("said", "mode"), [("v1.8.9 (nf_tables)", Mode.NFT), ("v1.6.1", Mode.LEGACY)])
def test_an_installation_with_plain_names_only(tmp_path, monkeypatch, said, mode):
    for name, text in {"iptables": f"echo 'iptables {said}'", "iptables-save": "true"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(iptables_tool, "_PATH", str(tmp_path))
    assert program(Family.IPV4, mode, "-save") == str(tmp_path / "iptables-save")
    with pytest.raises(StartError):
        program(Family.IPV4, Mode.LEGACY if mode is Mode.NFT else Mode.NFT, "-save")


# Only the fake


def test_the_fake_fails_crashes_and_lacks_features():
    kernel = FakeKernel()
    family = Family.IPV4
    wanted = rule_set(family)
    kernel.rules_error = RulesRefused("no")
    with pytest.raises(RulesRefused):
        kernel.rules[family].apply(wanted)
    kernel.heal()
    for steps in range(3):
        kernel.crash_after(steps)
        with pytest.raises(Killed):
            kernel.rules[family].apply(rule_set(family, f"-p {steps} -j ACCEPT"))
        kernel.restart()
        kernel.rules[family].apply(wanted)
        assert kernel.rules[family].verify(wanted) == []
    kernel.features.discard(Feature.BPF)
    assert not kernel.rules[family].supports(Feature.BPF)
    assert kernel.rules[family].supports(Feature.IPVS)


def test_others_may_change_the_fake():
    kernel = FakeKernel()
    rules = kernel.rules[Family.IPV6]
    wanted = rule_set(Family.IPV6)
    rules.apply(wanted)
    kernel.rule_tools[Family.IPV6].restore("*filter\n-I INPUT 1 -j ACCEPT\nCOMMIT\n")
    assert rules.changed()
    assert len(rules.verify(wanted)) == 1
    rules.apply(wanted)
    assert "-A INPUT -j IPVSAGENT-INPUT\n-A INPUT -j ACCEPT\n" in kernel.rule_tools[Family.IPV6].save()


def test_sets_of_the_fake_are_in_use_by_its_rules():
    kernel = FakeKernel()
    kernel.sets.ensure([SetSpec("IPVSAGENT-VIP", "hash:ip", Family.IPV4)])
    rules = kernel.rules[Family.IPV4]
    rules.apply(rule_set(Family.IPV4, "-m set --match-set IPVSAGENT-VIP dst -j ACCEPT"))
    assert kernel.sets.state()["IPVSAGENT-VIP"].references == 1
    with pytest.raises(KernelError, match="in use"):
        kernel.sets.remove()
    rules.remove()
    kernel.sets.remove()
    assert kernel.sets.state() == {}
