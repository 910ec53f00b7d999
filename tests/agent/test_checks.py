"""What `check` makes of a kernel without IPVS, by backend."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ipvsagent.address import Family
from ipvsagent.agent import preflight as checks
from ipvsagent.agent.preflight import check_node
from ipvsagent.backends.checks import Check, State
from ipvsagent.backends.iptables import IptablesBackend
from ipvsagent.backends.kernel_handles import IptablesHandles
from ipvsagent.cli import main
from ipvsagent.config import BackendChoice, Config
from ipvsagent.kernel import host
from ipvsagent.kernel.iptables.commands import IptablesCommands, Mode, Variant
from tests.support.iptables import skip_unless_native
from tests.support.network_namespace import NetworkNamespace

DATA = Path(__file__).parent.parent / "data" / "packet_filters"


@pytest.mark.parametrize(
    ("backend", "state", "fit"),
    [
        (BackendChoice.AUTO, State.WARNING, True),
        (BackendChoice.IPTABLES, State.OK, True),
        (BackendChoice.IPVS, State.FAILED, False),
    ],
)
def test_ip_vs_is_absent(
    backend: BackendChoice, state: State, fit: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(host, "require_privilege", lambda: None)
    monkeypatch.setattr(host, "ip_vs_presence", lambda: host.IpvsPresence.ABSENT)
    monkeypatch.setattr(host, "kube_proxy_here", lambda: None)
    monkeypatch.setattr(checks, "saved_rules", dict)
    iptables = Check("iptables", State.OK, "nft"), Variant(Mode.NFT, "it is a fake")
    monkeypatch.setattr(checks, "_iptables", lambda saved: iptables)
    opened = IptablesBackend(Config(), IptablesHandles(None, None, None, None))  # type: ignore[arg-type]
    monkeypatch.setattr(opened, "settings", list)
    monkeypatch.setattr(IptablesBackend, "open", lambda *_, **__: opened)
    monkeypatch.setattr(checks, "find_obstacles", lambda *_, **__: [])
    found = check_node(Config(backend=backend, state_dir=tmp_path))
    (ip_vs,) = [check for check in found.checks if check.name == "ip_vs"]
    assert (ip_vs.state, found.fit) == (state, fit)
    assert ("iptables" in ip_vs.found) == (backend is not BackendChoice.IPVS)
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


def test_neighbours_and_obstacles(netns: NetworkNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One reading of iptables-save for each variant and family serves all checks."""
    for mode in Mode:
        skip_unless_native(mode)
    netns.run("iptables-nft-restore", stdin=(DATA / "ufw-deny-4.rules").read_text())
    netns.run("nft", "-f", str(DATA / "firewalld-eth0.nft"))
    saves: list[tuple[Mode, Family]] = []
    save = IptablesCommands.save
    monkeypatch.setattr(IptablesCommands, "save", lambda tool: (saves.append((tool.mode, tool.family)), save(tool))[1])
    found = check_node(Config(backend=BackendChoice.IPVS, state_dir=tmp_path))
    assert sorted(saves) == sorted((mode, family) for mode in Mode for family in Family)
    assert [(check.name, check.state) for check in found.neighbours] == [
        ("neighbour ufw", State.OK),
        ("neighbour firewalld", State.OK),
        ("neighbour default denial", State.OK),
        ("obstacle table inet firewalld, chain filter_INPUT", State.WARNING),
    ]
    assert (
        "nft insert rule inet firewalld filter_INPUT ct mark and 0x4000 == 0x4000 accept" in found.neighbours[-1].remedy
    )
    beside_iptables = check_node(Config(backend=BackendChoice.IPTABLES, state_dir=tmp_path)).neighbours
    assert [check.name for check in beside_iptables] == [check.name for check in found.neighbours[:-1]]


def test_they_have_a_section_of_their_own(netns: NetworkNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    skip_unless_native(Mode.NFT)
    netns.run("nft", "-f", str(DATA / "firewalld-eth0.nft"))
    with pytest.raises(SystemExit):
        main(["check", "--backend", "ipvs"])
    assert "\n\nok       neighbour firewalld" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["check", "--backend", "ipvs", "-o", "json"])
    names = [check["name"] for check in json.loads(capsys.readouterr().out)["neighbours"]]
    assert names == ["neighbour firewalld", "obstacle table inet firewalld, chain filter_INPUT"]
