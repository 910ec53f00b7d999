"""Kernel settings: set once, kept, and what is done about them by kernel."""

from __future__ import annotations

import os

import pytest

from ipvsagent.address import Family
from ipvsagent.kernel import host
from ipvsagent.kernel.sysctls import (
    ALWAYS,
    CONN_REUSE,
    Setting,
    Sysctls,
    conn_reuse,
    needed,
    read_sysctl,
    write_sysctl,
)
from tests.support.programs import READ_ONLY, python

CONNTRACK = "net.ipv4.vs.conntrack"


def test_reading_sysctls():
    assert read_sysctl("net.ipv4.ip_forward") in (0, 1)
    assert read_sysctl("net.ipv4.no_such_thing") is None
    assert read_sysctl("kernel.hostname") is None


@pytest.mark.kernel
def test_sysctls_are_set_once(netns):
    assert read_sysctl(CONNTRACK) == 0
    Sysctls().set(needed())
    for name in (CONNTRACK, "net.ipv4.vs.expire_nodest_conn", "net.ipv4.vs.expire_quiescent_template"):
        assert read_sysctl(name) == 1
    assert read_sysctl("net.ipv4.ip_forward") == 1
    assert not write_sysctl(CONNTRACK, 1)
    assert write_sysctl(CONNTRACK, 0)
    assert read_sysctl(CONNTRACK) == 0


@pytest.mark.kernel
def test_read_only_sysctls(netns):
    code = """
        from ipvsagent.errors import StartError
        from ipvsagent.kernel.sysctls import Sysctls, needed
        try:
            Sysctls().set(needed())
            print("fine")
        except StartError as error:
            print(error.what)
            print(error.remedy)
    """
    Sysctls().set(needed())
    assert python(code, *READ_ONLY) == "fine"
    write_sysctl(CONNTRACK, 0)
    write_sysctl("net.ipv4.ip_forward", 0)
    what, remedy = python(code, *READ_ONLY).splitlines()
    assert f"{CONNTRACK} is 0 and cannot be set (Read-only file system)" in what
    assert remedy == f"Run on the host `sysctl -w {CONNTRACK}=1 net.ipv4.ip_forward=1`"


@pytest.mark.parametrize(
    ("release", "wanted", "reason"),
    [
        ("6.1.0-18-amd64", None, "left alone"),
        ("5.9.1", None, "left alone"),
        ("5.8.0", 0, "set to 0"),
        ("4.18.0-553.el8", 0, "set to 0"),
        ("5.4+", 0, "set to 0"),
        ("4.1.0", 0, "set to 0"),
        ("3.10.0-1160.el7", None, "no such setting"),
    ],
)
def test_reuse_of_ports_by_kernel(release, wanted, reason, monkeypatch):
    decision = conn_reuse(release)
    assert (decision.kernel, decision.wanted) == (release, wanted)
    assert reason in decision.reason
    uname = os.uname_result(("Linux", "node", release, "", "x86_64"))
    monkeypatch.setattr(os, "uname", lambda: uname)
    assert {s.name: s.value for s in needed()}.get(CONN_REUSE) == wanted
    assert {s.name for s in ALWAYS} <= {s.name for s in needed()}


@pytest.mark.kernel
def test_ipv6_forwarding_is_reported_and_left_alone(netns):
    name = "net.ipv6.conf.all.forwarding"
    assert read_sysctl(name) == 0
    (finding,) = host.host_findings({Family.IPV4, Family.IPV6})
    assert finding.subject == name
    assert host.host_findings({Family.IPV4}) == []
    assert read_sysctl(name) == 0
    write_sysctl(name, 1)
    assert host.host_findings({Family.IPV6}) == []


@pytest.mark.kernel
def test_what_is_reset_is_put_back_and_told(netns):
    sysctls = Sysctls()
    sysctls.set(needed())
    assert sysctls.keep(needed(), 0.0) == ([], [])
    write_sysctl(CONNTRACK, 0)
    findings, changed = sysctls.keep(needed(), 10.0)
    assert changed == [CONNTRACK] and read_sysctl(CONNTRACK) == 1
    (finding,) = findings
    assert finding.subject == CONNTRACK and "was set to 0" in finding.reason and "masquerading" in finding.reason
    again, changed = sysctls.keep(needed(), 20.0)
    assert (again, changed) == (findings, [])
    assert sysctls.keep(needed(), 4000.0) == ([], [])


@pytest.mark.kernel
def test_raised_settings_are_never_lowered(netns):
    name = "net.ipv4.conf.lo.arp_announce"
    setting = Setting(name, 1, "of the test", at_least=True, vital=False)
    write_sysctl(name, 2)
    assert Sysctls().set([setting]) == []
    assert read_sysctl(name) == 2
    write_sysctl(name, 0)
    assert Sysctls().set([setting]) == []
    assert read_sysctl(name) == 1


@pytest.mark.kernel
def test_an_interface_with_a_dot_in_its_name(netns):
    netns.run("ip", "link", "add", "eth0.100", "type", "dummy")
    name = "net.ipv4.conf.eth0/100.arp_ignore"
    assert write_sysctl(name, 3)
    assert netns.run("sysctl", "-n", name).strip() == "3"
