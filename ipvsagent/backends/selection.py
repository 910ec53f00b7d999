"""The choice of a backend: IPVS, or iptables if the kernel has no IPVS. The only module that imports the backends."""

from __future__ import annotations

import contextlib

from ipvsagent.backends.assembly import empty_recorder, pipeline_for
from ipvsagent.backends.backend import Backend
from ipvsagent.backends.checks import Check, State
from ipvsagent.backends.iptables import IptablesBackend, empty_iptables_recorder, iptables_pipeline, unused_scheduler
from ipvsagent.backends.ipvs import IpvsBackend
from ipvsagent.config import BackendChoice, Config
from ipvsagent.errors import IpvsAgentError, KernelError, StartError
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.kernel import host
from ipvsagent.kernel.host import IpvsAbsent, IpvsPresence
from ipvsagent.kernel.iptables.commands import Variant
from ipvsagent.kernel.ipvs.table import IpvsTable
from ipvsagent.pipeline import Pipeline
from ipvsagent.rows import Op


def open_backend(config: Config, *, load_modules: bool = False) -> Backend:
    """Open the configured backend. Raises StartError, and IpvsAbsent if `ipvs` is configured but absent.

    `auto` falls back to iptables only if the kernel reports that it has no IPVS. Any other problem with IPVS is for an
    operator to fix: virtual servers of ours may exist, and iptables must not serve beside them.
    """
    if config.backend is BackendChoice.IPTABLES:
        return IptablesBackend.open(config)
    try:
        return IpvsBackend.open(config, load_modules=load_modules)
    except IpvsAbsent as absent:
        if config.backend is BackendChoice.IPVS:
            raise
        reason = (
            f"{absent.what}, so Services are on iptables: endpoints are chosen at random, and every change costs more "
            f"the more Services there are. {absent.remedy}, and start the agent again"
        )
        return IptablesBackend.open(config, (Finding(FindingKind.FALLBACK, "backend", reason),))


def open_active_backend(config: Config, reported: str = "") -> Backend:
    """Open the backend that serves on this node now, to read from it: iptables if the kernel has no IPVS, or if there
    are chains of virtual servers, because new connections traverse these first. Raises StartError.

    reported: the name of the backend that the running agent reported, "" if none runs.
    """
    if reported == IptablesBackend.name or host.ip_vs_presence() is IpvsPresence.ABSENT:
        return IptablesBackend.open(config)
    if not reported:
        with contextlib.suppress(StartError, KernelError):
            other = IptablesBackend.open(config)
            if any(other.servers.read(None)):
                return other
    return IpvsBackend.open(config)


def open_all(config: Config) -> list[Backend]:
    """Open every backend that may have left something on this node. Raises StartError."""
    backends: list[Backend] = [] if host.ip_vs_presence() is IpvsPresence.ABSENT else [IpvsBackend.open(config)]
    return [*backends, IptablesBackend.open(config)]


def open_to_check(config: Config, variant: Variant | None) -> tuple[Check, Backend | None]:
    """Check for IPVS, and open the backend that `run` would choose; None if it cannot be opened.

    variant: of iptables, None if there is none. Raises StartError.
    """
    ip_vs = _ip_vs_check(config.backend)
    if config.backend is BackendChoice.IPTABLES or ip_vs.state is State.WARNING:
        return ip_vs, None if variant is None else IptablesBackend.open(config, variant=variant)
    return ip_vs, IpvsBackend.open(config) if ip_vs.state is State.OK else None


def _ip_vs_check(choice: BackendChoice) -> Check:
    """Check for IPVS. WARNING means that iptables would serve, unless `run` can load the module."""
    if choice is BackendChoice.IPTABLES:
        return Check("ip_vs", State.OK, "not needed: Services are to be on iptables")
    try:
        host.require_ip_vs(load=False)
    except IpvsAbsent as absent:
        if choice is BackendChoice.IPVS:
            return Check("ip_vs", State.FAILED, absent.what, absent.remedy)
        found = f"{absent.what} now: unless `run` can load the module, it serves by iptables"
        remedy = f"{absent.remedy} for IPVS, or choose iptables with --backend iptables"
        return Check("ip_vs", State.WARNING, found, remedy)
    except StartError as error:
        return Check("ip_vs", State.FAILED, error.what, error.remedy)
    return Check("ip_vs", State.OK, "the kernel has IPVS")


def open_ipvs_table(config: Config) -> IpvsTable:
    """Open the table of IPVS, to read it, whichever backend serves. Raises StartError, and IpvsAgentError if Services
    are on iptables and there is no IPVS."""
    if host.ip_vs_presence() is IpvsPresence.ABSENT and any(IptablesBackend.open(config).servers.read(None)):
        raise IpvsAgentError("Services are on iptables here: there is no IPVS to list; use `iptables-save -t nat`")
    return IpvsBackend.open(config).ipvs


def empty_pipeline(config: Config, ops: list[Op]) -> Pipeline:
    """Return a pipeline on an empty kernel that records into `ops`, for a dry run on any machine."""
    if config.backend is BackendChoice.IPTABLES:
        return iptables_pipeline(config, empty_iptables_recorder(config, ops), window=0)
    return pipeline_for(config, empty_recorder(ops), window=0)


def empty_findings(config: Config) -> tuple[Finding, ...]:
    """Return which parts of the configuration have no effect on the backend of `empty_pipeline`."""
    return unused_scheduler(config) if config.backend is BackendChoice.IPTABLES else ()
