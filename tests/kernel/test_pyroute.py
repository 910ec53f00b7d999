"""What pyroute2 carries: its errors as ours, its defects that bite, and what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyroute2.ipset import AsyncIPSet

from ipvsagent.address import Address, Family
from ipvsagent.errors import AlreadyThere, KernelError
from ipvsagent.kernel import pyroute
from ipvsagent.kernel.addresses import AddressTable
from ipvsagent.kernel.ipset.definitions import Definitions
from ipvsagent.kernel.monitor import AddressMonitor
from ipvsagent.kernel.netlink import NETLINK_ROUTE, NetlinkSocket, OutcomeUnknown, attribute
from ipvsagent.kernel.pyroute import Rtnetlink, kernel_error
from ipvsagent.kernel.routes import LocalRoute, local_routes
from ipvsagent.kernel.service_routes import RouteTable
from ipvsagent.rows import SetSpec

ROOT = Path(__file__).parents[2]
TLVS = 0x200
NEW_LINK, ERROR = 16, 2
IFNAME, LINKINFO, INFO_KIND = 3, 18, 1


class Script:
    """In place of the socket's receiving side: answers in order; an exception among them is raised."""

    def __init__(self, *answers: bytes | OSError) -> None:
        self.answers = list(answers)

    def recv(self, size: int, flags: int = 0) -> bytes:
        answer = self.answers.pop(0) if self.answers else BlockingIOError(errno.EAGAIN, "")
        if isinstance(answer, OSError):
            raise answer
        return answer


@pytest.fixture
def rtnetlink(monkeypatch) -> Iterator[Rtnetlink]:
    made = Rtnetlink()
    monkeypatch.setattr(made._library, "put", lambda *args, **kwargs: None)
    yield made
    made.close()


def script(rtnetlink: Rtnetlink, *answers: bytes | OSError) -> Script:
    rtnetlink._socket = Script(*answers)
    return rtnetlink._socket


def raw(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body + bytes(-len(body) & 3)


def link(sequence: int, name: bytes) -> bytes:
    return raw(NEW_LINK, 0, sequence, struct.pack("=BxHiII", 0, 1, 7, 1, 0) + attribute(IFNAME, name + b"\0"))


def refused(sequence: int, code: int, words: str = "") -> bytes:
    quoted = struct.pack("=IHHII", 32, NEW_LINK, 5, sequence, 0) + bytes(16)
    text = attribute(1, words.encode() + b"\0") if words else b""
    return raw(ERROR, TLVS if words else 0, sequence, struct.pack("=i", -code) + quoted + text)


def test_a_late_answer_is_ignored(rtnetlink):
    script(rtnetlink, link(9, b"late"), link(1, b"eth0"), refused(1, 0))
    found = rtnetlink.link(7)
    assert (found.name, found.index, found.up, found.ethernet, found.kind) == ("eth0", 7, True, True, "")


def test_the_kernels_words(rtnetlink):
    script(rtnetlink, refused(1, errno.EEXIST), refused(2, errno.EINVAL, "Invalid prefsrc address"))
    with pytest.raises(AlreadyThere) as exists:
        rtnetlink.create_dummy("kube-ipvs0")
    with pytest.raises(KernelError) as invalid:
        rtnetlink.create_dummy("kube-ipvs0")
    assert (exists.value.code, exists.value.detail) == (errno.EEXIST, "")
    assert (invalid.value.code, invalid.value.detail) == (errno.EINVAL, "Invalid prefsrc address")


@pytest.mark.parametrize(
    ("trouble", "code"), [(OSError(errno.ENOBUFS, ""), errno.ENOBUFS), (BlockingIOError(11, ""), errno.ETIMEDOUT)]
)
def test_lost_and_late_answers(rtnetlink, trouble, code):
    script(rtnetlink, trouble)
    with pytest.raises(OutcomeUnknown) as caught:
        rtnetlink.delete_link(7)
    assert caught.value.code == code


def test_what_cannot_be_sent(rtnetlink, monkeypatch):
    def put(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EMSGSIZE, "")

    monkeypatch.setattr(rtnetlink._library, "put", put)
    with pytest.raises(KernelError, match="could not be sent"):
        rtnetlink.link(7)


def test_what_pyroute2_cannot_read():
    found = kernel_error(ValueError("short"))
    assert found.code == errno.EBADMSG and "short" in found.detail


def test_a_name_that_is_no_text(rtnetlink):
    """pyroute2 gives bytes."""
    script(rtnetlink, link(1, b"\xff0") + refused(1, 0))
    assert rtnetlink.link(7).name == "\N{REPLACEMENT CHARACTER}0"


def test_a_notification_that_was_cut_off_is_not_read(rtnetlink):
    whole = link(0, b"eth0")
    script(rtnetlink, whole + link(0, b"eth1")[:-4])
    assert [message for _, message in rtnetlink.notifications()] == [whole]


def test_an_answer_about_sets_is_not_waited_for_without_limit(monkeypatch):
    async def silence(*_: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(AsyncIPSet, "swap", silence)
    monkeypatch.setattr(pyroute, "_TIMEOUT", 0.05)
    with pytest.raises(OutcomeUnknown) as caught:
        pyroute.swap_sets("one", "other")
    assert caught.value.code == errno.ETIMEDOUT


# What it leaves behind


def open_files() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return found


@contextlib.contextmanager
def nothing_left(monkeypatch) -> Iterator[list[asyncio.AbstractEventLoop]]:
    """No thread, file descriptor, open event loop or warning more than before."""
    loops: list[asyncio.AbstractEventLoop] = []
    make = asyncio.events.new_event_loop

    def noted() -> asyncio.AbstractEventLoop:
        loops.append(make())
        return loops[-1]

    monkeypatch.setattr(asyncio.events, "new_event_loop", noted)
    threads, files = threading.enumerate(), open_files()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield loops
    assert threading.enumerate() == threads
    assert open_files() == files
    assert all(loop.is_closed() for loop in loops)


def test_nothing_is_left_of_rtnetlink(monkeypatch, capfd):
    Rtnetlink().close()  # imports
    with nothing_left(monkeypatch) as loops:
        monitor = AddressMonitor()
        assert monitor.read() == []
        monitor.close()
        addresses = AddressTable()
        routes = RouteTable(addresses)
        assert routes.others() is not None
        routes.close()
        addresses.close()
        made = Rtnetlink()
        assert made.link(1).name == "lo"
        with pytest.raises(KernelError):
            made.link(0x7FFFFFFF)
        made.close()
    assert not loops
    assert capfd.readouterr() == ("", "")


@pytest.mark.kernel
def test_nothing_is_left_of_sets(netns, monkeypatch, capfd):
    spec = SetSpec("IPVSAGENT-TRY", "hash:ip,port", Family.IPV6)
    with netns.entered(), contextlib.closing(Definitions(10.0)) as definitions:
        definitions.destroy([spec.name])  # imports
        capfd.readouterr()
        with nothing_left(monkeypatch) as loops:
            definitions.create(spec)
            assert [header.fits(spec) for header in definitions.headers()] == [True]
            with pytest.raises(KernelError, match="set IPVSAGENT-MISSING: ipset error 4101"):
                definitions.swap(spec.name, "IPVSAGENT-MISSING")
            definitions.destroy([spec.name, "IPVSAGENT-MISSING"])
            assert definitions.headers() == []
        assert loops and capfd.readouterr() == ("", "")


@pytest.mark.kernel
def test_nothing_is_left_of_the_interface(netns, monkeypatch):
    Rtnetlink().close()  # imports
    with netns.entered(), contextlib.closing(AddressTable()) as addresses, nothing_left(monkeypatch):
        addresses.ensure_interface()
        addresses.ensure_interface()
        addresses.remove_interface()
        assert not addresses.has_interface()


@pytest.mark.kernel
def test_routes_of_others_are_not_listed_with_ours(netns):
    netns.run("ip", "route", "add", "local", "10.97.0.0/16", "dev", "lo", "proto", "100")
    netns.run("ip", "route", "add", "local", "10.98.0.0/16", "dev", "lo", "proto", "119")
    with netns.entered(), contextlib.closing(NetlinkSocket(NETLINK_ROUTE)) as rtnetlink:
        assert list(local_routes(rtnetlink, 119)) == [LocalRoute("10.98.0.0/16", 119, Address(""))]
        found = {(route.network, route.protocol) for route in local_routes(rtnetlink)}
    assert {("10.97.0.0/16", 100), ("10.98.0.0/16", 119)} <= found


# What does not import it

IMPORTS = """
import sys
from ipvsagent.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print(end.code, file=sys.stderr)
print(sorted(name for name in sys.modules if name.partition('.')[0] == 'pyroute2')[:3], file=sys.stderr)
"""


def ran(*words: str, run: Callable[..., Any] = subprocess.run) -> list[str]:
    finished = run([sys.executable, "-c", IMPORTS, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return finished.stderr.splitlines()


def test_a_plan_against_nothing_does_not_import_it(tmp_path):
    (tmp_path / "cluster.yaml").write_text("apiVersion: v1\nkind: List\nitems: []\n")
    assert ran("plan", "--against", "empty", "--source", str(tmp_path))[-1] == "[]"


def test_help_does_not_import_it():
    assert ran("--help")[-1] == "[]"


@pytest.mark.kernel
@pytest.mark.parametrize(
    "words",
    [[], ["-o", "ipvsadm"], ["--timeout"], ["-o", "ipvsadm", "--daemon"], ["-o", "ipvsadm", "-c"]],
    ids=" ".join,
)
def test_status_does_not_import_it(netns, words):
    with netns.entered():
        assert ran("status", *words) == ["0", "[]"]
