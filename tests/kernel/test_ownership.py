"""The ledger through crashes and churn; whose a virtual server is."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipvsagent.address import Address
from ipvsagent.errors import KernelError
from ipvsagent.kernel.ipvs import ownership
from ipvsagent.kernel.ipvs.ownership import Claims, Ledger, Ownership, state_key
from ipvsagent.kernel.netlink import OutcomeUnknown
from ipvsagent.model import Protocol, VirtualServerId
from ipvsagent.rows import Op, Owner, Verb, VirtualServerRow

IDS = [VirtualServerId(Protocol.TCP, Address(f"10.0.0.{n}"), 8080) for n in range(1, 4)]
IDS += [VirtualServerId(Protocol.FWM, Address("::"), 7), VirtualServerId(Protocol.SCTP, Address("fd00::1"), 1)]
A, B, C, *_ = IDS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "ledger"


def held(path: Path | None) -> set[VirtualServerId]:
    ledger = Ledger(path)
    return {server for server in IDS if server in ledger}


def test_a_new_reader_sees_what_was_claimed(path):
    ledger = Ledger(path)
    assert not path.exists()  # looking writes nothing
    ledger.claim(IDS)
    ledger.release([B])
    ledger.claim([A])
    assert held(path) == set(IDS) - {B}
    assert len(ledger) == len(IDS) - 1
    assert path.read_text().splitlines()[0] == "+ TCP 10.0.0.1 8080"


def test_one_write_a_batch(path, monkeypatch):
    writes = []
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: writes.append(data) or real(file, data))
    ledger = Ledger(path)
    ledger.claim(IDS)
    ledger.claim(IDS)
    ledger.release([])
    assert len(writes) == 1


def test_memory_only():
    ledger = Ledger(None)
    ledger.claim([A, B])
    ledger.release([A])
    ledger.compact([B])
    assert A not in ledger
    assert B in ledger
    assert ledger.fault is None


@pytest.mark.parametrize("cut", range(1, len("+ TCP 10.0.0.2 8080\n")))
def test_torn_last_line(path, cut):
    """Also where the torn rest is a line that looks whole: port 80 of 8080."""
    Ledger(path).claim([A, B])
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert held(path) == {A}
    ledger = Ledger(path)
    ledger.claim([C])
    assert held(path) == {A, C}
    assert len(Ledger(path)) == 2


def test_rubbish_is_skipped(path):
    path.parent.mkdir()
    path.write_bytes(b"\n+ TCP\n? TCP 10.0.0.1 80\n+ XYZ 1.2.3.4 5\n\xff\xfe\n+ TCP 10.0.0.1 8080\n+ TCP x 1\n")
    assert held(path) == {A}


def test_compact_keeps_what_exists(path):
    ledger = Ledger(path)
    ledger.claim([A, B, C])
    ledger.compact([B, C, IDS[3]])
    assert held(path) == {B, C}
    assert path.read_text().count("\n") == 2
    ledger.claim([A])
    assert held(path) == {A, B, C}
    assert [p.name for p in path.parent.iterdir()] == ["ledger"]


def test_the_file_does_not_grow_for_ever(path, monkeypatch):
    monkeypatch.setattr(ownership, "_SLACK", 50)
    ledger = Ledger(path)
    ledger.claim([A])
    for _ in range(500):
        ledger.claim([B])
        ledger.release([B])
    assert path.read_text().count("\n") < 70
    assert held(path) == {A}


def test_unwritable_file_is_a_fault_and_no_failure(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    ledger = Ledger(blocked / "ledger")
    ledger.claim([A])
    ledger.compact([A])
    assert A in ledger
    assert isinstance(ledger.fault, OSError)


def test_full_disk_is_made_up_for(path, monkeypatch):
    ledger = Ledger(path)
    ledger.claim([A])
    real = os.write
    room = [10]

    def write(file: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "")
        taken, room[0] = room[0], 0
        return real(file, data[:taken])

    monkeypatch.setattr(os, "write", write)
    ledger.claim([B])
    assert ledger.fault is not None
    assert held(path) == {A}
    monkeypatch.undo()
    ledger.claim([C])
    assert ledger.fault is None
    assert held(path) == {A, B, C}


@given(
    st.lists(st.tuples(st.sampled_from(["claim", "release", "compact"]), st.sets(st.sampled_from(IDS))), max_size=12)
)
def test_the_file_says_what_memory_says(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("ledger") / "ledger"
    ledger = Ledger(path)
    expected: set[VirtualServerId] = set()
    for step, servers in steps:
        getattr(ledger, step)(servers)
        expected = {
            "claim": expected | servers,
            "release": expected - servers,
            "compact": expected & servers,
        }[step]
        assert held(path) == expected
        if len(steps) % 2:
            ledger = Ledger(path)


def op(verb: Verb, server: VirtualServerId) -> Op:
    return Op(verb, VirtualServerRow(server, "rr"))


def test_claims_are_written_before_and_kept_when_nobody_knows():
    ledger = Ledger(None)
    ledger.claim([C])
    ops = [op(Verb.ADD, A), op(Verb.ADD, B), op(Verb.DELETE, C)]
    claims = Claims(ledger, ops)
    assert all(server in ledger for server in (A, B, C))
    unknown = OutcomeUnknown(errno.ETIMEDOUT)
    claims.settle({0: unknown, 1: KernelError.of(errno.ENOENT), 2: unknown})
    assert A in ledger
    assert B not in ledger
    assert C in ledger


def test_refusal_does_not_lose_an_older_claim():
    ledger = Ledger(None)
    ledger.claim([A])
    Claims(ledger, [op(Verb.ADD, A)]).settle({0: KernelError.of(errno.EEXIST)})
    assert A in ledger


def test_owner():
    bound: set[Address] = set()
    ledger = Ledger(None)
    owners = Ownership(ledger, bound, ["10.0.0.2/31", "fd00::/16"])
    bound.update(server.address for server in IDS)
    assert owners.owner_of(A) is Owner.OURS
    assert owners.owner_of(B) is Owner.FOREIGN
    assert owners.owner_of(IDS[4]) is Owner.FOREIGN
    owners.adopt([B])
    assert owners.owner_of(B) is Owner.OURS
    bound.clear()
    assert owners.observe(A) is Owner.FOREIGN
    bound.update(server.address for server in IDS)
    assert owners.owner_of(A) is Owner.FOREIGN, "it was recorded as foreign"
    assert owners.owner_of(B) is Owner.OURS


def test_state_key_is_a_file_name():
    assert re.fullmatch(r"(netns|inode)-\d+", state_key())
    assert state_key() == state_key()


@pytest.mark.kernel
def test_state_key_is_of_the_namespace(netns, new_netns):
    here = state_key()
    with new_netns().entered():
        assert state_key() != here
    assert state_key() == here


def test_a_foreign_server_stays_foreign_when_its_address_becomes_ours_and_after_a_restart(tmp_path: Path) -> None:
    theirs, ours = A, VirtualServerId(Protocol.TCP, A.address, 81)
    ownership = Ownership(Ledger(tmp_path / "ledger"), set())
    assert ownership.observe(theirs) is Owner.FOREIGN
    ownership.ledger.claim([ours])
    ownership.bound.add(theirs.address)
    assert ownership.owner_of(theirs) is Owner.FOREIGN and ownership.owner_of(ours) is Owner.OURS
    restarted = Ownership(Ledger(tmp_path / "ledger"), {theirs.address})
    assert restarted.owner_of(theirs) is Owner.FOREIGN
    restarted.ledger.compact([theirs, ours])
    assert Ownership(Ledger(tmp_path / "ledger"), {theirs.address}).owner_of(theirs) is Owner.FOREIGN
    restarted.ledger.compact([ours])
    assert Ownership(Ledger(tmp_path / "ledger"), {theirs.address}).owner_of(theirs) is Owner.OURS


def test_classification_records_nothing() -> None:
    bound: set[Address] = set()
    ownership = Ownership(Ledger(None), bound)
    assert ownership.owner_of(A) is Owner.FOREIGN
    bound.add(A.address)
    assert ownership.owner_of(A) is Owner.OURS and ownership.observe(A) is Owner.OURS


def test_observing_a_foreign_server_writes_nothing(tmp_path: Path) -> None:
    Ownership(Ledger(tmp_path / "ledger"), set()).observe(A)
    assert not (tmp_path / "ledger").exists()
