"""Settings that are raised for a while: what opens 127.0.0.0/8 never without its guard, and all put back."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from ipvsagent.backends import iptables as iptables_node
from ipvsagent.backends import ipvs as node
from ipvsagent.backends.iptables import IptablesBackend
from ipvsagent.cli import cleanup
from ipvsagent.config import Config
from ipvsagent.kernel import host
from ipvsagent.kernel.arp import silence
from ipvsagent.kernel.fake.kernel import FakeKernel
from ipvsagent.kernel.host import IpvsPresence
from ipvsagent.kernel.sysctls import LOCALHOST, RaisedSysctls, Sysctls, read_sysctl
from ipvsagent.packet_filter.iptables import IptablesPacketFilter
from ipvsagent.render.set_members import set_specs
from tests.support.interrupted import Calls
from tests.support.looped import TestedNode

GUARD = "-A IPVSAGENT-NAT-DROP ! -s 127.0.0.0/8 -d 127.0.0.0/8"


@pytest.fixture
def config(netns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    for module in (node, iptables_node):
        monkeypatch.setattr(module, "set_conntrack", lambda config: ())
    monkeypatch.setattr(node.host, "set_oom_score", lambda score: ())
    netns.run("ip", "link", "set", "lo", "up")
    return Config(node_name="here", state_dir=tmp_path)


def is_open() -> bool:
    return read_sysctl(LOCALHOST.name) == 1


def is_guarded(netns) -> bool:
    return any(GUARD in netns.run(f"iptables-{mode}-save") for mode in ("nft", "legacy"))


def serving(config: Config) -> IptablesBackend:
    made = IptablesBackend.open(config)
    made.prepare()
    assert not is_open()
    made.sets.ensure(set_specs())
    rules = made.packet_filter()
    rules.install()
    assert not is_open()
    assert made.retire_others(0.0, rules) == () and is_open()
    return made


def test_localhost_is_open_once_the_guard_stands_and_closed_before_it_goes(netns, config, monkeypatch):
    made = serving(config)
    assert is_guarded(netns) and LOCALHOST in made.settings()
    removed = IptablesPacketFilter.remove

    def remove(rules: IptablesPacketFilter) -> None:
        assert not is_open() and is_guarded(netns)
        removed(rules)

    monkeypatch.setattr(IptablesPacketFilter, "remove", remove)
    done = CliRunner().invoke(cleanup.command, ["--yes", "--state-dir", str(config.state_dir)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert not is_guarded(netns) and not is_open()


def test_for_an_agent_that_comes_later_the_guard_is_written_first(netns, config):
    IptablesBackend.open(config).prepare_host()
    assert is_open() and is_guarded(netns)


def test_localhost_is_closed_when_ipvs_takes_over_and_when_it_is_no_longer_asked_for(config):
    made = serving(config)
    other = TestedNode(FakeKernel(), config, Calls())
    other.saved.localhost = made.saved.localhost
    other.set_limits()
    assert not is_open()
    made = serving(config)
    made.reconfigure(replace(config, localhost_node_ports=False))
    assert not is_open() and LOCALHOST not in made.settings()


def test_answering_arp_again_puts_the_interfaces_back(config):
    raised = RaisedSysctls(config.state_dir / "raised")
    settings = silence(["lo"])
    raised.record(settings)
    Sysctls().set(settings)
    assert read_sysctl("net.ipv4.conf.lo.arp_ignore") == 3
    for wish in (config, replace(config, answer_arp=True)):
        made = TestedNode(FakeKernel(), wish, Calls())
        made.saved.raised = raised
        made.set_limits()
        assert read_sysctl("net.ipv4.conf.lo.arp_ignore") == (0 if wish.answer_arp else 3)
    assert read_sysctl("net.ipv4.conf.lo.arp_announce") == 0 and not made.unset_limits


def test_cleanup_takes_routes_where_ip_vs_is_gone(netns, config, monkeypatch):
    monkeypatch.setattr(host, "ip_vs_presence", lambda: IpvsPresence.ABSENT)
    netns.run("ip", "route", "add", "local", "10.96.0.0/16", "dev", "lo", "proto", "119")
    netns.run("ip", "route", "add", "local", "10.97.0.0/16", "dev", "lo", "proto", "static")
    words = ["--yes", "--state-dir", str(config.state_dir)]
    planned = CliRunner().invoke(cleanup.command, [*words, "--dry-run"], catch_exceptions=False)
    assert "ip route delete local 10.96.0.0/16" in planned.output and "10.97" not in planned.output
    done = CliRunner().invoke(cleanup.command, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    left = netns.run("ip", "route", "show", "table", "local")
    assert "10.96.0.0/16" not in left and "10.97.0.0/16" in left
