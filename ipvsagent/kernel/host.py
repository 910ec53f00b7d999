"""Establishes what the agent needs of the host: privileges, IPVS, a scheduler, and that no second agent writes.

Each `require_...` function returns if the condition holds or could be established. Otherwise it raises a StartError
with a command as the remedy.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
from collections.abc import Collection
from enum import StrEnum
from pathlib import Path

from ipvsagent.address import Address, Family
from ipvsagent.errors import KernelError, NotThere, StartError
from ipvsagent.findings import Finding, FindingKind, Severity
from ipvsagent.kernel.ipvs.ownership import Ledger, Ownership
from ipvsagent.kernel.ipvs.table import IpvsTable
from ipvsagent.kernel.sysctls import read_sysctl
from ipvsagent.model import Protocol, VirtualServerId
from ipvsagent.rows import Op, Verb, VirtualServerRow

_NET_ADMIN, _SYS_MODULE = 12, 16  # CAP_*

_CRITICAL_POD = -997  # oom_score_adj of a pod with priority system-node-critical
_TRIAL_ADDRESS = Address("198.51.100.0")  # TEST-NET-2, with kube-proxy's port: pkg/proxy/ipvs/supported.go
_TRIAL_PORTS = range(20000, 20008)
STOP_KUBE_PROXY = "Remove its DaemonSet from this node (kubectl -n kube-system delete daemonset kube-proxy)"
_LOADED = Path("/proc/modules")
_MODULES = Path("/lib/modules", os.uname().release)


class IpvsPresence(StrEnum):
    PRESENT = "present"
    ABSENT = "absent"
    FORBIDDEN = "forbidden"


class IpvsAbsent(StartError):
    """Reports that the kernel has no IPVS. Only then may another backend be chosen instead."""


def require_privilege() -> None:
    """Require CAP_NET_ADMIN. Raises StartError."""
    if not _capable(_NET_ADMIN):
        raise StartError(
            "this process lacks the capability CAP_NET_ADMIN",
            "Run it as root (`sudo ipvsagent ...`), or give the container the capability NET_ADMIN",
        )


def make_state_dir(path: Path) -> None:
    """Create the state directory if it is missing. Raises StartError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        why = "it is not a directory" if isinstance(error, FileExistsError) else error.strerror
        raise StartError(f"--state-dir {path} cannot be used: {why}", "Name a directory that can be written") from None


def ip_vs_presence() -> IpvsPresence:
    """Return whether this process can use IPVS in this network namespace. This changes nothing."""
    try:
        table = IpvsTable(Ownership(Ledger(None), set()))
    except NotThere:
        return IpvsPresence.ABSENT
    except OSError as error:
        if error.errno in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
            return IpvsPresence.ABSENT
        raise
    with contextlib.closing(table):
        try:
            table.info()
        except KernelError as error:
            if error.code in (errno.EPERM, errno.EACCES):
                return IpvsPresence.FORBIDDEN
            raise
    return IpvsPresence.PRESENT


def require_ip_vs(*, load: bool) -> None:
    """Require IPVS. Raises IpvsAbsent, and StartError if this process is not permitted to use it.

    load: whether to load the module if it is absent and this process may load modules.
    """
    presence = ip_vs_presence()
    tried = ""
    if presence is IpvsPresence.ABSENT and load and _capable(_SYS_MODULE):
        tried = load_module("ip_vs")
        presence = ip_vs_presence()
    if presence is IpvsPresence.ABSENT:
        raise IpvsAbsent(
            "the kernel has no IPVS" + (f" ({tried})" if tried else ""), "Load it on the host with `modprobe ip_vs`"
        )
    if presence is IpvsPresence.FORBIDDEN:
        raise StartError(
            "this process may not use IPVS",
            "Run it as root with CAP_NET_ADMIN in the host's user namespace: the kernel allows IPVS nowhere else",
        )


def require_scheduler(name: str, flags: int = 0) -> None:
    """Require a scheduler with these IP_VS_SVC_F_SCHED* flags, by adding a virtual server and deleting it again. Raises
    StartError."""
    error = _scheduler_error(name, flags)
    if isinstance(error, NotThere):
        raise StartError(
            f"the kernel has no IPVS scheduler {name!r}", f"Load it with `modprobe ip_vs_{name}`, or choose another one"
        )
    if error is not None:
        raise StartError(f"the kernel refuses the IPVS scheduler {name!r}: {error}", "Choose another one")


def scheduler_works(name: str) -> bool:
    """Return whether the kernel accepts a scheduler. False also if this cannot be determined now."""
    try:
        return _scheduler_error(name, 0) is None
    except (KernelError, OSError):
        return False


def scheduler_listed(name: str, loaded: Path = _LOADED, modules: Path = _MODULES) -> bool | None:
    """Return whether a scheduler is built in, loaded, or a module that the kernel would load on demand. This tries
    nothing. None if the modules of this kernel cannot be listed, as in a container."""
    module = f"ip_vs_{name}"
    try:
        # A kernel without loadable modules has no such file.
        if loaded.exists() and any(line.split(" ", 1)[0] == module for line in loaded.read_text().splitlines()):
            return True
        lines = [
            line for each in ("modules.builtin", "modules.dep") for line in (modules / each).read_text().splitlines()
        ]
    except OSError:
        return None
    return any(line.partition(":")[0].rpartition("/")[2].startswith(f"{module}.ko") for line in lines)


def _scheduler_error(name: str, flags: int) -> KernelError | None:
    with contextlib.closing(IpvsTable(Ownership(Ledger(None), set()))) as table:
        for port in _TRIAL_PORTS:
            row = VirtualServerRow(VirtualServerId(Protocol.TCP, _TRIAL_ADDRESS, port), name, flags)
            if len(list(table.read([row.id]))) > 1:
                continue  # real servers: another program's; none: a killed agent or kube-proxy left it behind
            table.write([Op(Verb.DELETE, row)])
            try:
                failures = table.write([Op(Verb.ADD, row)])
            finally:
                table.write([Op(Verb.DELETE, row)])
            return failures[0].error if failures else None
    return KernelError.of(errno.EEXIST, f"every trial address {_TRIAL_ADDRESS} is in use")


def set_oom_score(value: int) -> list[Finding]:
    """Set how readily the kernel kills this process when memory is short, from -1000 (never) to 1000 (first).

    Lowering it takes CAP_SYS_RESOURCE. A refusal is only a finding, because traffic outlives the agent, and not even
    that if the kubelet gave the pod the next best value (pkg/kubelet/qos/policy.go).
    """
    path = Path("/proc/self/oom_score_adj")
    before = 0
    try:
        before = int(path.read_text())
        if before != value:
            path.write_text(f"{value}\n")
    except OSError as error:
        if value <= before <= _CRITICAL_POD:
            return []
        reason = (
            f"cannot be set to {value} ({error.strerror}); give the container CAP_SYS_RESOURCE, or turn it off with "
            "--oom-score-adj 0"
        )
        return [Finding(FindingKind.HOST, "oom_score_adj", reason)]
    return []


def host_findings(families: Collection[Family]) -> list[Finding]:
    """Return what is wrong with the host but is left to the operator.

    families: those that Services use.
    """
    findings = []
    name = "net.ipv6.conf.all.forwarding"
    if Family.IPV6 in families and read_sysctl(name) == 0:
        reason = (
            "IPv6 is not forwarded, so Services on IPv6 addresses reach no pods on other nodes; set it to 1 "
            "(it is left alone because that also ends the node's use of router advertisements)"
        )
        findings.append(Finding(FindingKind.HOST, name, reason, severity=Severity.WARNING))
    return findings


def kube_proxy_here() -> int | None:
    """Return the pid of a kube-proxy in this network namespace; None if none is visible.

    In a container with its own pid namespace, none is ever visible.
    """
    own = os.stat("/proc/self/ns/net")
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended, or may not be inspected
            if (process / "comm").read_text() != "kube-proxy\n":
                continue
            # A zombie has no network namespace.
            if os.path.samestat(os.stat(process / "ns" / "net"), own):
                return int(process.name)
    return None


class AgentLock:
    """Lets only one agent write in a network namespace. It is an flock, which the kernel releases when the process is
    killed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def try_acquire(self) -> bool:
        """Acquire the lock if it is free, without waiting. Return whether this process holds it. Raises StartError, and
        OSError if the file cannot be created."""
        if self._file is not None:
            return True
        make_state_dir(self._path.parent)
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        self._file = file
        return True

    def is_held(self) -> bool:
        """Return whether any process holds the lock. Does not create the file."""
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
        return False

    def holder(self) -> int | None:
        """Return the pid of the process that acquired it last, as seen in that process's pid namespace."""
        try:
            return int(self._path.read_text())
        except (OSError, ValueError):
            return None

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _capable(capability: int) -> bool:
    """Return whether the effective set has a capability. In a user namespace, the kernel may refuse nevertheless."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> capability & 1)
    return False


def load_module(module: str) -> str:
    """Load a module, and return why that failed; "" if it did not."""
    try:
        done = subprocess.run(["modprobe", module], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"modprobe: {error}"
    return done.stderr.strip() if done.returncode else ""
