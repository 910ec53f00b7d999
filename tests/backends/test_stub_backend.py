"""A new backend is named by the composition root alone: it is planned, applied, shown, checked and removed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Any

from ipvsagent.agent import preflight
from ipvsagent.backends import selection
from ipvsagent.backends.assembly import Recorder, pipeline_for, policy_options, socket_path
from ipvsagent.backends.backend import Backend, Listing
from ipvsagent.backends.checks import BackendChecks, Check, State
from ipvsagent.backends.iptables import IptablesBackend
from ipvsagent.backends.ipvs import IpvsBackend
from ipvsagent.backends.kernel_handles import IptablesHandles, IpvsHandles, SavedSettings
from ipvsagent.backends.removal import SharedState, open_shared_state
from ipvsagent.cli import cleanup, main
from ipvsagent.config import Config
from ipvsagent.errors import StartError
from ipvsagent.findings import Finding
from ipvsagent.kernel import host
from ipvsagent.kernel.fake.kernel import FakeKernel
from ipvsagent.kernel.fake.rules import server_rules
from ipvsagent.kernel.host import IpvsPresence
from ipvsagent.kernel.iptables.commands import Mode, Variant
from ipvsagent.kernel.reserved_ports import ReservedPorts
from ipvsagent.kernel.sysctls import ConnReuse, RaisedSysctls, Setting
from ipvsagent.packet_filter import selection as rule_tools
from ipvsagent.packet_filter.packet_filter import PacketFilter
from ipvsagent.pipeline import Pipeline
from ipvsagent.policy.capabilities import IPVS
from ipvsagent.policy.virtual_servers import PolicyOptions
from ipvsagent.reconcile.kernel_tables import KernelTables
from ipvsagent.render.ipvs import IpvsRenderer
from ipvsagent.rows import Failure, Keys, Observed, Op, RealServerRow, Row, TranslationRow, Verb, VirtualServerRow
from ipvsagent.status.ipvsadm_order import grouped

OBJECTS = Path(__file__).parent.parent / "golden" / "terminating" / "cluster.yaml"


class Held:
    """A kernel table in memory that outlives the backend."""

    def __init__(self) -> None:
        self.rows: dict[tuple[object, object], Row] = {}

    def read(self, keys: Keys) -> Iterator[Observed]:
        in_order = sorted(self.rows.items(), key=lambda item: (str(item[0][0]), type(item[1]) is RealServerRow))
        return iter([Observed(row) for _, row in in_order])

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        for op in ops:
            key = (getattr(op.row, "server", None), op.row.key)
            if op.verb is Verb.DELETE:
                self.rows.pop(key, None)
            else:
                self.rows[key] = op.row
        return []


KERNEL = Held(), Held()


class StubFilter:
    """Packet rules that need none."""

    description = "none"
    pending = False

    def __init__(self) -> None:
        self.wake = Event()

    def install(self) -> int:
        return 0

    repair = install

    def differences(self) -> list[str]:
        return []

    def findings(self) -> list[Finding]:
        return []

    def held_translations(self) -> frozenset[TranslationRow]:
        return frozenset()

    def counts(self) -> dict[Any, Any]:
        return {}

    def removals(self) -> list[str]:
        return []

    def apply_pending(self) -> None: ...

    serve = take_over = remove = close = apply_pending

    def configure(self, config: Config) -> None: ...

    def translate(self, rows: frozenset[TranslationRow]) -> None: ...

    def on_failure(self, record: Any) -> None: ...


class StubBackend:
    name = "stub"
    rules_in_loop = False
    rules_pending = False
    findings: tuple[Finding, ...] = ()
    capabilities = IPVS

    def __init__(self, config: Config) -> None:
        self.config = config
        self.socket_path = socket_path(config)
        self.unset_limits: tuple[Finding, ...] = ()

    @classmethod
    def open(cls, config: Config, *, load_modules: bool = False) -> StubBackend:
        return cls(config)

    def kernel_tables(self) -> KernelTables:
        return KernelTables(IpvsRenderer(with_sets=False), *KERNEL)

    def packet_filter(self) -> PacketFilter:
        return StubFilter()

    def pipeline(self, tables: KernelTables, *, window: float) -> Pipeline:
        return pipeline_for(self.config, tables, window=window)

    def dry_pipeline(self, ops: list[Op]) -> Pipeline:
        tables = KernelTables(IpvsRenderer(with_sets=False), *(Recorder(table, ops) for table in KERNEL))
        return pipeline_for(self.config, tables, window=0)

    def listing(self, *, counters: bool) -> Listing:
        return Listing((9, 9, 9), 1, tuple(grouped(KERNEL[0].read(None))))

    def node_addresses(self) -> dict[Any, str]:
        return {}

    def prepare(self) -> None: ...

    prepare_host = set_limits = prepare

    def settings(self) -> list[Setting]:
        return []

    def keep_settings(self, now: float) -> tuple[list[Finding], list[str]]:
        return [], []

    def conn_reuse(self) -> ConnReuse | None:
        return None

    def check(self) -> BackendChecks:
        return BackendChecks((Check("stub", State.OK, "serves Services"),))

    def removals(self) -> list[Op]:
        return [Op(Verb.DELETE, row) for row in KERNEL[0].rows.values() if isinstance(row, VirtualServerRow)]

    def remove(self) -> list[Failure]:
        for table in KERNEL:
            table.rows.clear()
        return []

    def repair_addresses(self) -> int:
        return 0

    def scheduler_works(self, name: str) -> bool:
        return True

    def policy(self, config: Config) -> PolicyOptions:
        return policy_options(config)

    def reconfigure(self, config: Config) -> bool:
        return False

    def ledger_findings(self) -> tuple[Finding, ...]:
        return ()

    after_rules_installed = findings_on_others = ledger_findings

    def retire_others(self, now: float, rules: PacketFilter) -> tuple[Finding, ...]:
        return ()


class Absent(StubBackend):
    name = "absent"

    @classmethod
    def open(cls, config: Config, **_: Any) -> StubBackend:
        raise StartError("there is no iptables", "Install it")


class Unused(StubBackend):
    """A second backend that has left nothing."""

    name = "unused"

    def removals(self) -> list[Op]:
        return []


def test_a_backend_that_only_the_composition_root_names(monkeypatch, tmp_path, capsys):
    made: Backend = StubBackend(Config())  # checked by mypy too, if anybody asks it
    assert made.name == "stub"
    monkeypatch.setattr(selection, "IpvsBackend", StubBackend)
    monkeypatch.setattr(selection, "IptablesBackend", Absent)
    monkeypatch.setattr(selection.host, "ip_vs_presence", lambda: IpvsPresence.PRESENT)
    words = ["--source", str(OBJECTS), "--hostname-override", "node-1", "--state-dir", str(tmp_path)]
    assert ran(["plan", *words]) == 2
    assert "ipvsadm -A -t" in capsys.readouterr().out
    assert ran(["run", "--once", *words]) == 0
    assert ran(["plan", *words]) == 0
    capsys.readouterr()
    assert ran(["status", "-o", "json", "--state-dir", str(tmp_path)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["backend"] == "stub" and shown["ipvs_version"] == "9.9.9" and len(shown["virtual_servers"]) > 1

    monkeypatch.setattr(host, "require_privilege", lambda: None)
    monkeypatch.setattr(host, "kube_proxy_here", lambda: None)
    monkeypatch.setattr(preflight, "saved_rules", dict)
    iptables = Check("iptables", State.OK, "nft"), Variant(Mode.NFT, "it is a fake")
    monkeypatch.setattr(preflight, "_iptables", lambda saved: iptables)
    monkeypatch.setattr(preflight, "find_obstacles", lambda *_, **__: [])
    assert ran(["check", "--state-dir", str(tmp_path)]) == 0
    assert "serves Services" in capsys.readouterr().out

    monkeypatch.setattr(selection, "IptablesBackend", Unused)
    monkeypatch.setattr(cleanup, "open_shared_state", lambda config: shared_state(tmp_path))
    words = ["cleanup", "--yes", "--state-dir", str(tmp_path)]
    assert ran([*words, "--dry-run"]) == 0
    assert "ipvsadm -D -t" in capsys.readouterr().out and KERNEL[0].rows
    assert ran(words) == 0
    assert re.match(r"removed \d+ virtual servers", capsys.readouterr().err) and not KERNEL[0].rows


def test_a_rule_tool_that_only_its_selection_names(monkeypatch, tmp_path):
    """Both backends and `cleanup` get the packet filter that the selection names."""
    stub = StubFilter()
    monkeypatch.setattr(rule_tools, "IptablesPacketFilter", lambda *_: stub)
    config, saved = Config(state_dir=tmp_path), shared_state(tmp_path).saved
    kernel: Any = FakeKernel()
    addresses, sets = kernel.addresses, kernel.sets
    handles = IpvsHandles(addresses, kernel.routes_table, kernel.ownership, kernel.ipvs, sets, saved)
    beside = IpvsBackend(config, handles)
    instead = IptablesBackend(config, IptablesHandles(addresses, sets, server_rules(kernel), saved))
    assert beside.packet_filter() is instead.packet_filter() is open_shared_state(config).rules is stub


def shared_state(folder: Path) -> SharedState:
    """What backends have in common, of a fake kernel that holds nothing."""
    kernel: Any = FakeKernel(interface=False)
    raised, localhost = RaisedSysctls(folder / "raised"), RaisedSysctls(folder / "localhost")
    saved = SavedSettings(raised, localhost, ReservedPorts(folder / "reserved"))
    return SharedState(kernel.addresses, kernel.routes_table, kernel.sets, StubFilter(), saved, ())


def ran(words: list[str]) -> int:
    try:
        return main(words) or 0
    except SystemExit as ended:
        return int(ended.code or 0)
