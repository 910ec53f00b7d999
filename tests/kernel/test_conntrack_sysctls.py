"""Connection tracking as it is configured: the numbers, and the kernel that takes them."""

from __future__ import annotations

import os

import pytest

from ipvsagent.config import Config
from ipvsagent.kernel import conntrack_sysctls
from ipvsagent.kernel.conntrack_sysctls import desired_sysctls, set_conntrack
from ipvsagent.kernel.sysctls import read_sysctl, write_sysctl
from tests.support.programs import READ_ONLY, python

MAX = "net.netfilter.nf_conntrack_max"
NOTHING = {
    "conntrack_max_per_core": 0,
    "conntrack_tcp_established": 0.0,
    "conntrack_tcp_close_wait": 0.0,
}


@pytest.mark.parametrize(
    ("per_core", "least", "cpus", "wanted"),
    [
        (32768, 131072, 1, 131072),
        (32768, 131072, 4, 131072),
        (32768, 131072, 8, 262144),
        (32768, 0, 1, 32768),
        (32768, 131072, 32, 1048576),
        (32768, 131072, 256, 1048576),
        (32768, 2000000, 8, 2000000),
        (0, 131072, 8, None),
    ],
)
def test_size(per_core, least, cpus, wanted):
    config = Config(conntrack_max_per_core=per_core, conntrack_min=least)
    assert desired_sysctls(config, cpus).get(MAX) == wanted


def test_defaults_are_those_of_kube_proxy():
    assert desired_sysctls(Config(), 1) == {
        MAX: 131072,
        "net.netfilter.nf_conntrack_tcp_timeout_established": 86400,
        "net.netfilter.nf_conntrack_tcp_timeout_close_wait": 3600,
    }


def test_zero_leaves_everything_alone():
    assert desired_sysctls(Config(**NOTHING), 8) == {}


def test_each_has_its_sysctl():
    config = Config(**NOTHING | {"conntrack_be_liberal": True, "conntrack_udp": 0.5, "conntrack_udp_stream": 61.9})
    assert desired_sysctls(config, 8) == {
        "net.netfilter.nf_conntrack_tcp_be_liberal": 1,
        "net.netfilter.nf_conntrack_udp_timeout": 1,
        "net.netfilter.nf_conntrack_udp_timeout_stream": 61,
    }


@pytest.mark.kernel
def test_timeouts_of_a_namespace(netns):
    config = Config(
        conntrack_tcp_established=7200,
        conntrack_tcp_close_wait=120,
        conntrack_be_liberal=True,
        conntrack_udp=20,
        conntrack_udp_stream=90,
    )
    before = read_sysctl(MAX)
    assert set_conntrack(config) == []
    wanted = desired_sysctls(config, os.cpu_count())
    assert {name: read_sysctl(name) for name in wanted if name != MAX} == {
        name: value for name, value in wanted.items() if name != MAX
    }
    assert read_sysctl(MAX) == before, "the size is the host's, and not this namespace's"


@pytest.mark.kernel
def test_size_of_the_host():
    sizes = (MAX, "net.netfilter.nf_conntrack_buckets")
    before = [read_sysctl(name) for name in sizes]
    try:
        larger = before[1] * 8
        assert set_conntrack(Config(conntrack_max_per_core=1, conntrack_min=larger)) == []
        assert [read_sysctl(name) for name in sizes] == [larger, larger // 4]
        smaller = larger // 2
        assert set_conntrack(Config(conntrack_max_per_core=1, conntrack_min=smaller)) == []
        assert [read_sysctl(name) for name in sizes] == [smaller, larger // 4], "the hash never gets smaller"
    finally:
        for name, value in zip(reversed(sizes), reversed(before), strict=True):
            write_sysctl(name, value)


@pytest.mark.kernel
def test_what_cannot_be_set_is_said(netns):
    code = """
        from ipvsagent.config import Config
        from ipvsagent.kernel.conntrack_sysctls import set_conntrack
        for finding in set_conntrack(Config(conntrack_tcp_established=4711)):
            print(finding)
    """
    name = "net.netfilter.nf_conntrack_tcp_timeout_established"
    before = read_sysctl(name)
    said = python(code, *READ_ONLY).splitlines()[0]
    assert said.startswith(f"{name}: is {before} and cannot be set to 4711 (Read-only file system)")
    assert said.endswith(f"run on the host `sysctl -w {name}=4711`")


def test_hash_that_cannot_be_read(monkeypatch, tmp_path):
    monkeypatch.setattr(conntrack_sysctls, "_HASH_SIZE", tmp_path / "none")
    (finding,) = conntrack_sysctls._enlarge_hash(8)
    assert "cannot be set to 8 (No such file or directory)" in finding.reason
