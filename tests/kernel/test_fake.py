"""What the fake can do that the kernel cannot: fail, crash and count on demand."""

from __future__ import annotations

import errno

import pytest

from ipvsagent.address import Address
from ipvsagent.errors import KernelError
from ipvsagent.kernel.fake.kernel import FakeKernel, Killed
from ipvsagent.model import Protocol, VirtualServerId
from ipvsagent.rows import AddressRow, Op, Owner, RealServerRow, Verb, VirtualServerRow

ID = VirtualServerId(Protocol.TCP, Address("10.96.0.1"), 80)
SERVICE = VirtualServerRow(ID, "rr")
REALS = [RealServerRow(ID, Address(f"10.0.0.{n}"), 8080) for n in (2, 1)]
OPS = [Op(Verb.ADD, row) for row in (SERVICE, *REALS)]
BIND = Op(Verb.ADD, AddressRow(ID.address))


def test_faults_have_no_effect_until_healed():
    kernel = FakeKernel()
    kernel.fail(lambda op: op.row == REALS[0], errno.ENOMEM)
    (failure,) = kernel.ipvs.write(OPS)
    assert (failure.op, failure.error.code) == (OPS[1], errno.ENOMEM)
    assert kernel.snapshot() == {SERVICE, REALS[1]}
    kernel.heal()
    assert kernel.ipvs.write([OPS[1]]) == []


def test_read_can_fail():
    kernel = FakeKernel()
    kernel.read_error = KernelError.of(errno.ETIMEDOUT)
    with pytest.raises(KernelError):
        list(kernel.ipvs.read(None))
    with pytest.raises(KernelError):
        kernel.addresses.read(None)
    kernel.heal()
    assert list(kernel.ipvs.read(None)) == []


@pytest.mark.parametrize("ops", range(5))
def test_crash_after_any_op_and_restart(ops, tmp_path):
    kernel = FakeKernel(ledger=tmp_path / "ledger")
    kernel.crash_after(ops)
    if ops < 4:
        with pytest.raises(Killed):
            kernel.addresses.write([BIND] if kernel.ipvs.write(OPS) == [] else [])
    else:
        kernel.ipvs.write(OPS)
        kernel.addresses.write([BIND])
    assert kernel.snapshot() == {op.row for op in [*OPS, BIND][:ops]}
    kernel.restart()
    kernel.ipvs.write([])
    assert ID in kernel.ownership.ledger  # claimed before the op
    assert {seen.owner for seen in kernel.ipvs.read(None)} <= {Owner.OURS}


def test_hook_sees_every_state_in_between():
    kernel = FakeKernel()
    seen = []
    kernel.after_each_op = lambda op: seen.append((op.row, len(kernel.snapshot())))
    kernel.ipvs.write([*OPS, OPS[0]])
    assert seen == [(SERVICE, 1), (REALS[0], 2), (REALS[1], 3)]


def test_counts_and_log():
    kernel = FakeKernel()
    kernel.ipvs.write([*OPS, OPS[0]])
    list(kernel.ipvs.read([ID]))
    list(kernel.addresses.read(None))
    assert (kernel.calls, kernel.ops_written, kernel.rows_read) == (3, 4, 3)
    assert kernel.log == [*OPS, OPS[0]]


def test_other_programs_and_clients():
    kernel = FakeKernel(node_addresses={"192.0.2.1": "eth0"})
    kernel.put(SERVICE, *REALS, AddressRow(ID.address))
    kernel.connect(ID, "10.0.0.1", 8080, 3, 2, 1)
    found = {seen.row: seen for seen in kernel.ipvs.read(None)}
    assert {seen.owner for seen in found.values()} == {Owner.FOREIGN}
    assert (found[REALS[1]].active, found[REALS[1]].inactive, found[REALS[1]].persistent) == (3, 2, 1)
    assert found[REALS[0]].active == 0
    kernel.drop(REALS[0], AddressRow(ID.address))
    assert kernel.snapshot() == {SERVICE, REALS[1]}
    kernel.flush()
    assert kernel.snapshot() == set()
    assert kernel.log == []
    assert kernel.addresses.node_addresses() == {"192.0.2.1": "eth0"}


def test_dump_is_a_listing_of_ipvsadm():
    kernel = FakeKernel()
    kernel.ipvs.write(OPS)
    assert kernel.dump() == (
        "-A -t 10.96.0.1:80 -s rr\n"
        "-a -t 10.96.0.1:80 -r 10.0.0.1:8080 -m -w 1\n"
        "-a -t 10.96.0.1:80 -r 10.0.0.2:8080 -m -w 1\n"
    )


def test_memory_ledger_survives_a_restart():
    kernel = FakeKernel()
    kernel.ipvs.write(OPS)
    kernel.restart()
    assert {seen.owner for seen in kernel.ipvs.read(None)} == {Owner.OURS}
