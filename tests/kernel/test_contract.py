"""What a kernel table promises. The fake and the real kernel run the same cases."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipvsagent.address import Address
from ipvsagent.errors import AlreadyThere, NotThere
from ipvsagent.kernel.addresses import AddressTable
from ipvsagent.kernel.fake.kernel import FakeAddressTable, FakeIpvsTable, FakeKernel
from ipvsagent.kernel.ipvs.ownership import Ledger, Ownership
from ipvsagent.kernel.ipvs.table import IpvsTable
from ipvsagent.model import Forwarding, Protocol, VirtualServerId
from ipvsagent.rows import (
    FULL_MASK,
    FULL_PREFIX,
    ONE_PACKET,
    PERSISTENT,
    SCHED1,
    SCHED2,
    AddressRow,
    Owner,
    RealServerRow,
    Row,
    Tunnel,
    VirtualServerRow,
)
from tests.support.ops import add, delete, put


class RealKernel:
    """The kernel under the test, with the fake's way to restart the agent."""

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger
        self.excluded: tuple[str, ...] = ()
        self._tables: list[IpvsTable | AddressTable] = []
        self.restart()

    def restart(self) -> None:
        self.addresses = AddressTable()
        self.addresses.ensure_interface()
        self.ownership = Ownership(Ledger(self._ledger), self.addresses.bound, self.excluded)
        self.ipvs = IpvsTable(self.ownership)
        self._tables += (self.ipvs, self.addresses)

    def close(self) -> None:
        for table in self._tables:
            table.close()


@pytest.fixture(params=["fake", pytest.param("kernel", marks=pytest.mark.kernel)])
def kernel(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FakeKernel | RealKernel]:
    if request.param == "fake":
        yield FakeKernel(ledger=tmp_path / "ledger")
        return
    request.getfixturevalue("netns")
    real = RealKernel(tmp_path / "ledger")
    yield real
    real.close()


@pytest.fixture
def ipvs(kernel: FakeKernel | RealKernel) -> FakeIpvsTable | IpvsTable:
    return kernel.ipvs


@pytest.fixture
def addresses(kernel: FakeKernel | RealKernel) -> FakeAddressTable | AddressTable:
    return kernel.addresses


def server_id(port: int = 80, address: str = "10.96.0.1", protocol: Protocol = Protocol.TCP) -> VirtualServerId:
    return VirtualServerId(protocol, Address(address), port)


def virtual(port: int = 80, address: str = "10.96.0.1", scheduler: str = "rr", **fields) -> VirtualServerRow:
    protocol = fields.pop("protocol", Protocol.TCP)
    fields.setdefault("mask", FULL_PREFIX if ":" in address else FULL_MASK)
    return VirtualServerRow(server_id(port, address, protocol), scheduler, **fields)


def real(address: str = "10.0.0.1", port: int = 8080, server: VirtualServerId | None = None, **fields):
    return RealServerRow(server or server_id(), Address(address), port, **fields)


def bound(address: str) -> AddressRow:
    return AddressRow(Address(address))


def codes(failures) -> list[int]:
    return [failure.error.code for failure in failures]


def rows(table, keys=None) -> set[Row]:
    seen = [observed.row for observed in table.read(keys)]
    assert len(seen) == len(set(seen))
    return set(seen)


V6 = server_id(443, "fd00:96::1")
MARK = server_id(7, "0.0.0.0", Protocol.FWM)
MARK6 = server_id(7, "::", Protocol.FWM)

ROUND_TRIPS = {
    "tcp": virtual(),
    "udp": virtual(protocol=Protocol.UDP),
    "sctp": virtual(protocol=Protocol.SCTP),
    "v6": virtual(443, "fd00:96::1"),
    "v6 sctp": virtual(443, "fd00:96::1", protocol=Protocol.SCTP),
    "mark": virtual(7, "0.0.0.0", protocol=Protocol.FWM),
    "mark v6": virtual(7, "::", protocol=Protocol.FWM),
    "largest mark": virtual(0xFFFFFFFF, "0.0.0.0", protocol=Protocol.FWM),
    "port 0": virtual(0, flags=PERSISTENT, timeout=300),
    "last port": virtual(65535),
    "any address": virtual(80, "0.0.0.0"),
    "persistent": virtual(flags=PERSISTENT, timeout=10800),
    "persistent for networks": virtual(flags=PERSISTENT, timeout=300, mask=0xFFFFFF00),
    "persistent for v6 networks": virtual(443, "fd00:96::1", flags=PERSISTENT, timeout=300, mask=64),
    "longest persistence": virtual(flags=PERSISTENT, timeout=86400),
    "mh with source port": virtual(scheduler="mh", flags=SCHED2),
    "mh with fallback and port": virtual(scheduler="mh", flags=SCHED1 | SCHED2),
    "sh with fallback": virtual(scheduler="sh", flags=SCHED1),
    "one packet": virtual(protocol=Protocol.UDP, flags=ONE_PACKET),
    "all flags": virtual(scheduler="sh", flags=PERSISTENT | ONE_PACKET | SCHED1 | SCHED2, timeout=1),
    "real": real(),
    "real port 0": real(port=0),
    "weight 0": real(weight=0),
    "largest weight": real(weight=0x7FFFFFFF),
    "thresholds": real(upper_threshold=100, lower_threshold=10),
    "loopback real": real("127.0.0.1"),
    "link-local real": real("169.254.1.1"),
    "local": real(forwarding=Forwarding.LOCAL),
    "route": real(forwarding=Forwarding.ROUTE),
    "tunnel": real(forwarding=Forwarding.TUNNEL),
    "gue": real(forwarding=Forwarding.TUNNEL, tunnel=Tunnel(1, 6080, 2)),
    "gre": real(forwarding=Forwarding.TUNNEL, tunnel=Tunnel(2, 0, 1)),
    "tunnel to v6": real("fd00::2", forwarding=Forwarding.TUNNEL),
    "real v6": real("fd00::1", 8443, V6),
    "loopback real v6": real("::1", 8443, V6),
    "real of mark": real("10.0.0.1", 0, MARK),
    "real of mark v6": real("fd00::1", 0, MARK6),
}
SERVERS = [virtual(), virtual(443, "fd00:96::1"), VirtualServerRow(MARK, "rr"), VirtualServerRow(MARK6, "rr", mask=128)]


@pytest.mark.parametrize("row", ROUND_TRIPS.values(), ids=ROUND_TRIPS.keys())
def test_what_is_added_is_read(ipvs, row):
    if isinstance(row, RealServerRow):
        assert ipvs.write(add(*SERVERS)) == []
    assert ipvs.write(add(row)) == []
    assert row in rows(ipvs)
    if isinstance(row, RealServerRow):
        assert row in rows(ipvs, [row.server])
    else:
        assert rows(ipvs, [row.id]) == {row}
    assert ipvs.write(delete(row)) == []
    assert row not in rows(ipvs)


@pytest.mark.parametrize("row", ROUND_TRIPS.values(), ids=ROUND_TRIPS.keys())
def test_set_replaces_the_whole_row(ipvs, row):
    if isinstance(row, RealServerRow):
        ipvs.write(add(*SERVERS))
        plain = RealServerRow(row.server, row.address, row.port, 5, Forwarding.TUNNEL, 9, 3, Tunnel(1, 1, 1))
    else:
        plain = VirtualServerRow(row.id, "wlc", PERSISTENT | ONE_PACKET, 77, 100)
    assert ipvs.write(add(plain)) == []
    assert ipvs.write(put(row)) == []
    found = rows(ipvs, [row.server if isinstance(row, RealServerRow) else row.id])
    assert row in found
    assert plain not in found


REFUSED = {
    "service twice": (add(virtual()), errno.EEXIST),
    "service twice, other scheduler": (add(virtual(scheduler="wrr")), errno.EEXIST),
    "unknown scheduler": (add(virtual(81, scheduler="nope")), errno.ENOENT),
    "no scheduler": (add(virtual(81, scheduler="")), errno.ENOENT),
    "scheduler name too long": (add(virtual(81, scheduler="n" * 16)), errno.EINVAL),
    "unknown persistence engine": (add(virtual(81, pe_name="nope")), errno.ENOENT),
    "v6 with a v4 mask": (add(virtual(81, "fd00:96::1", mask=FULL_MASK)), errno.EINVAL),
    "v6 with no mask": (add(virtual(81, "fd00:96::1", mask=0)), errno.EINVAL),
    "port out of range": (add(virtual(65536)), errno.ERANGE),
    "timeout out of range": (add(virtual(81, timeout=-1)), errno.ERANGE),
    "set of no service": (put(virtual(81)), errno.ESRCH),
    "set of an unknown scheduler": (put(virtual(scheduler="nope")), errno.ENOENT),
    "set of a v6 with a v4 mask": (put(virtual(443, "fd00:96::1", mask=FULL_MASK)), errno.EINVAL),
    "real twice": (add(real()), errno.EEXIST),
    "real twice, other weight": (add(real(weight=7)), errno.EEXIST),
    "real of no service": (add(real(server=server_id(81))), errno.ESRCH),
    "set of a real of no service": (put(real(server=server_id(81))), errno.ESRCH),
    "set of no real": (put(real("10.0.0.9")), errno.ENOENT),
    "real port out of range": (add(real("10.0.0.9", 65536)), errno.ERANGE),
    "negative weight": (add(real("10.0.0.9", weight=-1)), errno.ERANGE),
    "weight too large": (add(real("10.0.0.9", weight=0x80000000)), errno.ERANGE),
    "set of a weight too large": (put(real(weight=0x80000000)), errno.ERANGE),
    "thresholds crossed": (add(real("10.0.0.9", upper_threshold=1, lower_threshold=2)), errno.ERANGE),
    "gue without port": (
        add(real("10.0.0.9", forwarding=Forwarding.TUNNEL, tunnel=Tunnel(1))),
        errno.EINVAL,
    ),
    "real of the other family": (add(real("fd00::1")), errno.EINVAL),
    "v6 service, v4 real": (add(real("10.0.0.1", server=V6)), errno.EINVAL),
    "unspecified real": (add(real("0.0.0.0")), errno.EINVAL),
    "multicast real": (add(real("224.0.0.1")), errno.EINVAL),
    "broadcast real": (add(real("255.255.255.255")), errno.EINVAL),
    "unspecified v6 real": (add(real("::", server=V6)), errno.EINVAL),
    "multicast v6 real": (add(real("ff02::1", server=V6)), errno.EINVAL),
    "link-local v6 real": (add(real("fe80::1", server=V6)), errno.EINVAL),
    "mapped v4 real": (add(real("::ffff:10.0.0.1", server=V6)), errno.EINVAL),
    "address row": (add(bound("10.96.0.1")), errno.EINVAL),
}


@pytest.mark.parametrize(("ops", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_refusals(ipvs, ops, code):
    assert ipvs.write(add(*SERVERS, real())) == []
    before = rows(ipvs)
    failures = ipvs.write(ops)
    assert codes(failures) == [code]
    assert failures[0].op is ops[0]
    assert rows(ipvs) == before


def test_refusals_have_types(ipvs):
    ipvs.write(add(virtual()))
    exists, no_service, no_real = ipvs.write([*add(virtual(), real(server=server_id(9))), *put(real())])
    assert isinstance(exists.error, AlreadyThere)
    assert isinstance(no_service.error, NotThere)
    assert isinstance(no_real.error, NotThere)


def test_delete_of_what_is_absent_succeeds(ipvs, addresses):
    assert ipvs.write(delete(virtual(), real())) == []
    ipvs.write(add(virtual()))
    assert ipvs.write(delete(real())) == []
    assert addresses.write(delete(bound("10.96.0.1"), bound("fd00:96::1"))) == []


def test_virtual_server_takes_its_real_servers_along(ipvs):
    ipvs.write(add(virtual(), real(), real("10.0.0.2")))
    assert ipvs.write(delete(virtual())) == []
    assert ipvs.write(add(virtual())) == []
    assert rows(ipvs) == {virtual()}


def test_set_of_a_virtual_server_keeps_its_real_servers(ipvs):
    ipvs.write(add(virtual(), real()))
    assert ipvs.write(put(virtual(scheduler="wlc"))) == []
    assert rows(ipvs) == {virtual(scheduler="wlc"), real()}


def test_failure_does_not_stop_the_rest(ipvs):
    ops = add(virtual(), real(), real(), real("0.0.0.0"), real("10.0.0.2"), virtual(), virtual(81, scheduler="nope"))
    ops += [*delete(real()), *put(real()), *add(real(weight=3))]
    failures = ipvs.write(ops)
    assert [ops.index(f.op) for f in failures] == [1, 3, 0, 6, 8]  # equal ops have the first one's place
    assert codes(failures) == [errno.EEXIST, errno.EINVAL, errno.EEXIST, errno.ENOENT, errno.ENOENT]
    assert rows(ipvs) == {virtual(), real("10.0.0.2"), real(weight=3)}


def test_order_is_kept(ipvs):
    ops = []
    for weight in range(50):
        ops += [*add(virtual(), real(weight=weight)), *delete(virtual())]
    assert ipvs.write([*ops, *add(virtual(), real())]) == []
    assert rows(ipvs) == {virtual(), real()}


def test_full_swap(ipvs):
    old, new = [real(f"10.0.0.{n}") for n in range(1, 6)], [real(f"10.0.1.{n}") for n in range(1, 6)]
    ipvs.write(add(virtual(), *old))
    assert ipvs.write([*add(*new), *delete(*old)]) == []
    assert rows(ipvs) == {virtual(), *new}
    assert ipvs.write([*add(*old), *delete(*new)]) == []  # from the kernel's list of deleted ones
    assert rows(ipvs) == {virtual(), *old}


def test_nothing_to_write(ipvs, addresses):
    assert ipvs.write([]) == []
    assert addresses.write([]) == []
    assert rows(ipvs, []) == set()


def test_large_batch(ipvs):
    reals = [real(f"10.{n >> 8}.{n & 255}.1", server=server_id(n % 10 + 1)) for n in range(3000)]
    failures = ipvs.write(add(*[virtual(n) for n in range(1, 11)], *reals, *reals[::7]))
    assert set(codes(failures)) == {errno.EEXIST}
    assert [f.op.row for f in failures] == reals[::7]
    assert rows(ipvs) == {*[virtual(n) for n in range(1, 11)], *reals}
    assert ipvs.write(put(*[real(r.address, server=r.server, weight=9) for r in reals])) == []
    assert ipvs.write(delete(*reals[::2])) == []
    assert len(rows(ipvs)) == 1510


def test_large_batch_that_fails_everywhere(ipvs):
    failures = ipvs.write(add(*[real(f"10.0.{n >> 8}.{n & 255}") for n in range(3000)]))
    assert codes(failures) == [errno.ESRCH] * 3000


def test_reads_what_is_asked_for(ipvs):
    ipvs.write(add(*SERVERS, real(), real("fd00::1", server=V6)))
    assert rows(ipvs, [server_id(), server_id(9), V6]) == {SERVERS[0], SERVERS[1], real(), real("fd00::1", server=V6)}
    many = [virtual(n) for n in range(1000, 1350)]
    ipvs.write(add(*many))
    assert rows(ipvs, [row.id for row in many]) == set(many)


def test_real_servers_follow_their_virtual_server(ipvs):
    ipvs.write(add(*SERVERS, real(), real("10.0.0.2"), real("fd00::1", server=V6)))
    current = None
    for observed in ipvs.read(None):
        if isinstance(observed.row, VirtualServerRow):
            current = observed.row.id
        else:
            assert observed.row.server == current


def test_writing_while_a_read_is_under_way(ipvs):
    ipvs.write(add(*SERVERS, *[real(f"10.0.0.{n}") for n in range(1, 100)]))
    for observed in ipvs.read([server_id(), V6]):
        if isinstance(observed.row, RealServerRow):
            assert ipvs.write(delete(observed.row)) == []
    assert rows(ipvs) == set(SERVERS)


def test_counters_and_connections_start_at_zero(ipvs):
    ipvs.write(add(virtual(), real()))
    for observed in ipvs.read(None, counters=True):
        assert (observed.active, observed.inactive, observed.persistent) == (0, 0, 0)
        assert observed.counters.connections == observed.counters.out_bps == 0
    assert [s.row for s in ipvs.services()] == [virtual()]
    assert [s.counters.in_bytes for s in ipvs.services()] == [0]
    assert {o.counters for o in ipvs.read(None)} == {None}


def test_timeouts(ipvs):
    before = ipvs.timeouts()
    ipvs.set_timeouts(tcp=1000)
    ipvs.set_timeouts(udp=30)
    assert (ipvs.timeouts().tcp, ipvs.timeouts().tcp_fin, ipvs.timeouts().udp) == (1000, before.tcp_fin, 30)
    assert ipvs.info().version == (1, 2, 1)
    # From 7.0 on a namespace has a table of its own, which is made with the first virtual server.
    assert ipvs.write(add(virtual(80))) == []
    assert ipvs.info().table_size > 0


# Ownership


def owners(table) -> dict[int, Owner]:
    return {o.row.id.port: o.owner for o in table.read(None) if isinstance(o.row, VirtualServerRow)}


def test_what_we_add_is_ours_and_what_others_add_is_not(kernel):
    add_as_another_program(kernel, virtual(81, "10.96.0.9"), virtual(82))
    kernel.ipvs.write(add(virtual(80)))
    assert owners(kernel.ipvs) == {80: Owner.OURS, 81: Owner.FOREIGN, 82: Owner.FOREIGN}
    kernel.addresses.write(add(bound("10.96.0.1")))
    assert owners(kernel.ipvs) == {80: Owner.OURS, 81: Owner.FOREIGN, 82: Owner.FOREIGN}, "met before it was bound"
    add_as_another_program(kernel, virtual(83))
    assert owners(kernel.ipvs)[83] is Owner.OURS
    kernel.addresses.write(delete(bound("10.96.0.1")))
    assert owners(kernel.ipvs) == dict.fromkeys((81, 82, 83), Owner.FOREIGN) | {80: Owner.OURS}
    assert {o.owner for o in kernel.ipvs.read([server_id(82)])} == {Owner.FOREIGN}


def test_ledger_survives_a_restart(kernel):
    kernel.ipvs.write(add(virtual(80), virtual(81), real()))
    kernel.ipvs.write(delete(virtual(81)))
    kernel.restart()
    add_as_another_program(kernel, virtual(81))
    assert owners(kernel.ipvs) == {80: Owner.OURS, 81: Owner.FOREIGN}


def test_claim_is_withdrawn_when_somebody_else_has_it(kernel):
    add_as_another_program(kernel, virtual(81))
    kernel.ipvs.write(add(virtual(80)))
    assert codes(kernel.ipvs.write(add(virtual(80), virtual(81), virtual(82, scheduler="nope")))) == [17, 17, 2]
    assert owners(kernel.ipvs) == {80: Owner.OURS, 81: Owner.FOREIGN}
    assert len(kernel.ownership.ledger) == 1
    kernel.restart()
    assert owners(kernel.ipvs) == {80: Owner.OURS, 81: Owner.FOREIGN}


def test_ledger_follows_the_last_of_several_ops_on_one_id(kernel):
    kernel.ipvs.write([*add(virtual(80)), *delete(virtual(80)), *add(virtual(81)), *delete(virtual(81), virtual(82))])
    kernel.ipvs.write([*delete(virtual(83)), *add(virtual(83), virtual(83))])
    assert server_id(83) in kernel.ownership.ledger
    assert len(kernel.ownership.ledger) == 1


def test_bound_addresses_are_known_after_a_read(kernel):
    kernel.addresses.write(add(bound("10.96.0.1")))
    add_as_another_program(kernel, virtual(81))
    kernel.restart()
    assert rows(kernel.addresses) == {bound("10.96.0.1")}
    assert owners(kernel.ipvs) == {81: Owner.OURS}


def add_as_another_program(kernel: FakeKernel | RealKernel, *new: Row) -> None:
    if isinstance(kernel, FakeKernel):
        kernel.put(*new)
        return
    other = IpvsTable(Ownership(Ledger(None), set()))
    assert other.write(add(*new)) == []
    other.close()


# Addresses


def test_addresses(kernel):
    table = kernel.addresses
    one, two, six = bound("10.96.0.1"), bound("10.96.0.2"), bound("fd00:96::1")
    assert table.write(add(one, two, six)) == []
    assert rows(table) == {one, two, six}
    assert rows(table, [one.address, six.address, "10.96.0.9"]) == {one, six}
    assert table.write(add(one, six)) == []  # already there
    assert table.bound == {"10.96.0.1", "10.96.0.2", "fd00:96::1"}
    assert table.write([*delete(one, six), *add(one)]) == []
    assert rows(table) == {one, two}
    assert table.bound == {"10.96.0.1", "10.96.0.2"}


@pytest.mark.parametrize("address", ["::", "::1", "ff02::1"])
def test_addresses_that_no_interface_takes(addresses, address):
    failures = addresses.write(add(bound("10.96.0.1"), bound(address), bound("10.96.0.2")))
    assert codes(failures) == [errno.EADDRNOTAVAIL]
    assert rows(addresses) == {bound("10.96.0.1"), bound("10.96.0.2")}


@pytest.mark.parametrize("address", ["127.0.0.5", "fe80::5"])
def test_addresses_that_are_nobodys_business(addresses, address):
    addresses.write(add(bound(address), bound("10.96.0.1")))
    assert rows(addresses) == {bound("10.96.0.1")}
    assert rows(addresses, [address]) == set()


def test_row_of_another_table(addresses):
    assert codes(addresses.write(add(virtual(), bound("10.96.0.1")))) == [errno.EINVAL]


def test_many_addresses(addresses):
    many = [bound(f"10.96.{n >> 8}.{n & 255}") for n in range(1, 1500)]
    assert addresses.write(add(*many)) == []
    assert rows(addresses) == set(many)
    assert addresses.write(delete(*many)) == []
    assert rows(addresses) == set()


def test_missing_interface(kernel):
    kernel.addresses.write(add(bound("10.96.0.1")))
    remove_interface(kernel)
    failures = kernel.addresses.write([*add(bound("10.96.0.2")), *delete(bound("10.96.0.1"))])
    assert codes(failures) == [errno.ENODEV]
    assert kernel.addresses.bound == set()
    assert rows(kernel.addresses) == set()
    kernel.addresses.ensure_interface()
    kernel.addresses.ensure_interface()
    assert kernel.addresses.write(add(bound("10.96.0.2"))) == []
    assert rows(kernel.addresses) == {bound("10.96.0.2")}


def remove_interface(kernel: FakeKernel | RealKernel) -> None:
    if isinstance(kernel, FakeKernel):
        kernel.interface = False
        return
    from pyroute2 import IPRoute

    with IPRoute() as route:
        route.link("del", ifname="kube-ipvs0")
