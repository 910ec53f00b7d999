"""What IPVS left on a node that is on iptables now: whose it is, and what goes when. Times are the tests' own."""

from __future__ import annotations

import contextlib
import errno
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from ipvsagent.backends.ipvs_retirement import Retirement
from ipvsagent.config import Config
from ipvsagent.errors import KernelError
from ipvsagent.findings import FindingKind
from ipvsagent.kernel import host
from ipvsagent.kernel.addresses import AddressTable
from ipvsagent.kernel.ipset import definitions
from ipvsagent.kernel.ipset.table import SetTable
from ipvsagent.kernel.ipvs.ownership import Ledger
from ipvsagent.kernel.ipvs.table import IpvsTable
from ipvsagent.kernel.netlink import NetlinkSocket
from ipvsagent.kernel.pyroute import Rtnetlink
from ipvsagent.rows import Failure
from tests.support.cluster_documents import NODE_ADDRESS, THIS_NODE
from tests.support.proxied_node import A, ProxiedNode

pytestmark = pytest.mark.kernel

LONG = 800.0
"""Later than any look before it, and within the drain timeout."""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(node_name=THIS_NODE, state_dir=tmp_path, drain_timeout=900.0)


@pytest.fixture
def run(place: ProxiedNode) -> Iterator[Callable[..., str]]:
    """Command lines in the node; what they add is gone afterwards."""

    def shell(*lines: str) -> str:
        return "".join(place.node.run("sh", "-c", line) for line in lines)

    shell("ip link add kube-ipvs0 type dummy", "ip link add mine type dummy")
    yield shell
    shell(
        "ipvsadm -C; ip link delete mine; ip link delete kube-ipvs0 2>/dev/null; true",
        "for v in -4 -6; do ip $v route flush table local proto static; ip $v route flush table local proto 119; done",
        "for s in $(ipset list -n | grep ^KUBE-); do ipset destroy $s; done",
    )


@contextmanager
def retiring(place: ProxiedNode, config: Config) -> Iterator[Retirement]:
    with place.node.entered():
        sets = SetTable()
        addresses = AddressTable(config.interface)
        made = Retirement(config, addresses, Ledger(config.state_dir / "ledger"), sets)
        made.begin()
        yield made
        made.finish()
        sets.close()
        addresses.close()


def web_at(run, *places: str) -> None:
    for place in places:
        run(f"ipvsadm -A -t {place} -s rr", f"ipvsadm -a -t {place} -r {A}:8080 -m")


def test_all_that_kube_proxy_left_goes_and_nothing_of_others(place: ProxiedNode, config, run) -> None:
    address = place.free_address()
    run(f"ip address add {address}/32 dev kube-ipvs0")
    web_at(run, f"{address}:80", f"{NODE_ADDRESS}:30080", f"{NODE_ADDRESS}:8443")
    run("ipset create KUBE-CLUSTER-IP hash:ip,port", f"ipset add KUBE-CLUSTER-IP {address},tcp:80")
    run("ipset create KUBE-NODE-PORT-TCP bitmap:port range 0-65535", "ipset add KUBE-NODE-PORT-TCP 30080")
    with retiring(place, config) as made:
        assert made.left == 2
        assert made.drain(0.0)
    assert {line.split()[2] for line in place.saved()} == {f"{NODE_ADDRESS}:8443"}
    assert "kube-ipvs0" not in run("ip -o link")


def test_what_is_local_by_others_stays_so(place: ProxiedNode, config, run) -> None:
    """An address that another interface got before ours lost it, and routes of other programs."""
    moved, routed = place.free_address(), place.free_address()
    for address in (f"{moved}/32", "fd00:96::1/128 nodad"):
        run(f"ip address add {address} dev mine", f"ip address add {address} dev kube-ipvs0")
    for address in (f"{routed}/32", "fd00:96::2/128"):
        nodad = "nodad" if ":" in address else ""
        run(f"ip route add local {address} dev lo proto static", f"ip address add {address} dev kube-ipvs0 {nodad}")

    def of_others() -> list[str]:
        lines = run("ip -4 route show table local", "ip -6 route show table local").splitlines()
        return sorted(line for line in lines if " dev mine " in line or " proto static " in line)

    before = of_others()
    assert len(before) == 4
    with retiring(place, config) as made:
        assert of_others() == before
        assert not place.bound()
        assert made.drain(0.0)
    assert of_others() == before


def test_a_kept_virtual_server_takes_nobody_new_and_goes_when_its_time_is_over(place: ProxiedNode, config, run) -> None:
    address = place.free_address()
    run(f"ip address add {address}/32 dev kube-ipvs0 scope host", "sysctl -w net.ipv4.vs.conntrack=1")
    web_at(run, f"{address}:80", f"{address}:81")
    with place.held(address) as (held,), retiring(place, config) as made:
        said = made.findings()
        assert made.left == 2 and not made.drain(0.0) and made.left == 1
        assert made.findings() == said and said[0].kind is FindingKind.HOST  # no fallback, which is an Event
        assert place.weights(address) == {"A": 0} and not place.real_servers(address, 81)
        assert f"local {address} dev lo" in run("ip route show table local proto 119")
        assert held.ask().failure is None
        with pytest.raises(ConnectionRefusedError):
            place.answers(address, 1)
        assert not made.drain(LONG)
        made.configure(replace(config, drain_timeout=1.0))
        assert made.drain(2 * LONG)
        assert not place.saved() and not run("ip route show table local proto 119")


class Killed(BaseException):
    """As `kill -9`: nobody expects it."""


@contextmanager
def killed_at(monkeypatch, moment: int) -> Iterator[None]:
    """In the middle of this write to the kernel; 0 is the first."""
    writes = itertools.count()
    send, ask, destroy = NetlinkSocket.send, Rtnetlink._ask, definitions.destroy_sets

    def interrupted(netlink: NetlinkSocket, messages: list[bytes]) -> object:
        if next(writes) < moment:
            return send(netlink, messages)
        send(netlink, messages[: len(messages) // 2])
        raise Killed

    def interrupted_ask(rtnetlink: Rtnetlink, kind: int, *words: object) -> object:
        reads = kind % 4 == 2  # RTM_GET*
        if reads or next(writes) < moment:
            return ask(rtnetlink, kind, *words)
        raise Killed

    def interrupted_destruction(names: list[str]) -> object:
        if next(writes) < moment:
            return destroy(names)
        destroy(names[: len(names) // 2])
        raise Killed

    with monkeypatch.context() as killing, contextlib.suppress(Killed):
        killing.setattr(NetlinkSocket, "send", interrupted)
        killing.setattr(Rtnetlink, "_ask", interrupted_ask)
        killing.setattr(definitions, "destroy_sets", interrupted_destruction)
        yield


def test_killed_at_every_write(place: ProxiedNode, config, run, monkeypatch) -> None:
    """Once in the beginning and once at the end, and begun again each time."""
    run("sysctl -w net.ipv4.vs.conntrack=1")
    ledger = config.state_dir / "ledger"
    for moment in itertools.count():
        finished = False
        address, idle = place.free_address(), place.free_address()
        run("ip link add kube-ipvs0 type dummy 2>/dev/null; true", "ip route add local 10.98.0.0/16 dev lo proto 119")
        run(*(f"ip address add {each}/32 dev kube-ipvs0 scope host" for each in (address, idle)))
        web_at(run, f"{address}:80", f"{idle}:80", f"{NODE_ADDRESS}:30080")
        ledger.write_text(f"+ TCP {NODE_ADDRESS} 30080\n")
        with place.held(address) as (held,), place.node.entered():
            sets = SetTable()
            with killed_at(monkeypatch, moment):
                made = Retirement(config, AddressTable(), Ledger(ledger), sets)
                made.begin()
                made.drain(0.0)
            assert held.ask().failure is None
            with killed_at(monkeypatch, moment):
                made = Retirement(config, AddressTable(), Ledger(ledger), sets)
                made.begin()
                assert not made.drain(0.0) and held.ask().failure is None
                made.drain(2 * LONG)
                made.finish()
                finished = True
            sets.close()
        with retiring(place, config) as made:
            assert made.drain(0.0) or made.drain(2 * LONG)
        assert not place.saved() and not run("ip route show table local proto 119")
        assert "kube-ipvs0" not in run("ip -o link") and not len(Ledger(ledger))
        if finished:
            break
    assert moment > 3


def test_with_a_broken_ledger_addresses_say_whose_it_is(place: ProxiedNode, config, run) -> None:
    address = place.free_address()
    run(f"ip address add {address}/32 dev kube-ipvs0 scope host")
    web_at(run, f"{address}:80", f"{NODE_ADDRESS}:30080")
    (config.state_dir / "ledger").write_bytes(b"\xff\xfe broken\n+ TCP nowhere 80\n+ TCP " + NODE_ADDRESS.encode())
    with retiring(place, config) as made:
        assert made.drain(0.0)
    assert {line.split()[2] for line in place.saved()} == {f"{NODE_ADDRESS}:30080"}


def test_what_the_kernel_does_not_delete_is_tried_again(place: ProxiedNode, config, run, monkeypatch) -> None:
    address = place.free_address()
    run(f"ip address add {address}/32 dev kube-ipvs0 scope host")
    web_at(run, f"{address}:80")
    with retiring(place, config) as made:
        with monkeypatch.context() as busy:
            busy.setattr(IpvsTable, "write", lambda _, ops: [Failure(op, KernelError.of(errno.EBUSY)) for op in ops])
            assert not made.drain(0.0) and made.left == 1
        assert made.drain(LONG) and not place.saved()


def test_addresses_go_where_ip_vs_is_gone(place: ProxiedNode, config, run, monkeypatch) -> None:
    run(f"ip address add {place.free_address()}/32 dev kube-ipvs0 scope host")
    run("ip route add local 10.97.0.0/16 dev lo proto 119")
    monkeypatch.setattr(host, "ip_vs_presence", lambda: host.IpvsPresence.ABSENT)
    with retiring(place, config) as made:
        assert not made.findings() and made.drain(0.0)
    assert not run("ip route show table local proto 119") and "kube-ipvs0" not in run("ip -o link")
