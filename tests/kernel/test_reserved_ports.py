"""Node ports are no source ports of the node's own connections: what is reserved, what others reserved, what goes."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from ipvsagent.backends.checks import State
from ipvsagent.backends.hand_over import Stage
from ipvsagent.backends.iptables import IptablesBackend
from ipvsagent.backends.ipvs_checks import source_ports_check
from ipvsagent.backends.kernel_handles import IptablesHandles, SavedSettings
from ipvsagent.cli import cleanup
from ipvsagent.config import Config, PortRange
from ipvsagent.findings import Finding
from ipvsagent.kernel import reserved_ports
from ipvsagent.kernel.ipvs.ownership import state_key
from ipvsagent.kernel.reserved_ports import EPHEMERAL, RESERVED, ReservedPorts, format_ports, parse_ports, source_ports
from ipvsagent.packet_filter.iptables import IptablesPacketFilter
from tests.support.network_namespace import NetworkNamespace
from tests.support.programs import READ_ONLY, python

NODE_PORTS = PortRange(30000, 32767)
OTHER = PortRange(31000, 33000)


def kernel_list() -> str:
    return Path("/proc/sys", *RESERVED.split(".")).read_text().strip()


def set_ports(netns: NetworkNamespace, *, reserved: str = "", ephemeral: str = "32768 60999") -> None:
    netns.run("sysctl", "-qw", f"{RESERVED}={reserved}", f"{EPHEMERAL}={ephemeral}")


@pytest.fixture
def ours(netns: NetworkNamespace, tmp_path: Path) -> ReservedPorts:
    set_ports(netns)
    return ReservedPorts(tmp_path / "state" / "reserved")


@given(
    st.frozensets(st.integers(0, 65535)) | st.builds(lambda a, b: frozenset(range(a, b)), *[st.integers(0, 65536)] * 2)
)
def test_a_list_is_read_as_it_is_written(ports: frozenset[int]) -> None:
    assert parse_ports(format_ports(ports)) == ports


def test_the_list_is_the_kernels(netns: NetworkNamespace) -> None:
    set_ports(netns, reserved="8080,1-3,4,6,65535,5000-5001")
    assert kernel_list() == format_ports(parse_ports("8080,1-3,4,6,65535,5000-5001")) == "1-4,6,5000-5001,8080,65535"


def test_reserved_whether_or_not_the_kernel_would_take_them(ours: ReservedPorts) -> None:
    assert not ours.holds(NODE_PORTS)
    assert ours.reserve(NODE_PORTS) == () and ours.holds(NODE_PORTS)
    assert kernel_list() == "30000-32767"


def test_what_others_reserved_stays_and_so_does_what_they_add_meanwhile(netns, ours: ReservedPorts) -> None:
    set_ports(netns, reserved="8080,32000-32010,32768")
    assert ours.reserve(NODE_PORTS) == ()
    assert kernel_list() == "8080,30000-32768"
    netns.run("sysctl", "-qw", f"{RESERVED}={kernel_list()},9090")
    ours.restore()
    assert kernel_list() == "8080,9090,32000-32010,32768"
    ours.restore()
    assert kernel_list() == "8080,9090,32000-32010,32768", "there is nothing left to put back"


def test_what_was_reserved_before_is_not_ours(netns, ours: ReservedPorts, tmp_path: Path) -> None:
    set_ports(netns, reserved="30000-32767")
    assert ours.reserve(NODE_PORTS) == () and not (tmp_path / "state").exists()
    ours.restore()
    assert kernel_list() == "30000-32767"


def test_the_only_ones_go_without_a_trace(ours: ReservedPorts, tmp_path: Path) -> None:
    ours.reserve(NODE_PORTS)
    again = ReservedPorts(tmp_path / "state" / "reserved")
    assert again.reserve(NODE_PORTS) == ()
    assert again.try_restore() == ()
    assert kernel_list() == "" and not list((tmp_path / "state").iterdir())


def test_another_range_takes_its_place(netns, ours: ReservedPorts) -> None:
    set_ports(netns, reserved="30500,33000")
    ours.reserve(NODE_PORTS)
    assert ours.reserve(OTHER) == ()
    assert kernel_list() == "30500,31000-33000"
    ours.restore()
    assert kernel_list() == "30500,33000"


def test_a_list_of_every_other_port_is_kept(netns, ours: ReservedPorts) -> None:
    """It is longer than a page, and more than a buffered read takes at once."""
    odd = frozenset(range(1, 30000, 2))
    Path("/proc/sys", *RESERVED.split(".")).write_text(format_ports(odd) + "\n")
    assert ours.reserve(NODE_PORTS) == ()
    assert source_ports(NODE_PORTS).reserved == format_ports(odd | set(NODE_PORTS.ports))
    ours.restore()
    assert source_ports(PortRange(1, 1)).reserved == format_ports(odd)


def test_killed_at_any_moment_it_can_be_put_back(netns, ours: ReservedPorts, monkeypatch, tmp_path: Path) -> None:
    set_ports(netns, reserved="8080")

    class Killed(BaseException):
        pass

    def killed(ports: frozenset[int]) -> None:
        written(ports)
        raise Killed

    written = reserved_ports._write
    monkeypatch.setattr(reserved_ports, "_write", killed)
    with pytest.raises(Killed):
        ours.reserve(NODE_PORTS)
    monkeypatch.undo()
    assert kernel_list() == "8080,30000-32767"
    ReservedPorts(tmp_path / "state" / "reserved").restore()
    assert kernel_list() == "8080"


def test_who_would_have_no_source_ports_left_keeps_them(netns, ours: ReservedPorts) -> None:
    set_ports(netns, reserved="8080")
    (finding,) = ours.reserve(PortRange(1, 65535))
    assert kernel_list() == "8080"
    assert finding.subject == RESERVED and "28232 of the node ports 1-65535 are source ports" in finding.reason
    assert "would leave 0 source ports: narrow --service-node-port-range" in finding.reason
    set_ports(netns, ephemeral="30000 33791")
    assert ours.reserve(NODE_PORTS) == () and ours.holds(NODE_PORTS), "1024 are left"
    ours.restore()
    set_ports(netns, ephemeral="30000 33790")
    assert ours.reserve(NODE_PORTS) and not ours.holds(NODE_PORTS)


@pytest.mark.parametrize("ephemeral", ["32768 60999", "30000 60999"])
def test_read_only_is_found_done_or_said_where_it_matters(netns, tmp_path: Path, ephemeral: str) -> None:
    code = f"""
        from pathlib import Path
        from ipvsagent.config import PortRange
        from ipvsagent.kernel.reserved_ports import ReservedPorts
        print(*ReservedPorts(Path({str(tmp_path / "reserved")!r})).reserve(PortRange(30000, 32767)))
    """
    set_ports(netns, reserved="8080", ephemeral=ephemeral)
    said = python(code, *READ_ONLY).strip()
    assert kernel_list() == "8080" and not (tmp_path / "reserved").exists()
    if ephemeral.startswith("3276"):
        assert said == ""
        return
    assert said.startswith(f"{RESERVED}: node ports cannot be reserved (Read-only file system): 2768 of the node ports")
    assert said.endswith(f"Run on the host `sysctl -w {RESERVED}=8080,30000-32767`")
    assert ReservedPorts(tmp_path / "reserved").reserve(NODE_PORTS) == ()
    assert python(code, *READ_ONLY).strip() == "", "it is done already"


def test_what_cannot_be_put_back_is_said_and_tried_again(ours: ReservedPorts, monkeypatch) -> None:
    ours.reserve(NODE_PORTS)

    def refuses(ports: frozenset[int]) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(reserved_ports, "_write", refuses)
    (finding,) = ours.try_restore()
    assert isinstance(finding, Finding) and "30000-32767 cannot be removed from it (Read-only" in finding.reason
    monkeypatch.undo()
    assert ours.try_restore() == () and kernel_list() == ""


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_kernel_takes_none_of_them_by_itself(netns, ours: ReservedPorts, kind, family, address) -> None:
    """And gives one to who names it."""
    netns.run("ip", "link", "set", "lo", "up")
    set_ports(netns, ephemeral="30000 34000")
    ours.reserve(NODE_PORTS)
    made = [socket.socket(family, kind) for _ in range(400)]
    try:
        for each in made[1:]:
            each.bind((address, 0))
        assert all(each.getsockname()[1] > NODE_PORTS.last for each in made[1:])
        made[0].bind((address, 30080))
    finally:
        for each in made:
            each.close()


def test_check_says_what_is_to_do(netns, ours: ReservedPorts, monkeypatch) -> None:
    found = source_ports_check(NODE_PORTS)
    assert found.state is State.TO_DO and "not reserved" in found.found
    set_ports(netns, reserved="30000-30999", ephemeral="30500 60999")
    found = source_ports_check(NODE_PORTS)
    assert found.state is State.TO_DO
    assert (
        "1768 of the node ports 30000-32767 are source ports of this node's own connections (30500-60999)"
        in found.found
    )
    monkeypatch.setattr(reserved_ports, "is_writable", lambda name: False)
    found = source_ports_check(NODE_PORTS)
    assert (found.state, found.remedy) == (State.WARNING, f"Run on the host `sysctl -w {RESERVED}=30000-32767`")
    set_ports(netns, reserved="30000-30999")
    assert source_ports_check(NODE_PORTS).state is State.OK
    found = source_ports_check(PortRange(20000, 60500))
    assert found.state is State.WARNING and "would leave 499 source ports" in found.remedy
    monkeypatch.undo()
    ours.reserve(NODE_PORTS)
    found = source_ports_check(NODE_PORTS)
    assert found.state is State.OK and found.found.endswith("they are reserved")


def test_cleanup_puts_back_what_an_agent_on_ipvs_reserved(netns, ours: ReservedPorts, tmp_path: Path) -> None:
    set_ports(netns, reserved="8080")
    ReservedPorts(tmp_path / f"{state_key()}.reserved").reserve(NODE_PORTS)
    words = ["--yes", "--state-dir", str(tmp_path)]
    planned = CliRunner().invoke(cleanup.command, [*words, "--dry-run"], catch_exceptions=False)
    assert planned.exit_code == 0 and kernel_list() == "8080,30000-32767"
    done = CliRunner().invoke(cleanup.command, words, catch_exceptions=False)
    assert done.exit_code == 0 and kernel_list() == "8080"


def test_on_iptables_they_are_free_once_ipvs_has_retired(ours: ReservedPorts) -> None:
    ours.reserve(NODE_PORTS)

    class Nothing:
        def try_restore(self) -> tuple[Finding, ...]:
            return ()

    saved = SavedSettings(Nothing(), Nothing(), ours)
    made = IptablesBackend(Config(localhost_node_ports=False), IptablesHandles(None, None, None, saved))
    made._hand_over.stage = Stage.DONE
    assert made.retire_others(0.0, IptablesPacketFilter.__new__(IptablesPacketFilter)) == ()
    assert kernel_list() == ""
