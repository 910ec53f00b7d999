"""Provides what backends share: paths, pipelines, and tables for dry runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ipvsagent.address import parse_address
from ipvsagent.config import Config
from ipvsagent.kernel.ipset.table import SetTable
from ipvsagent.kernel.ipvs.ownership import state_key
from ipvsagent.pipeline import Pipeline
from ipvsagent.policy.annotations import LINUX_SCHEDULERS
from ipvsagent.policy.capabilities import IPVS, Capabilities
from ipvsagent.policy.limits import UDP_TIMEOUT
from ipvsagent.policy.virtual_servers import PolicyOptions
from ipvsagent.reconcile.drain import Drains
from ipvsagent.reconcile.kernel_tables import KernelTables
from ipvsagent.render.ipvs import IpvsRenderer
from ipvsagent.render.set_members import set_specs
from ipvsagent.rows import Failure, KernelTable, Keys, Observed, Op


def state_path(config: Config, suffix: str) -> Path:
    """Return a file for the state of the agent in the network namespace that this process is in."""
    return config.state_dir / f"{state_key()}.{suffix}"


def lock_path(config: Config) -> Path:
    """Return the file that the agent locks."""
    return state_path(config, "lock")


def socket_path(config: Config) -> Path:
    """Return the socket on which the agent answers `status`."""
    return state_path(config, "sock")


def ledger_path(config: Config) -> Path:
    """Return the file of the ledger of virtual servers."""
    return state_path(config, "ledger")


class Recorder:
    """Reads a kernel table, or nothing, and records the ops that are written instead of executing them."""

    def __init__(self, table: KernelTable | None, ops: list[Op]) -> None:
        self._table = table
        self._ops = ops

    def read(self, keys: Keys) -> Iterable[Observed]:
        return self._table.read(keys) if self._table else ()

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        self._ops.extend(ops)
        return []


def set_sizes(sets: SetTable) -> dict[str, int]:
    """Return how many members each of our sets has. A set that was destroyed is created again, empty: rules that refer
    to it could not be written otherwise."""
    state = sets.state()
    if any(spec.name not in state for spec in set_specs()):
        sets.ensure(set_specs())
        state = sets.state()
    return {name: header.elements for name, header in state.items()}


def empty_recorder(ops: list[Op]) -> KernelTables:
    """Return the tables of an empty kernel that record into `ops`, for a dry run on any machine."""
    servers, addresses, sets, routes, translations = [Recorder(None, ops) for _ in range(5)]
    return KernelTables(IpvsRenderer(), servers, addresses, sets, routes=routes, translations=translations)


def pipeline_for(
    config: Config,
    tables: KernelTables,
    *,
    window: float,
    scheduler_works: Callable[[str], bool] = LINUX_SCHEDULERS.__contains__,
    capabilities: Capabilities = IPVS,
) -> Pipeline:
    """Return a pipeline on these tables.

    window: how many seconds to wait for a vanished endpoint to return; 0 if the source is read just once.
    """
    drains = Drains(config.drain_timeout, window)
    options = policy_options(config, scheduler_works, capabilities=capabilities)
    return Pipeline(config.node_name, options, tables, drains)


def policy_options(
    config: Config,
    scheduler_works: Callable[[str], bool] = LINUX_SCHEDULERS.__contains__,
    *,
    capabilities: Capabilities = IPVS,
) -> PolicyOptions:
    return PolicyOptions(
        scheduler=config.scheduler,
        allowed_external=config.allowed_external,
        node_ports_on=config.node_port_addresses,
        primary_address=None if config.bind_address in ("0.0.0.0", "::") else parse_address(config.bind_address),
        route_networks=config.service_cidrs if config.route_mode else (),
        pod_networks=config.cluster_cidrs if config.detect_local == "ClusterCIDR" else (),
        pods_of_node=config.detect_local == "NodeCIDR",
        scheduler_works=scheduler_works,
        udp_timeout=int(config.udp_timeout) or UDP_TIMEOUT,
        capabilities=capabilities,
    )
