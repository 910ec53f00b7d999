"""Preflight: each thing that can be missing, and the message for the operator."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from ipvsagent.errors import StartError
from ipvsagent.kernel import host
from ipvsagent.kernel.addresses import AddressTable
from ipvsagent.kernel.host import AgentLock, IpvsAbsent, IpvsPresence
from ipvsagent.kernel.ipvs import table as ipvs
from tests.support.programs import CHECKOUT, program_named, python

# The lock


def test_one_agent_at_a_time(tmp_path):
    path = tmp_path / "state" / "lock"
    first, second = AgentLock(path), AgentLock(path)
    assert first.holder() is None
    assert first.try_acquire()
    assert first.try_acquire()
    assert not second.try_acquire()
    assert second.holder() == os.getpid()
    first.release()
    first.release()
    assert second.try_acquire()
    second.release()


def test_lock_goes_with_the_process(tmp_path):
    code = f"""
        from pathlib import Path
        from ipvsagent.kernel.host import AgentLock
        lock = AgentLock(Path({str(tmp_path / "lock")!r}))
        print(lock.try_acquire(), flush=True)
        input()
    """
    argv = [sys.executable, "-c", textwrap.dedent(code)]
    holder = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
    assert holder.stdout.readline() == "True\n"
    lock = AgentLock(tmp_path / "lock")
    assert not lock.try_acquire()
    assert lock.holder() == holder.pid
    holder.kill()
    holder.communicate()
    assert lock.try_acquire()
    lock.release()


# Privileges and presence


def test_without_the_capability(monkeypatch):
    monkeypatch.setattr(host, "_capable", lambda capability: False)
    with pytest.raises(StartError, match=r"CAP_NET_ADMIN.*Run it as root"):
        host.require_privilege()


def test_absent_ip_vs_is_a_type_of_its_own(monkeypatch):
    """Every kernel lacks this family: no need for one without ip_vs."""
    tried = []
    monkeypatch.setattr(ipvs, "GENL_NAME", "NOT_IPVS")
    monkeypatch.setattr(host, "_capable", lambda capability: True)
    monkeypatch.setattr(host, "load_module", lambda module: tried.append(module) or "no such module")
    assert host.ip_vs_presence() is IpvsPresence.ABSENT
    with pytest.raises(IpvsAbsent, match=r"no IPVS \(no such module\).*`modprobe ip_vs`"):
        host.require_ip_vs(load=True)
    assert tried == ["ip_vs"]


def test_no_module_is_loaded_without_the_capability(monkeypatch):
    monkeypatch.setattr(ipvs, "GENL_NAME", "NOT_IPVS")
    monkeypatch.setattr(host, "_capable", lambda capability: False)
    monkeypatch.setattr(host, "load_module", lambda module: pytest.fail("tried"))
    with pytest.raises(IpvsAbsent):
        host.require_ip_vs(load=True)


def test_failed_modprobe_says_why():
    assert host.load_module("no_such_module_at_all")


@pytest.mark.kernel
def test_host_is_fit(netns):
    host.require_privilege()
    host.require_ip_vs(load=True)
    assert host.ip_vs_presence() is IpvsPresence.PRESENT


@pytest.mark.kernel
def test_not_permitted_is_not_absent(netns):
    """In a user namespace of its own root has all capabilities, and still no IPVS."""
    code = """
        from ipvsagent.errors import StartError
        from ipvsagent.kernel import host
        host.require_privilege()
        print(host.ip_vs_presence())
        try:
            host.require_ip_vs(load=True)
        except StartError as error:
            print(type(error).__name__, error)
    """
    presence, error = python(code, "unshare", "--user", "--map-root-user", "--net").splitlines()
    assert presence == "forbidden"
    assert error.startswith("StartError this process may not use IPVS")


# Schedulers


@pytest.mark.kernel
@pytest.mark.parametrize(("name", "flags"), [("rr", 0), ("mh", 0x10), ("sh", 0x18)])
def test_scheduler_trial_leaves_nothing_behind(netns, name, flags):
    host.require_scheduler(name, flags)
    assert host.scheduler_works(name)
    assert netns.run("ipvsadm", "-Sn") == ""


@pytest.mark.kernel
def test_unknown_scheduler(netns):
    with pytest.raises(StartError, match=r"no IPVS scheduler 'nope'.*`modprobe ip_vs_nope`"):
        host.require_scheduler("nope")
    with pytest.raises(StartError, match="refuses"):
        host.require_scheduler("much-too-long-a-name")
    assert not host.scheduler_works("nope")
    assert netns.run("ipvsadm", "-Sn") == ""


@pytest.mark.kernel
def test_scheduler_trial_and_what_stands_in_its_place(netns):
    left_over = "-A -t 198.51.100.0:20000 -s wlc\n"
    netns.run("ipvsadm", "-R", stdin=left_over)
    host.require_scheduler("rr")
    assert netns.run("ipvsadm", "-Sn") == ""
    in_use = left_over + "-a -t 198.51.100.0:20000 -r 10.0.0.1:80 -m -w 1\n"
    netns.run("ipvsadm", "-R", stdin=in_use)
    host.require_scheduler("rr")
    assert netns.run("ipvsadm", "-Sn") == in_use


@pytest.mark.kernel
@pytest.mark.parametrize("name", ["rr", "wrr", "sh", "mh", "nope"])
def test_what_the_lists_of_modules_say_is_so(netns, name):
    assert host.scheduler_listed(name) is not None, "the guest has its modules"
    assert host.scheduler_listed(name) == host.scheduler_works(name)
    assert netns.run("ipvsadm", "-Sn") == ""


def test_schedulers_in_lists_of_modules(tmp_path):
    loaded, modules = tmp_path / "modules", tmp_path / "lib"
    loaded.write_text("ip_vs_wrr 16384 1 - Live 0x0\nip_vs 200704 3 ip_vs_wrr, Live 0x0\n")

    def listed(name):
        return host.scheduler_listed(name, loaded, modules)

    assert (listed("wrr"), listed("rr"), listed("wr")) == (True, None, None)
    modules.mkdir()
    folder = "kernel/net/netfilter/ipvs/"
    (modules / "modules.builtin").write_text(f"{folder}ip_vs.ko\n{folder}ip_vs_rr.ko\n")
    (modules / "modules.dep").write_text(f"{folder}ip_vs_mh.ko.xz: {folder}ip_vs.ko.xz\n{folder}ip_vs_sed.ko:\n")
    assert [listed(name) for name in ("wrr", "rr", "mh", "sed")] == [True] * 4
    assert [listed(name) for name in ("m", "se", "fo", "../ip_vs_rr")] == [False] * 4


# The interface


@pytest.mark.kernel
def test_interface_of_another_kind(netns):
    netns.run("ip", "link", "add", "kube-ipvs0", "type", "bridge")
    table = AddressTable()
    with pytest.raises(StartError, match=r"kube-ipvs0 is of kind bridge, not dummy.*ip link delete kube-ipvs0"):
        table.ensure_interface()
    with pytest.raises(StartError):
        table.remove_interface()
    table.close()
    lo = AddressTable("lo")
    with pytest.raises(StartError, match="lo is hardware"):
        lo.ensure_interface()
    lo.close()


@pytest.mark.kernel
def test_interface_is_made_down_and_removed(netns):
    table = AddressTable("ours0")
    table.ensure_interface()
    assert "state DOWN" in netns.run("ip", "link", "show", "ours0")
    netns.run("ip", "link", "set", "ours0", "up")
    table.ensure_interface()
    assert ",UP" in netns.run("ip", "link", "show", "ours0")
    table.remove_interface()
    table.remove_interface()
    assert "ours0" not in netns.run("ip", "link")
    table.close()


# kube-proxy


def test_kube_proxy_is_noticed(tmp_path):
    if host.kube_proxy_here() is not None:
        pytest.fail("a kube-proxy is running where the tests run")
    with program_named("kube-proxy-not", tmp_path):
        assert host.kube_proxy_here() is None
    with program_named("kube-proxy", tmp_path) as process:
        assert host.kube_proxy_here() == process.pid
        process.kill()
        while Path(f"/proc/{process.pid}/stat").read_text().split()[2] != "Z":
            time.sleep(0.01)
        assert host.kube_proxy_here() is None  # not reaped yet


@pytest.mark.kernel
def test_kube_proxy_elsewhere_is_no_concern(tmp_path, netns, new_netns):
    with program_named("kube-proxy", tmp_path) as process:
        assert host.kube_proxy_here() == process.pid
        with new_netns().entered():
            assert host.kube_proxy_here() is None
