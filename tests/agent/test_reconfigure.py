"""A configuration taken up by a running pipeline leaves the kernel as one that began with it."""

from __future__ import annotations

from functools import cache
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from ipvsagent.agent.reconfiguration import ORIGIN, Reconfiguration
from ipvsagent.backends.assembly import pipeline_for, policy_options
from ipvsagent.backends.ipvs import IpvsBackend
from ipvsagent.cluster.objects import Changes
from ipvsagent.config import Config, parse_network
from ipvsagent.errors import KernelError
from ipvsagent.findings import Severity
from ipvsagent.kernel.fake.kernel import FakeKernel
from ipvsagent.monitoring.server import Server
from ipvsagent.pipeline import Pipeline
from ipvsagent.reconcile.kernel_tables import KernelTables
from ipvsagent.reconcile.report import Report
from ipvsagent.render.ipvs import IpvsRenderer
from ipvsagent.render.set_members import set_specs
from ipvsagent.sources.configuration import NewConfig
from ipvsagent.sources.manifests import ManifestSource
from tests.support.interrupted import Calls
from tests.support.looped import handles

CLUSTER = (Path(__file__).parent.parent / "golden" / "every-address" / "cluster.yaml").read_bytes()
CONFIGS = {
    "defaults": Config(),
    "scheduler": Config(scheduler="lc"),
    "node ports": Config(node_port_addresses=("172.16.0.0/16",)),
    "known as": Config(bind_address="10.244.1.254", node_port_addresses=("primary",)),
    "external": Config(allowed_external=(parse_network("0.0.0.0/0"), parse_network("::/0"))),
    "pods": Config(cluster_cidrs=(parse_network("10.200.0.0/16"),)),
    "pods of the node": Config(detect_local="NodeCIDR"),
}


@cache
def cluster_changes() -> Changes:
    name = b"metadata: {name: node-1}\n"
    with TemporaryDirectory() as folder:
        file = Path(folder) / "cluster.yaml"
        file.write_bytes(CLUSTER.replace(name, name + b"spec: {podCIDRs: [10.200.1.0/24]}\n"))
        return ManifestSource([file]).load_once()[0]


class Running:
    def __init__(self, config: Config) -> None:
        self.kernel = FakeKernel(node_addresses={"172.16.0.1": "eth0", "10.244.1.254": "cni0"})
        self.kernel.sets.ensure(set_specs())
        tables = (self.kernel.ipvs, self.kernel.addresses, self.kernel.sets)
        self.backend = KernelTables(IpvsRenderer(), *tables, translations=self.kernel.translations)
        config = Config(**{**{f: getattr(config, f) for f in config.__struct_fields__}, "node_name": "node-1"})
        self.pipeline: Pipeline = pipeline_for(config, self.backend, window=0)
        changes = cluster_changes()
        self.pipeline.set_node_addresses(self.kernel.addresses.node_addresses())
        self.pipeline.apply_changes(changes, 0.0)
        self.pipeline.start(0.0)
        self.kernel.keep_rules()

    def take_up(self, config: Config, now: float) -> Report:
        self.pipeline.reconfigure(policy_options(config), config.drain_timeout, now)
        report = self.pipeline.round(now)
        self.kernel.keep_rules()
        return report


@pytest.fixture(scope="module")
def wanted() -> dict[str, object]:
    return {name: Running(config).kernel.snapshot() for name, config in CONFIGS.items()}


def test_the_configurations_differ(wanted: dict[str, object]) -> None:
    states = list(wanted.values())
    assert all(states[i] != states[j] for i in range(len(states)) for j in range(i))


@pytest.mark.parametrize(("before", "after"), list(permutations(CONFIGS, 2)))
def test_as_if_begun_with_it(before: str, after: str, wanted: dict[str, object]) -> None:
    running = Running(CONFIGS[before])
    assert running.kernel.snapshot() == wanted[before]
    report = running.take_up(CONFIGS[after], 1.0)
    assert running.kernel.snapshot() == wanted[after]
    assert not report.drift and not report.failures
    assert running.pipeline.round(2.0).written == 0


def test_the_same_again_costs_nothing() -> None:
    running = Running(Config())
    assert running.pipeline.reconfigure(policy_options(Config()), 60.0, 1.0) == []
    assert running.pipeline.next_due() is None or running.pipeline.round(2.0).written == 0


class RefusesTimeouts(IpvsBackend):
    """A node whose kernel takes no timeouts as long as `refuses`. `did`: what was taken up, in order."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, handles(FakeKernel(), config, Calls()))
        self.ipvs: Any = self
        self.refuses = True
        self.did: list[object] = []

    def set_timeouts(self, tcp: int, tcp_fin: int, udp: int) -> None:
        if self.refuses:
            raise KernelError.of(1, "set timeouts")
        self.did.append((tcp, tcp_fin, udp))

    def set_limits(self) -> None:
        self.did.append(("oom", self.config.oom_score_adj))

    def scheduler_works(self, name: str) -> bool:
        return True


def test_what_the_kernel_refuses_holds_up_nothing_else_and_is_tried_again() -> None:
    before, after = Config(), Config(udp_timeout=7.0, oom_score_adj=-5)
    node = RefusesTimeouts(before)
    reconfiguration = Reconfiguration(before, node, Running(before).pipeline, lambda config: None)
    (finding,) = dict(reconfiguration.apply(NewConfig(after, (), {}), 1.0))[ORIGIN]
    assert finding.subject == "IPVS timeouts" and finding.severity is Severity.ERROR
    assert node.did == [("oom", -5)]
    assert dict(reconfiguration.retry(2.0))[ORIGIN] == (finding,)
    node.refuses = False
    assert dict(reconfiguration.retry(3.0))[ORIGIN] == ()
    assert node.did[-1] == (0, 0, 7)
    assert reconfiguration.retry(4.0) == []


def test_configz_shows_no_password() -> None:
    server = Server(Config(master="https://user:SECRET@10.0.0.1:6443"), "ipvs", (), lambda message: None)
    shown = server._answer("metrics", "/configz", "").body
    assert b"https://10.0.0.1:6443" in shown and b"SECRET" not in shown


def test_configz_shows_what_is_in_force() -> None:
    server = Server(Config(), "ipvs", (), lambda message: None)
    server.configure(Config(udp_timeout=7.0))
    assert b'"udp_timeout":7.0' in server._answer("metrics", "/configz", "").body
