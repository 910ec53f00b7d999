"""What `check` makes of a kernel without IPVS, by backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipvsagent import checks
from ipvsagent.checks import State, check_node
from ipvsagent.config import Backend, Config
from ipvsagent.kernel import host


@pytest.mark.parametrize(
    ("backend", "state", "fit"),
    [(Backend.AUTO, State.WARNING, True), (Backend.IPTABLES, State.OK, True), (Backend.IPVS, State.FAILED, False)],
)
def test_ip_vs_is_absent(
    backend: Backend, state: State, fit: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(host, "require_privilege", lambda: None)
    monkeypatch.setattr(host, "ip_vs_presence", lambda: host.IpvsPresence.ABSENT)
    monkeypatch.setattr(host, "kube_proxy_here", lambda: None)
    monkeypatch.setattr(checks, "_iptables", lambda: checks.Check("iptables", State.OK, "nft"))
    monkeypatch.setattr(checks, "IptablesNode", lambda config: type("Opened", (), {"settings": lambda self: []})())
    found = check_node(Config(backend=backend, state_dir=tmp_path))
    (ip_vs,) = [check for check in found.checks if check.name == "ip_vs"]
    assert (ip_vs.state, found.fit) == (state, fit)
    assert ("iptables" in ip_vs.found) == (backend is not Backend.IPVS)
    assert not list(tmp_path.iterdir())


def test_who_only_looks_leaves_no_lock_file(tmp_path: Path) -> None:
    path = tmp_path / "node.lock"
    assert not host.AgentLock(path).is_held() and not path.exists()
    agent = host.AgentLock(path)
    assert agent.try_acquire() and host.AgentLock(path).is_held()
    agent.release()
    assert not host.AgentLock(path).is_held() and agent.try_acquire()


def test_iptables_does_not_help_who_may_not_use_ipvs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "require_privilege", lambda: None)
    monkeypatch.setattr(host, "ip_vs_presence", lambda: host.IpvsPresence.FORBIDDEN)
    found = check_node(Config(state_dir=tmp_path))
    assert not found.fit and "failed" in [check.state for check in found.checks if check.name == "ip_vs"]
