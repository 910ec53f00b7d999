"""What a backend is to the rest of the agent: everything that serves Services on this node in one way.

`selection.py` is the only module that names the backends there are. A further one implements this protocol, is opened
there, and touches no caller.
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
    """What the kernel holds of virtual servers, for `status`.

    version, table_size: of IPVS; None and 0 where it does not serve. entries: each virtual server with its real
    servers. names: Service and frontend by virtual server, where the kernel itself tells.
    """

    version: tuple[int, int, int] | None
    table_size: int
    entries: tuple[tuple[Observed, list[Observed]], ...]
    names: Mapping[VirtualServerId, tuple[str, str]] = {}


class Backend(Protocol):
    """One way to serve Services, opened on the network namespace that the process is in. Opening one only reads.

    name:         as `--backend` and `status` call it.
    findings:     why it is this one, and what of the configuration it has no use for.
    unset_limits: what `set_limits` could not set.
    rules_in_loop: virtual servers are packet rules themselves, so that the main loop keeps both; otherwise a thread
                  keeps the packet rules, because iptables may wait for other programs.
    """

    config: Config
    socket_path: Path
    unset_limits: tuple[Finding, ...]

    @property
    def name(self) -> str: ...

    @property
    def rules_in_loop(self) -> bool: ...

    @property
    def findings(self) -> tuple[Finding, ...]: ...

    @property
    def rules_pending(self) -> bool:
        """Whether packet rules are to be written yet."""

    def kernel_tables(self) -> KernelTables:
        """Tables that write, and make what they stand on when it is missing."""

    def packet_filter(self) -> PacketFilter:
        """The packet rules of this backend. Raises StartError."""

    def pipeline(self, tables: KernelTables, *, window: float) -> Pipeline:
        """window: seconds that a vanished endpoint is waited for; 0 where there is only one look at the source."""

    def dry_pipeline(self, ops: list[Op]) -> Pipeline:
        """A pipeline that reads the kernel, and notes in `ops` what `run` would write."""

    def listing(self, *, counters: bool) -> Listing:
        """What the kernel holds. Raises KernelError."""

    def node_addresses(self) -> dict[Address, str]:
        """Addresses on interfaces other than ours, with the interface's name. Raises KernelError."""

    def prepare(self) -> None:
        """What a writing agent needs of the host; it stays when the agent ends. Raises StartError with a remedy."""

    def prepare_host(self) -> None:
        """The part of `prepare` that may need more than CAP_NET_ADMIN. Does nothing that is done already. Raises
        StartError with a remedy."""

    def settings(self) -> list[Setting]:
        """Kernel settings that this configuration asks for."""

    def keep_settings(self, now: float) -> tuple[list[Finding], list[str]]:
        """Put right what somebody changed since: findings, and the names of what was changed."""

    def set_limits(self) -> None:
        """Set what traffic can do without, if it has to."""

    def conn_reuse(self) -> ConnReuse | None:
        """How IPVS treats reused ports; None where it does not serve."""

    @property
    def capabilities(self) -> Capabilities: ...

    def check(self) -> BackendChecks:
        """Check what this backend needs of the host, for `check`. Raises KernelError."""

    def removals(self) -> list[Op]:
        """Return what `remove` would remove. Only reads. Raises KernelError, StartError."""

    def remove(self) -> list[Failure]:
        """Remove the virtual servers of this backend and what they need, for `cleanup`, which removes the packet rules
        and sets of all backends afterwards. Return what could not be removed. Raises KernelError, StartError."""

    def repair_addresses(self) -> int:
        """Give bound addresses the attributes of ours; how many had others. Raises KernelError."""

    def scheduler_works(self, name: str) -> bool: ...

    def policy(self, config: Config) -> PolicyOptions: ...

    def reconfigure(self, config: Config) -> bool:
        """Take up what may change while the agent runs; whether rows of virtual servers become others by it. Raises
        KernelError if the kernel refuses some of it; the rest is in force then, and the same configuration can be given
        again."""

    def ledger_findings(self) -> tuple[Finding, ...]: ...

    def after_rules_installed(self) -> tuple[Finding, ...]:
        """Do what had to wait for the packet rules; what could not be done is returned. Raises KernelError."""

    def retire_others(self, now: float, rules: PacketFilter) -> tuple[Finding, ...]:
        """Take away what other backends left here, as their connections end. Called when this one serves, and the
        packet rules are as they should be. Raises KernelError, StartError."""

    def left_by_others(self) -> Iterable[Finding]:
        """What other backends left here, for a caller that only looks."""
