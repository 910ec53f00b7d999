"""As tests/test_reconfigure.py, on iptables: who is local is in the chains of Services with a Local policy, too, and
what becomes of others' packets is in constant rules that the loop keeps."""

from __future__ import annotations

from functools import cache
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from msgspec.structs import replace

from ipvsagent.address import Family
from ipvsagent.agent.reconfiguration import ORIGIN, Reconfiguration
from ipvsagent.backends.iptables import IptablesBackend, iptables_pipeline, renderer
from ipvsagent.cluster.objects import Changes
from ipvsagent.config import Config, parse_network
from ipvsagent.findings import Finding
from ipvsagent.kernel.arp import Raised
from ipvsagent.kernel.fake.kernel import FakeKernel
from ipvsagent.kernel.fake.rules import server_rules
from ipvsagent.packet_filter.iptables import IptablesPacketFilter
from ipvsagent.packet_filter.profiles import INSTEAD_OF_IPVS
from ipvsagent.reconcile.kernel_tables import KernelTables
from ipvsagent.reconcile.report import Report
from ipvsagent.render.set_members import set_specs
from ipvsagent.rows.nat_chains import BUCKET
from ipvsagent.sources.configuration import NewConfig
from ipvsagent.sources.manifests import ManifestSource

CLUSTER = (Path(__file__).parent / "golden" / "local-policies" / "cluster.yaml").read_bytes()
PODS = (parse_network("10.244.0.0/16"),)
CONFIGS = {
    "defaults": Config(),
    "pods": Config(cluster_cidrs=PODS),
    "other pods": Config(cluster_cidrs=(parse_network("10.200.0.0/16"),)),
    "pods of both families": Config(cluster_cidrs=(*PODS, parse_network("fd00:10:244::/56"))),
    "pods of the node": Config(detect_local="NodeCIDR"),
    "a bridge": Config(detect_local="BridgeInterface", pod_bridge="cni0", cluster_cidrs=PODS),
    "a prefix": Config(detect_local="InterfaceNamePrefix", pod_interface_prefix="cali"),
    "masquerade all": Config(masquerade_all=True, cluster_cidrs=PODS),
    "no localhost": Config(node_port_addresses=("172.16.0.0/16",)),
    "liberal": Config(conntrack_be_liberal=True),
}


@cache
def cluster_changes() -> Changes:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "cluster.yaml"
        file.write_bytes(CLUSTER)
        return ManifestSource([file]).load_once()[0]


class NodeOfFakes(IptablesBackend):
    """Its limits are those of the machine that runs the tests, which stay."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.config = config
        self._why = ()
        self._retirement = None
        self.localhost = Raised(folder / "localhost")
        self._renderer = renderer(config)

    def set_limits(self) -> None:
        pass


class Running:
    def __init__(self, config: Config, folder: Path) -> None:
        config = replace(config, node_name="node-1")
        self.kernel = FakeKernel(node_addresses={"172.16.0.1": "eth0", "10.244.1.254": "cni0"})
        self.kernel.sets.ensure(set_specs())
        self.node = NodeOfFakes(config, folder)
        servers = server_rules(self.kernel)
        backend = KernelTables(
            self.node._renderer,
            servers,
            None,
            self.kernel.sets,
            listing=lambda: servers.read(None),
            touched=servers.take_externally_modified,
        )
        self.pipeline = iptables_pipeline(config, backend, window=0)
        self.rules = IptablesPacketFilter(config, INSTEAD_OF_IPVS, servers.tables)
        self.rules.install()
        self.pipeline.node_addresses(self.kernel.addresses.node_addresses())
        self.pipeline.take(cluster_changes(), 0.0)
        self.pipeline.start(0.0)
        self.reconfiguration = Reconfiguration(config, self.node, self.pipeline, self.rules.configure)

    def take_up(self, config: Config, now: float) -> tuple[dict[object, tuple[Finding, ...]], Report]:
        """What the loop does."""
        wanted = replace(config, node_name="node-1")
        origins = dict(self.reconfiguration.take(NewConfig(wanted, (), {}), now))
        report = self.pipeline.round(now)
        self.rules.apply_pending()
        return origins, report

    def state(self) -> object:
        """The rules in a bucket, of which one at most fits a packet, may stand in any order."""
        chains = {
            (family, table, chain): sorted(rules) if chain.startswith(BUCKET) else rules
            for family in Family
            for table, held in self.kernel.rule_tools[family].held.items()
            for chain, rules in held.items()
        }
        return chains, self.kernel.set_members


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return {name: Running(config, tmp_path_factory.mktemp("state")).state() for name, config in CONFIGS.items()}


def test_the_configurations_differ(wanted: dict[str, object]) -> None:
    states = list(wanted.values())
    assert all(states[i] != states[j] for i in range(len(states)) for j in range(i))


@pytest.mark.parametrize(("before", "after"), list(permutations(CONFIGS, 2)))
def test_as_if_begun_with_it(before: str, after: str, wanted: dict[str, object], tmp_path: Path) -> None:
    running = Running(CONFIGS[before], tmp_path)
    assert running.state() == wanted[before]
    origins, report = running.take_up(CONFIGS[after], 1.0)
    assert running.state() == wanted[after]
    assert origins[ORIGIN] == () and not report.drift and not report.failures
    assert running.pipeline.round(2.0).written == 0 == running.rules.repair()
    assert running.pipeline.audit.look(1000, 3.0).written == 0


def test_a_scheduler_that_has_no_effect_is_named_as_long_as_it_is_asked_for(tmp_path: Path) -> None:
    running = Running(Config(scheduler="lc"), tmp_path)
    (finding,) = running.node.findings
    assert "lc has no effect" in finding.reason
    origins, report = running.take_up(Config(), 1.0)
    assert origins["backend"] == () and report.written == 0
    origins, _ = running.take_up(Config(scheduler="sh"), 2.0)
    assert "sh has no effect" in origins["backend"][0].reason
