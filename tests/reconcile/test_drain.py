"""Draining, transition by transition: the table in ipvsagent/reconcile/drain.py, one test a line."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from ipvsagent.address import Address
from ipvsagent.model import Frontend, Protocol, RealServer, ServicePortName, VirtualServer, VirtualServerId
from ipvsagent.reconcile.drain import Drains, Phase
from ipvsagent.render.ipvs import IpvsRenderer
from ipvsagent.rows import Observed, Op, RealServerRow, Row, Verb, VirtualServerRow, diff

A, B = RealServer(Address("10.1.0.1"), 80), RealServer(Address("10.1.0.2"), 80)
WINDOW, TIMEOUT = 0.1, 60.0


class Kernel:
    """One virtual server; applies the ops that come out of the drains."""

    def __init__(self, protocol: Protocol = Protocol.TCP, timeout: float = TIMEOUT, window: float = WINDOW) -> None:
        self.id = VirtualServerId(protocol, Address("10.0.0.1"), 80)
        self.drains = Drains(timeout, window)
        self.rows: dict[object, Row] = {}
        self.believed: VirtualServer | None = None

    def wish(self, used: tuple[RealServer, ...], unused: tuple[RealServer, ...] = ()) -> VirtualServer:
        return VirtualServer(
            id=self.id,
            service=ServicePortName("ns", "s", ""),
            frontend=Frontend.CLUSTER_IP,
            scheduler="rr",
            real_servers=used,
            unused=unused,
        )

    def turn(
        self,
        now: float,
        used: tuple[RealServer, ...] = (A,),
        unused: tuple[RealServer, ...] = (),
        *,
        gone: bool = False,
    ) -> list[str]:
        """One round with this wish; returns the ops on real servers, shortened."""
        wanted = None if gone else self.wish(used, unused)
        ops = diff(self.rows.values(), IpvsRenderer().rows(wanted) if wanted else ())
        said = []
        for op in self.drains.transform(self.id, ops, self.believed, wanted, now):
            if op.verb is Verb.DELETE and isinstance(op.row, VirtualServerRow):
                self.rows.clear()
            elif op.verb is Verb.DELETE:
                del self.rows[op.row.key]
            else:
                self.rows[op.row.key] = op.row
            if isinstance(op.row, RealServerRow):
                said.append(f"{op.verb} {op.row.address}" + (f" w{op.row.weight}" if op.verb is Verb.SET else ""))
        self.believed = wanted
        return said

    def phases(self) -> dict[str, Phase]:
        return {d.row.address: d.phase for d in self.drains.of(self.id)}


def with_both(**options: object) -> Kernel:
    kernel = Kernel(**options)  # type: ignore[arg-type]
    kernel.turn(0, (A, B))
    return kernel


def test_listed_but_not_used_gets_weight_0_and_no_deadline() -> None:
    kernel = with_both()
    assert kernel.turn(1, (A,), (replace(B, alive=False),)) == ["set 10.1.0.2 w0"]
    assert kernel.phases() == {"10.1.0.2": Phase.LISTED}
    assert kernel.turn(1e6, (A,), (replace(B, alive=False),)) == []


def test_an_endpoint_that_was_never_used_adds_no_row() -> None:
    kernel = Kernel()
    assert kernel.turn(0, (A,), (B,)) == ["add 10.1.0.1"]


def test_terminating_and_then_gone_is_deleted_after_the_window() -> None:
    kernel = with_both()
    kernel.turn(1, (A,), (replace(B, alive=False),))
    assert kernel.turn(2, (A,)) == []
    assert kernel.phases() == {"10.1.0.2": Phase.LINGERING}
    assert kernel.turn(2 + WINDOW, (A,)) == ["delete 10.1.0.2"]
    assert len(kernel.drains) == 0


def test_gone_while_alive_lingers_then_drains_then_goes_at_the_deadline() -> None:
    kernel = with_both()
    assert kernel.turn(1, (A,)) == []
    assert kernel.turn(1 + WINDOW, (A,)) == ["set 10.1.0.2 w0"]
    assert kernel.phases() == {"10.1.0.2": Phase.LEAVING}
    assert kernel.drains.next_due() == pytest.approx(1 + WINDOW + TIMEOUT)
    assert kernel.turn(30, (A,)) == []
    assert kernel.turn(1 + WINDOW + TIMEOUT, (A,)) == ["delete 10.1.0.2"]


def test_an_endpoint_that_moves_between_slices_is_never_touched() -> None:
    kernel = with_both()
    assert kernel.turn(1, (A,)) == []
    assert kernel.turn(1.05, (A, B)) == []
    assert len(kernel.drains) == 0


@pytest.mark.parametrize("protocol", [Protocol.UDP, Protocol.SCTP])
def test_udp_and_sctp_do_not_drain(protocol: Protocol) -> None:
    kernel = with_both(protocol=protocol)
    assert kernel.turn(1, (A,), (B,)) == ["delete 10.1.0.2"]
    kernel.turn(2, (A, B))
    assert kernel.turn(3, (A,)) == []
    assert kernel.turn(3 + WINDOW, (A,)) == ["delete 10.1.0.2"]


def test_dh_does_not_drain() -> None:
    """Its one chosen real server at weight 0 would be an outage for everybody."""
    kernel = Kernel()
    before, wanted = (replace(kernel.wish(*sets), scheduler="dh") for sets in (((A, B), ()), ((A,), (B,))))
    removal = [Op(Verb.DELETE, RealServerRow(kernel.id, B.address, B.port))]
    assert kernel.drains.transform(kernel.id, removal, before, wanted, 1) == removal


def test_a_timeout_of_0_does_not_drain() -> None:
    kernel = with_both(timeout=0)
    assert kernel.turn(1, (A,), (B,)) == ["delete 10.1.0.2"]


@pytest.mark.parametrize("phase", [Phase.LISTED, Phase.LINGERING, Phase.LEAVING])
def test_wanted_again_restores_the_weight_and_keeps_the_connections(phase: Phase) -> None:
    kernel = with_both()
    if phase is Phase.LISTED:
        kernel.turn(1, (A,), (B,))
    else:
        kernel.turn(1, (A,))
    if phase is Phase.LEAVING:
        kernel.turn(2, (A,))
    assert kernel.phases() == {"10.1.0.2": phase}
    assert kernel.turn(3, (A, B)) == ([] if phase is Phase.LINGERING else ["set 10.1.0.2 w1"])
    assert len(kernel.drains) == 0


@pytest.mark.parametrize("listed", [True, False])
def test_no_connections_ends_a_drain(listed: bool) -> None:
    kernel = with_both()
    unused = (B,) if listed else ()
    kernel.turn(1, (A,), unused)
    kernel.turn(2, (A,), unused)
    row = next(d.row for d in kernel.drains.of(kernel.id))
    assert not kernel.drains.update_connections(kernel.id, [Observed(row, active=0, inactive=1)], 3)
    assert kernel.drains.update_connections(kernel.id, [Observed(row)], 3)
    assert kernel.drains.due(3) == [kernel.id]
    assert kernel.turn(3, (A,), unused) == ["delete 10.1.0.2"]


def test_a_deleted_virtual_server_takes_its_drains_along() -> None:
    kernel = with_both()
    kernel.turn(1, (A,), (B,))
    assert kernel.turn(2, gone=True) == []
    assert len(kernel.drains) == 0 and not kernel.rows


def test_a_restart_adopts_what_it_finds_at_weight_0() -> None:
    kernel = with_both()
    kernel.turn(1, (A,))
    kernel.turn(2, (A,))
    kernel.drains, kernel.believed = Drains(TIMEOUT, WINDOW), None
    assert kernel.turn(10, (A,)) == []
    assert kernel.phases() == {"10.1.0.2": Phase.LEAVING}
    assert kernel.drains.next_due() == 10 + TIMEOUT


def test_a_restart_drains_what_it_finds_serving_and_unwanted() -> None:
    kernel = with_both()
    kernel.drains, kernel.believed = Drains(TIMEOUT, WINDOW), None
    assert kernel.turn(10, (A,)) == ["set 10.1.0.2 w0"]


def test_a_lost_write_is_written_again() -> None:
    kernel = with_both()
    before = dict(kernel.rows)
    kernel.turn(1, (A,), (B,))
    kernel.rows = before
    assert kernel.turn(2, (A,), (B,)) == ["set 10.1.0.2 w0"]


def test_a_drain_that_leaves_the_kernel_by_itself_is_forgotten() -> None:
    kernel = with_both()
    kernel.turn(1, (A,), (B,))
    del kernel.rows[B.address, B.port]
    kernel.turn(2, (A,), (B,))
    assert len(kernel.drains) == 0


def test_a_configured_weight_of_0_is_not_a_drain() -> None:
    kernel = Kernel()
    kernel.turn(0, (A, replace(B, weight=0)))
    kernel.drains, kernel.believed = Drains(TIMEOUT, WINDOW), None
    assert kernel.turn(1, (A, replace(B, weight=0))) == []
    assert len(kernel.drains) == 0
