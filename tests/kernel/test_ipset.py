"""What a table of set members promises. The fake and the real kernel run the same cases."""

from __future__ import annotations

import errno
import functools
import os
import random
import subprocess
import time
from collections.abc import Iterator

import pytest

from ipvsagent.address import Family
from ipvsagent.errors import AlreadyThere, NotThere, StartError
from ipvsagent.kernel.fake.kernel import FakeKernel, Killed
from ipvsagent.kernel.fake.sets import FakeSetTable
from ipvsagent.kernel.ipset.messages import HASH_FULL, SetFull, SetInUse
from ipvsagent.kernel.ipset.table import SetTable
from ipvsagent.rows import AddressRow, Observed, Op, Owner, SetMemberRow, SetSpec, Verb
from tests.support.ops import add, delete

V4, V6 = Family.IPV4, Family.IPV6
A = SetSpec("IPVSAGENT-A", "hash:ip,port", V4)
SPECS = [
    A,
    SetSpec("IPVSAGENT-I", "hash:ip", V6),
    SetSpec("IPVSAGENT-N", "hash:net", V4),
    SetSpec("IPVSAGENT-S", "hash:ip,port,net", V6),
    SetSpec("IPVSAGENT-H", "hash:ip,port,ip", V4),
    SetSpec("IPVSAGENT-M", "hash:ip,port", V4, skbinfo=True),
]
MARK = "10.96.0.1,tcp:80 skbmark 0x10100000/0x1ff00000"
OTHER_MARK = "10.96.0.1,tcp:80 skbmark 0x10200000/0x1ff00000"


def row(name: str, member: str) -> SetMemberRow:
    return SetMemberRow(f"IPVSAGENT-{name}", member)


ROWS = [
    *(row("A", f"10.96.0.1,{protocol}:80") for protocol in ("tcp", "udp", "sctp")),
    row("I", "fd00::1"),
    *(row("N", network) for network in ("10.0.0.0/8", "10.0.0.0/16", "192.0.2.1", "0.0.0.0/1")),
    *(row("S", f"fd00::1,tcp:443,{network}") for network in ("2001:db8::/32", "2001:db8::1", "8000::/1")),
    row("H", "10.96.0.1,tcp:80,10.0.0.1"),
    row("M", MARK),
    row("M", "10.96.0.2,tcp:80 skbmark 0x7"),
    row("M", "10.96.0.3,tcp:80"),
]
MANY = [row("A", f"10.{n >> 16}.{n >> 8 & 255}.{n & 255},tcp:80") for n in range(10_000)]


@functools.cache
def no_native_ipset() -> str:
    if os.geteuid() != 0:
        return "needs root"
    tried = subprocess.run(["unshare", "-n", "ipset", "list", "-n"], capture_output=True, text=True)
    return tried.stderr.strip()


@pytest.fixture(params=["fake", "native", pytest.param("kernel", marks=pytest.mark.kernel)])
def sets(request: pytest.FixtureRequest) -> Iterator[FakeSetTable | SetTable]:
    if request.param == "fake":
        yield FakeKernel().sets
        return
    yield from opened(request)


@pytest.fixture(params=["native", pytest.param("kernel", marks=pytest.mark.kernel)])
def real(request: pytest.FixtureRequest) -> Iterator[SetTable]:
    yield from opened(request)


def opened(request: pytest.FixtureRequest) -> Iterator[SetTable]:
    """A table in a namespace, on the kernel that runs the tests or on the guest's."""
    if request.param == "native" and (reason := no_native_ipset()):
        pytest.skip(reason)
    request.getfixturevalue("netns")
    table = SetTable()
    yield table
    table.close()


def rows(table, keys=None) -> set:
    seen = [observed.row for observed in table.read(keys)]
    assert len(seen) == len(set(seen))
    return set(seen)


def codes(failures) -> list[int]:
    return [failure.error.code for failure in failures]


def test_round_trip(sets):
    sets.ensure(SPECS)
    assert sets.write(add(*ROWS)) == []
    assert rows(sets) == set(ROWS)
    assert rows(sets, ROWS) == set(ROWS)
    assert all(seen == Observed(seen.row, Owner.OURS) for seen in sets.read(None))
    assert sets.write(delete(*ROWS)) == []
    assert rows(sets) == rows(sets, ROWS) == set()


def test_read_of_some(sets):
    sets.ensure(SPECS)
    sets.write(add(*ROWS[:3]))
    asked = [*ROWS[1:5], row("A", "10.96.0.9,tcp:80"), row("M", MARK), row("Z", "1.2.3.4"), row("A", "nonsense")]
    assert rows(sets, asked) == set(ROWS[1:3])
    assert rows(sets, []) == set()


def test_present_and_absent_are_no_failures(sets):
    sets.ensure([A])
    assert sets.write(add(ROWS[0], ROWS[0])) == []
    assert sets.write(delete(ROWS[0], ROWS[0])) == []
    assert sets.write(delete(row("Z", "10.96.0.1"))) == []
    assert sets.write([]) == []


def test_unknown_set(sets):
    (failure,) = sets.write(add(row("Z", "10.96.0.1")))
    assert isinstance(failure.error, NotThere)
    assert "there is no set IPVSAGENT-Z" in str(failure.error)


def test_full_set_names_itself_and_others_go_on(sets):
    sets.ensure([SetSpec("IPVSAGENT-A", "hash:ip,port", V4, 64), SPECS[1]])
    failures = sets.write(add(*MANY[:100], ROWS[3]))
    assert failures
    assert {type(failure.error) for failure in failures} == {SetFull}
    assert set(codes(failures)) == {HASH_FULL}
    assert str(failures[0].error) == "set IPVSAGENT-A is full: it holds 64 elements"
    assert sets.state()["IPVSAGENT-A"].elements == 64
    assert rows(sets) == {op.row for op in add(*MANY[:100], ROWS[3])} - {failure.op.row for failure in failures}
    assert sets.write(delete(*MANY[:100])) == []
    assert sets.write(add(*MANY[:64])) == []


def test_what_cannot_be_held_is_refused_with_a_reason(sets):
    sets.ensure(SPECS)
    bad = [row("N", "0.0.0.0/0"), row("A", "10.0.0.1"), row("A", "fd00::1,tcp:80"), AddressRow("10.0.0.1")]
    failures = sets.write(add(bad[0], ROWS[0], *bad[1:]))
    assert [failure.op.row for failure in failures] == bad
    assert codes(failures) == [errno.EINVAL] * 4
    assert "its two halves, 0.0.0.0/1 and 128.0.0.0/1" in str(failures[0].error)
    assert rows(sets) == {ROWS[0]}


def test_members_that_differ_in_their_mark_only_are_told_apart(sets):
    sets.ensure(SPECS)
    sets.write(add(row("M", MARK)))
    assert rows(sets, [row("M", MARK), row("M", OTHER_MARK), row("M", "10.96.0.1,tcp:80")]) == {row("M", MARK)}


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("deletion_first", [True, False])
@pytest.mark.parametrize("after", [OTHER_MARK, "10.96.0.1,tcp:80"])
def test_a_member_that_gets_another_mark_is_never_lost(sets, together, deletion_first, after):
    sets.ensure(SPECS)
    sets.write(add(row("M", MARK)))
    ops = [*add(row("M", after)), *delete(row("M", MARK))]
    if deletion_first:
        ops.reverse()
    for batch in [ops] if together else [[op] for op in ops]:
        assert sets.write(batch) == []
    assert rows(sets) == {row("M", after)}
    assert sets.write(delete(row("M", MARK))) == []
    assert rows(sets) == {row("M", after)}
    assert sets.write(delete(row("M", after))) == []
    assert rows(sets) == set()


def test_a_new_agent_sees_marks_before_it_deletes(real):
    real.ensure(SPECS)
    real.write(add(row("M", MARK)))
    again = SetTable()
    assert rows(again) == {row("M", MARK)}
    assert again.write([*add(row("M", OTHER_MARK)), *delete(row("M", MARK))]) == []
    assert rows(again) == {row("M", OTHER_MARK)}
    again.close()


def test_ensure_again_changes_nothing(sets):
    sets.ensure(SPECS)
    sets.write(add(*ROWS))
    before = sets.state()
    sets.ensure(SPECS)
    assert sets.state() == before
    assert rows(sets) == set(ROWS)
    assert {name: header.elements for name, header in before.items()} == {
        spec.name: sum(row.set == spec.name for row in ROWS) for spec in SPECS
    }


@pytest.mark.parametrize(
    "spec",
    [
        SetSpec("IPVSAGENT-A", "hash:ip,port", V4, 99),
        SetSpec("IPVSAGENT-A", "hash:ip,port", V4, skbinfo=True),
    ],
)
def test_another_size_or_option_keeps_the_members(sets, spec):
    sets.ensure([A])
    sets.write(add(*ROWS[:3]))
    sets.ensure([spec])
    assert rows(sets) == set(ROWS[:3])
    held = sets.state()
    assert list(held) == [A.name]
    assert held[A.name].fits(spec)


def test_marks_go_with_skbinfo(sets):
    sets.ensure(SPECS)
    sets.write(add(*ROWS[-3:]))
    sets.ensure([SetSpec("IPVSAGENT-M", "hash:ip,port", V4)])
    assert rows(sets) == {row("M", f"10.96.0.{n},tcp:80") for n in (1, 2, 3)}


def test_another_kind_or_family_begins_empty(sets):
    sets.ensure([A])
    sets.write(add(*ROWS[:3]))
    for spec in (SetSpec(A.name, "hash:ip", V4), SetSpec(A.name, "hash:ip", V6)):
        sets.ensure([spec])
        assert sets.state()[A.name].fits(spec)
        assert rows(sets) == set()


def test_a_smaller_set_that_cannot_hold_its_members_is_refused(sets):
    sets.ensure([A])
    sets.write(add(*MANY[:100]))
    with pytest.raises(StartError, match=r"its 100 members do not fit.*ipset destroy IPVSAGENT-A"):
        sets.ensure([SetSpec(A.name, A.kind, V4, 10)])
    assert rows(sets) == set(MANY[:100])
    assert list(sets.state()) == [A.name]


def test_remove(sets):
    sets.ensure(SPECS)
    sets.write(add(*ROWS))
    sets.remove([A.name, "IPVSAGENT-NEVER-THERE"])
    assert A.name not in sets.state()
    assert rows(sets) == set(ROWS[3:])
    sets.remove()
    assert sets.state() == {}
    assert rows(sets) == rows(sets, ROWS) == set()
    sets.remove()
    assert codes(sets.write(add(ROWS[0]))) == [errno.ENOENT]


# Only the real one


def iptables(netns, *words: str) -> None:
    netns.run("iptables-legacy", *words)


def test_texts_are_those_of_ipset_save(real, netns):
    real.ensure(SPECS)
    real.write(add(*ROWS))
    saved = netns.run("ipset", "save").splitlines()
    assert {line for line in saved if line.startswith("add ")} == {str(row) for row in ROWS}
    assert [" ".join(line.split()[:3]) for line in saved if line.startswith("create ")] == [
        f"create {spec.name} {spec.kind}" for spec in SPECS
    ]


def test_members_of_ipset_are_read_as_it_prints_them(real, netns):
    odd = ["10.0.0.0/8 nomatch", "10.1.0.0/16"]
    netns.run("ipset", "create", "IPVSAGENT-N", "hash:net")
    netns.run("ipset", "create", "IPVSAGENT-M", "hash:ip,port", "skbinfo")
    netns.run("ipset", "create", "IPVSAGENT-X", "bitmap:port", "range", "1-100")
    netns.run("ipset", "add", "IPVSAGENT-X", "80")
    marked = ["10.0.0.1,tcp:80 skbmark 0xab/0xff skbprio 1:a skbqueue 3", "10.0.0.2,icmp:8/0"]
    for name, member in [*(("N", one) for one in odd), *(("M", one) for one in marked)]:
        netns.run("ipset", "add", f"IPVSAGENT-{name}", *member.split())
    found = rows(real)
    assert found == {row("N", odd[0]), row("N", odd[1]), row("M", marked[0]), row("M", "10.0.0.2,1:2048")}
    assert codes(real.write(add(row("X", "80")))) == [errno.EINVAL]
    assert real.write(delete(row("N", odd[0]), row("N", odd[1]), row("M", "10.0.0.2,1:2048"))) == []
    assert rows(real) == {row("M", marked[0])}


def test_foreign_sets_stay(real, netns):
    netns.run("ipset", "create", "KUBE-CLUSTER-IP", "hash:ip,port")
    netns.run("ipset", "add", "KUBE-CLUSTER-IP", "10.96.0.1,tcp:443")
    before = netns.run("ipset", "save")
    real.ensure(SPECS)
    real.write(add(*ROWS))
    assert rows(real) == set(ROWS)
    assert "KUBE-CLUSTER-IP" not in real.state()
    real.remove()
    assert netns.run("ipset", "save") == before


def test_flushed_or_destroyed_sets_are_noticed(real, netns):
    real.ensure(SPECS)
    real.write(add(*ROWS))
    netns.run("ipset", "flush", A.name)
    netns.run("ipset", "destroy", "IPVSAGENT-I")
    state = real.state()
    assert state[A.name].elements == 0
    assert "IPVSAGENT-I" not in state
    assert rows(real, ROWS) == set(ROWS[4:])
    assert codes(real.write(add(*ROWS))) == [errno.ENOENT]
    real.ensure(SPECS)
    assert real.write(add(*ROWS)) == []
    assert rows(real) == set(ROWS)


def test_a_set_in_use_cannot_go_and_is_swapped_in_place(real, netns):
    real.ensure([A])
    real.write(add(*ROWS[:3]))
    iptables(netns, "-A", "INPUT", "-m", "set", "--match-set", A.name, "dst,dst", "-j", "ACCEPT")
    assert real.state()[A.name].references == 1
    with pytest.raises(SetInUse, match="set IPVSAGENT-A is in use by a rule"):
        real.remove()
    real.ensure([SetSpec(A.name, A.kind, V4, 77)])
    assert rows(real) == set(ROWS[:3])
    with pytest.raises(StartError, match="rules use it, and sets of different kinds cannot be swapped"):
        real.ensure([SetSpec(A.name, "hash:ip", V4)])
    iptables(netns, "-F", "INPUT")
    real.remove()
    assert real.state() == {}


def test_what_a_crash_left_of_a_replacement_is_cleared(real, netns):
    real.ensure([A])
    netns.run("ipset", "create", "IPVSAGENT.spare", "hash:ip")
    real.write(add(*ROWS[:3]))
    assert rows(real) == set(ROWS[:3])
    real.ensure([SetSpec(A.name, A.kind, V4, 77)])
    netns.run("ipset", "create", "IPVSAGENT.spare", "hash:ip")
    real.remove()
    assert netns.run("ipset", "save") == ""


def test_never_empty_while_it_is_replaced(real, netns):
    """A rule that asks all the time finds the member, whichever definition is in force."""
    real.ensure([A])
    real.write(add(*ROWS[:3]))
    asker = subprocess.Popen(
        ["sh", "-c", f"while :; do ipset -q test {A.name} 10.96.0.1,tcp:80 || echo lost; done"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for size in range(100, 200):
            real.ensure([SetSpec(A.name, A.kind, V4, size)])
    finally:
        asker.kill()
    assert "lost" not in asker.communicate()[0]


def test_ten_thousand_members_take_a_fraction_of_a_second(real):
    real.ensure([A])
    started = time.perf_counter()
    assert real.write(add(*MANY)) == []
    assert time.perf_counter() - started < 1
    assert rows(real) == set(MANY)
    assert rows(real, MANY) == set(MANY)
    started = time.perf_counter()
    for _ in range(10):
        assert real.state()[A.name].elements == len(MANY)
    assert (time.perf_counter() - started) / 10 < 0.05
    assert real.write(delete(*MANY)) == []
    assert rows(real, MANY) == set()


def test_any_walk_ends_where_it_should(real):
    """Random batches, compared with a set of Python after each."""
    random.seed(7)
    real.ensure(SPECS)
    wanted: set[SetMemberRow] = set()
    for _ in range(50):
        batch = [Op(random.choice([Verb.ADD, Verb.DELETE]), random.choice(ROWS)) for _ in range(20)]
        assert real.write(batch) == []
        for op in batch:
            (wanted.add if op.verb is Verb.ADD else wanted.discard)(op.row)
        assert rows(real) == rows(real, ROWS) == wanted


# Only the fake


def test_the_fake_fails_crashes_and_counts():
    kernel = FakeKernel()
    kernel.sets.ensure([A])
    kernel.fail(lambda op: op.row == ROWS[0], errno.ENOMEM)
    assert codes(kernel.sets.write(add(*ROWS[:3]))) == [errno.ENOMEM]
    assert kernel.snapshot() == set(ROWS[1:3])
    assert (kernel.calls, kernel.ops_written) == (1, 3)
    kernel.heal()
    kernel.crash_after(1)
    with pytest.raises(Killed):
        kernel.sets.write(delete(*ROWS[1:3]))
    kernel.restart()
    assert rows(kernel.sets) == {ROWS[2]}
    kernel.put(ROWS[0])
    kernel.drop(ROWS[2])
    assert kernel.snapshot() == {ROWS[0]}


def test_error_numbers_of_ipset_do_not_look_like_errnos():
    assert not isinstance(SetFull(HASH_FULL, "x"), AlreadyThere | NotThere)
    assert str(SetFull(HASH_FULL, "set X is full")) == "set X is full"
