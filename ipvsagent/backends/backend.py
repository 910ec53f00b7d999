"""The interface between a backend, which serves Services in one particular way, and the rest of the agent.

Only `selection.py` imports the backends. A new one implements this protocol and is opened there; no caller changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from ipvsagent.address import Address
from ipvsagent.backends.checks import BackendChecks
from ipvsagent.config import Config
from ipvsagent.findings import Finding
from ipvsagent.kernel.sysctls import ConnReuse, Setting
from ipvsagent.model import VirtualServerId
from ipvsagent.packet_filter.packet_filter import PacketFilter
from ipvsagent.pipeline import Pipeline
from ipvsagent.policy.capabilities import Capabilities
from ipvsagent.policy.virtual_servers import PolicyOptions
from ipvsagent.reconcile.kernel_tables import KernelTables
from ipvsagent.rows import Failure, Observed, Op


class Listing(Struct, frozen=True):
    """Listing contains the virtual servers that the kernel holds, for `status`."""

    version: tuple[int, int, int] | None
    """The version of IPVS; None if the backend does not use it."""
    table_size: int
    """Buckets of the connection table of IPVS; 0 if the backend does not use it."""
    entries: tuple[tuple[Observed, list[Observed]], ...]
    """Each virtual server with its real servers."""
    names: Mapping[VirtualServerId, tuple[str, str]] = {}
    """Service and frontend of virtual servers, if the kernel holds them."""


class Backend(Protocol):
    """Backend serves Services in one way, in the network namespace that the process is in.

    Opening one only reads, except that it loads ip_vs if the caller allows it.
    """

    config: Config
    socket_path: Path
    unset_limits: tuple[Finding, ...]
    """What `set_limits` could not set."""

    @property
    def name(self) -> str:
        """Return the name that `--backend` and `status` use."""

    @property
    def capabilities(self) -> Capabilities:
        """What this backend can do, with its configuration."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Why this backend was chosen, and which settings have no effect with it."""

    @property
    def rules_in_loop(self) -> bool:
        """Whether the main loop keeps the packet rules, because the virtual servers are packet rules themselves.
        Otherwise a thread keeps them, because iptables may block on the lock held by other programs."""

    @property
    def rules_pending(self) -> bool:
        """Return whether packet rules have yet to be written."""

    def kernel_tables(self) -> KernelTables:
        """Return tables that write, and that create what they need if it is missing."""

    def packet_filter(self) -> PacketFilter:
        """Open the packet rules of this backend. Raises StartError."""

    def pipeline(self, tables: KernelTables, *, window: float) -> Pipeline:
        """Return a pipeline on these tables.

        window: how many seconds to wait for a vanished endpoint to return; 0 if the source is read just once.
        """

    def dry_pipeline(self, ops: list[Op]) -> Pipeline:
        """Return a pipeline that reads the kernel, and appends what `run` would write to `ops`."""

    def listing(self, *, counters: bool) -> Listing:
        """Return what the kernel holds. Raises KernelError."""

    def node_addresses(self) -> dict[Address, str]:
        """Return the addresses on interfaces other than ours, each with the name of its interface. Raises
        KernelError."""

    def prepare(self) -> None:
        """Set up the host for an agent that writes. The changes remain after the agent ends. Raises StartError."""

    def prepare_host(self) -> None:
        """Do whatever part of `prepare` may need more than CAP_NET_ADMIN and is still undone. Raises StartError."""

    def check(self) -> BackendChecks:
        """Check what this backend needs of the host. Raises KernelError."""

    def removals(self) -> list[Op]:
        """Return what `remove` would remove. This only reads. Raises KernelError, StartError."""

    def remove(self) -> list[Failure]:
        """Remove the virtual servers of this backend and what they need, and return what could not be removed. The
        caller removes the packet rules and sets of all backends afterwards. Raises KernelError, StartError."""

    def settings(self) -> list[Setting]:
        """Return the kernel settings that this configuration needs."""

    def keep_settings(self, now: float) -> tuple[list[Finding], list[str]]:
        """Restore settings that another program changed. Return findings, and the names of those that were changed."""

    def set_limits(self) -> None:
        """Set what helps Services but is not essential: sizes and timeouts of conntrack, the OOM score, reserved ports.
        `unset_limits` then has what could not be set."""

    def conn_reuse(self) -> ConnReuse | None:
        """Return how IPVS treats reused ports; None if this backend does not use IPVS."""

    def repair_addresses(self) -> int:
        """Restore the attributes with which we bind addresses. Return how many addresses had others. Raises
        KernelError."""

    def scheduler_works(self, name: str) -> bool:
        """Return whether a Service may ask for this scheduler: the kernel accepts it, or the backend ignores it."""

    def policy(self, config: Config) -> PolicyOptions:
        """Return what the policy needs of this configuration and this backend."""

    def reconfigure(self, config: Config) -> bool:
        """Apply the settings that may change while the agent runs. Return whether this changes the rows of virtual
        servers.

        Raises KernelError if the kernel refuses some of them. The others then take effect, and the same configuration
        can be applied again.
        """

    def ledger_findings(self) -> tuple[Finding, ...]:
        """Return findings about the file in which the backend records its virtual servers, if it has one."""

    def after_rules_installed(self) -> tuple[Finding, ...]:
        """Do what has to wait for the packet rules, and return findings about what failed. Raises KernelError."""

    def retire_others(self, now: float, rules: PacketFilter) -> tuple[Finding, ...]:
        """Remove what other backends left on this node, as their connections end, and return findings about the rest.
        To be called while this backend serves and the packet rules are correct. Raises KernelError, StartError."""

    def findings_on_others(self) -> Iterable[Finding]:
        """Return findings about what other backends left on this node. Only reads."""
