"""Sets kernel settings under /proc/sys: defines which ones the agent needs, sets them, and keeps them.

A setting that is correct is not written, so a read-only /proc/sys may do. A setting that another program changes while
the agent runs is set again, and reported.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from ipvsagent.errors import StartError
from ipvsagent.findings import Finding, FindingKind, Severity

_REPORTED_FOR = 3600.0  # seconds after a setting was changed
CONN_REUSE = "net.ipv4.vs.conn_reuse_mode"


class Setting(Struct, frozen=True):
    """Describes a sysctl with the value that the agent needs."""

    name: str
    """As sysctl(8) writes it; `/` stands for a dot in an interface's name: `net.ipv4.conf.eth0/100.arp_ignore`."""
    value: int
    why: str
    """Completes "it is needed because ..."."""
    at_least: bool = False
    """Whether a greater value will do, too."""
    vital: bool = True
    """Whether the agent does not start without it."""

    def holds(self, value: int | None) -> bool:
        return value is not None and (value == self.value or (self.at_least and value > self.value))


FORWARDING = Setting(
    "net.ipv4.ip_forward", 1, "packets of pods and of other hosts could not reach real servers elsewhere"
)
LOCALHOST = Setting(
    "net.ipv4.conf.all.route_localnet",
    1,
    "node ports on 127.0.0.1 lead to pods, and packets from there must be routed",
    at_least=True,
    vital=False,
)
"""Only set while a rule keeps other hosts away from 127.0.0.0/8 (render/iptables/nat_rules.py)."""
ALWAYS = (
    Setting(
        "net.ipv4.vs.conntrack", 1, "masquerading (hairpin, node ports) matches only IPVS packets that are tracked"
    ),
    Setting(
        "net.ipv4.vs.expire_nodest_conn",
        1,
        "connections to a deleted real server would be swallowed until they time out",
    ),
    Setting(
        "net.ipv4.vs.expire_quiescent_template", 1, "clients with affinity would stay on a real server of weight 0"
    ),
    FORWARDING,
)
STRICT_ARP = (
    Setting("net.ipv4.conf.all.arp_ignore", 1, "strictARP asks for it"),
    Setting("net.ipv4.conf.all.arp_announce", 2, "strictARP asks for it"),
)


class ConnReuse(Struct, frozen=True):
    """Describes what is done about net.ipv4.vs.conn_reuse_mode on this kernel."""

    kernel: str
    value: int | None
    """The current value; None if this kernel has no such setting."""
    wanted: int | None
    """None = it is not changed."""
    reason: str
    """One sentence."""


def conn_reuse(release: str | None = None) -> ConnReuse:
    """Decide about conn_reuse_mode by the kernel's version, as kube-proxy does (connReuseMinSupportedKernelVersion and
    connReuseFixedKernelVersion, pkg/proxy/ipvs/proxier.go). Linux 4.1 introduced the setting. Before 5.9, its default
    delays a connection from a reused port by a second while conntrack is on.

    release: as `uname -r` prints it; None for that of this kernel.
    """
    kernel = release or os.uname().release
    version = kernel_version(kernel)
    value = read_sysctl(CONN_REUSE)
    if version < (4, 1):
        return ConnReuse(kernel, value, None, "kernels before 4.1 have no such setting")
    if version < (5, 9):
        reason = "set to 0, because before 5.9 a new connection from a port that a client reuses is delayed by a second"
        return ConnReuse(kernel, value, 0, reason)
    reason = "left alone, because from 5.9 on no value delays a new connection"
    if value == 0:
        reason += "; 0 keeps a client that reuses a port on its real server, 1 (the default) schedules it again"
    return ConnReuse(kernel, value, None, reason)


def kernel_version(release: str) -> tuple[int, int]:
    major, minor, *_ = release.split(".")
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)


def needed() -> tuple[Setting, ...]:
    """Return the settings that the IPVS backend always needs on this kernel."""
    decision = conn_reuse()
    if decision.wanted is None:
        return ALWAYS
    return (*ALWAYS, Setting(CONN_REUSE, decision.wanted, decision.reason))


def read_sysctl(name: str) -> int | None:
    """Return a setting such as `net.ipv4.ip_forward`; None if the kernel does not have it, or it is not a number."""
    try:
        return int(sysctl_path(name).read_text())
    except (OSError, ValueError):
        return None


def write_sysctl(name: str, value: int) -> bool:
    """Write a setting unless it has this value already. Return whether it was written. Raises OSError."""
    if read_sysctl(name) == value:
        return False
    sysctl_path(name).write_text(f"{value}\n")
    return True


def is_writable(name: str) -> bool:
    return os.access(sysctl_path(name), os.W_OK)


def require(settings: Iterable[Setting]) -> None:
    """Raise StartError if vital settings are wrong and could not be set, naming all of them. This only reads."""
    wrong = {
        f"{each.name}={each.value}": f"{each.name} is {value} and cannot be set"
        for each in settings
        if each.vital and not each.holds(value := read_sysctl(each.name)) and not is_writable(each.name)
    }
    if wrong:
        raise StartError("; ".join(wrong.values()), f"Run on the host `sysctl -w {' '.join(wrong)}`")


class Sysctls:
    """Sets and keeps kernel settings, for one thread."""

    def __init__(self) -> None:
        self._resets: dict[str, tuple[int, float, int | None]] = {}  # how often, when last, and the value found

    def set(self, settings: Iterable[Setting]) -> list[Finding]:
        """Set what is wrong, and return findings about what could not be set. Raises StartError if a vital setting is
        among these, naming all of them."""
        wrong: dict[str, str] = {}
        findings = []
        for setting in settings:
            error = _correct(setting)
            if error is None:
                continue
            found = f"{setting.name} is {read_sysctl(setting.name)} and cannot be set ({error.strerror})"
            if setting.vital:
                wrong[f"{setting.name}={setting.value}"] = found
            else:
                findings.append(_cannot(setting, found))
        if wrong:
            raise StartError("; ".join(wrong.values()), f"Run on the host `sysctl -w {' '.join(wrong)}`")
        return findings

    def keep(self, settings: Iterable[Setting], now: float) -> tuple[list[Finding], list[str]]:
        """Set again what another program changed. Return findings, and the names of the settings that had been changed
        since the last call."""
        changed = []
        findings = []
        for setting in settings:
            value = read_sysctl(setting.name)
            if not setting.holds(value):
                error = _correct(setting)
                if error is not None:
                    found = f"{setting.name} is {value} and cannot be set ({error.strerror})"
                    findings.append(_cannot(setting, found, Severity.ERROR if setting.vital else Severity.WARNING))
                    continue
                times, _, _ = self._resets.get(setting.name, (0, 0.0, None))
                self._resets[setting.name] = (times + 1, now, value)
                changed.append(setting.name)
            times, when, before = self._resets.get(setting.name, (0, 0.0, None))
            if times and now - when < _REPORTED_FOR:
                reason = (
                    f"was set to {before} by another program, and is {setting.value} again (so far {times} times): "
                    f"{setting.why}. Look for the cause in /etc/sysctl.d and in tuning daemons"
                )
                findings.append(Finding(FindingKind.HOST, setting.name, reason))
        return findings, changed


class RaisedSysctls:
    """Records in a file which settings were raised, and their values before, so that they can be restored.

    Each line is `NAME BEFORE NOW`. Only settings of single interfaces, and of route_localnet, are recorded.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def record(self, settings: Iterable[Setting]) -> None:
        """Record settings that are about to be set. One that is recorded already keeps its first value."""
        settings = [s for s in settings if s.at_least and s.name.startswith("net.ipv4.conf.")]
        lines = self._lines()
        known = {name for name, _, _ in lines}
        new = [
            (s.name, value, s.value)
            for s in settings
            if s.name not in known and not s.holds(value := read_sysctl(s.name) or 0)
        ]
        if new:
            text = "".join(f"{name} {before} {after}\n" for name, before, after in [*lines, *new])
            with contextlib.suppress(OSError):  # cleanup then leaves them raised, which does no harm
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._path.write_text(text)

    def try_restore(self) -> tuple[Finding, ...]:
        """Call `restore`. Return a finding if something could not be restored."""
        try:
            self.restore()
        except OSError as error:
            names = ", ".join(name for name, _, _ in self._lines())
            reason = f"{names} cannot be restored to the value before this agent ({error.strerror}); it is tried again"
            return (Finding(FindingKind.HOST, "sysctls", reason),)
        return ()

    def restore(self) -> None:
        """Restore what still has the value that we set. Raises OSError."""
        for name, before, after in self._lines():
            if read_sysctl(name) == after:
                write_sysctl(name, before)
        self._path.unlink(missing_ok=True)

    def _lines(self) -> list[tuple[str, int, int]]:
        try:
            words = [line.split() for line in self._path.read_text().splitlines()]
            return [(name, int(before), int(after)) for name, before, after in words]
        except (OSError, ValueError):
            return []


def _correct(setting: Setting) -> OSError | None:
    if setting.holds(read_sysctl(setting.name)):
        return None
    try:
        write_sysctl(setting.name, setting.value)
    except OSError as error:
        return error
    return None


def _cannot(setting: Setting, found: str, severity: Severity = Severity.WARNING) -> Finding:
    reason = f"{found}: {setting.why}; run on the host `sysctl -w {setting.name}={setting.value}`"
    return Finding(FindingKind.HOST, setting.name, reason, severity=severity)


def sysctl_path(name: str) -> Path:
    """Return the file of a setting. As for sysctl(8), a slash stands for a dot within a name."""
    return Path("/proc/sys", *(part.replace("/", ".") for part in name.split(".")))
