"""Kernel settings under /proc/sys: what the agent needs, setting it, and keeping it.

A setting that is right already is not written, so that a read-only /proc/sys does not matter. Settings that somebody
changes while the agent runs are put back and said to have been changed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from ipvsagent.errors import StartError
from ipvsagent.findings import Finding, FindingKind, Severity

_REMEMBERED = 3600.0
CONN_REUSE = "net.ipv4.vs.conn_reuse_mode"


class Setting(Struct, frozen=True):
    """name: as sysctl(8) writes it; `/` is a dot in an interface's name: `net.ipv4.conf.eth0/100.arp_ignore`.

    why: completes "it is needed because ...". at_least: a greater value is left alone.
    vital: the agent does not start without it.
    """

    name: str
    value: int
    why: str
    at_least: bool = False
    vital: bool = True

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
"""Only ever set where a rule keeps other hosts from 127.0.0.0/8 (render/iptables/nat_rules.py)."""
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
    """What is done about net.ipv4.vs.conn_reuse_mode on this kernel. value: None = there is none.

    wanted: None = it is left alone. reason: one sentence.
    """

    kernel: str
    value: int | None
    wanted: int | None
    reason: str


def conn_reuse(release: str | None = None) -> ConnReuse:
    """Decided by the kernel's version, as kube-proxy does (connReuseMinSupportedKernelVersion and
    connReuseFixedKernelVersion, pkg/proxy/ipvs/proxier.go): 4.1 brought the setting, and up to 5.9 its default costs a
    client that uses a port again a second, while conntrack is on. release: as `uname -r` prints it."""
    kernel = release or os.uname().release
    version = kernel_version(kernel)
    value = read_sysctl(CONN_REUSE)
    if version < (4, 1):
        return ConnReuse(
            kernel, value, None, "kernels before 4.1 have no such setting, and ports that clients use again"
        )
    if version < (5, 9):
        reason = "set to 0, because before 5.9 a client's port that is used again costs the new connection a second"
        return ConnReuse(kernel, value, 0, reason)
    reason = "left alone, because from 5.9 on no value costs a new connection time"
    if value == 0:
        reason += "; 0 keeps a client that uses a port again on the server it had, 1 (the default) balances it anew"
    return ConnReuse(kernel, value, None, reason)


def kernel_version(release: str) -> tuple[int, int]:
    major, minor, *_ = release.split(".")
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)


def needed() -> tuple[Setting, ...]:
    """What every IPVS agent needs on this kernel."""
    decision = conn_reuse()
    if decision.wanted is None:
        return ALWAYS
    return (*ALWAYS, Setting(CONN_REUSE, decision.wanted, decision.reason))


def read_sysctl(name: str) -> int | None:
    """`net.ipv4.ip_forward` as a number; None if the kernel has no such setting, or it is no number."""
    try:
        return int(sysctl_path(name).read_text())
    except (OSError, ValueError):
        return None


def write_sysctl(name: str, value: int) -> bool:
    """False if it was so already; then nothing is written. Raises OSError."""
    if read_sysctl(name) == value:
        return False
    sysctl_path(name).write_text(f"{value}\n")
    return True


def is_writable(name: str) -> bool:
    return os.access(sysctl_path(name), os.W_OK)


def require(settings: Iterable[Setting]) -> None:
    """Raises StartError naming all vital ones that are wrong and that `Sysctls.set` could not put right; only reads."""
    wrong = {
        f"{each.name}={each.value}": f"{each.name} is {value} and cannot be set"
        for each in settings
        if each.vital and not each.holds(value := read_sysctl(each.name)) and not is_writable(each.name)
    }
    if wrong:
        raise StartError("; ".join(wrong.values()), f"Run on the host `sysctl -w {' '.join(wrong)}`")


class Sysctls:
    """Sets, and keeps, settings. For one thread."""

    def __init__(self) -> None:
        self._resets: dict[str, tuple[int, float, int | None]] = {}  # how often, when last, what it was then

    def set(self, settings: Iterable[Setting]) -> list[Finding]:
        """Raises StartError naming all vital ones that are wrong and cannot be put right; findings of the others."""
        wrong: dict[str, str] = {}
        findings = []
        for setting in settings:
            error = _put_right(setting)
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
        """Put right what somebody changed: findings, and the names of those that were changed since the last call."""
        changed = []
        findings = []
        for setting in settings:
            value = read_sysctl(setting.name)
            if not setting.holds(value):
                error = _put_right(setting)
                if error is not None:
                    found = f"{setting.name} is {value} and cannot be set ({error.strerror})"
                    findings.append(_cannot(setting, found, Severity.ERROR if setting.vital else Severity.WARNING))
                    continue
                times, _, _ = self._resets.get(setting.name, (0, 0.0, None))
                self._resets[setting.name] = (times + 1, now, value)
                changed.append(setting.name)
            times, when, before = self._resets.get(setting.name, (0, 0.0, None))
            if times and now - when < _REMEMBERED:
                reason = (
                    f"was set to {before} by something else, and is {setting.value} again (so far {times} times): "
                    f"{setting.why}. Look for it in /etc/sysctl.d and in tuning daemons"
                )
                findings.append(Finding(FindingKind.HOST, setting.name, reason))
        return findings, changed


class RaisedSysctls:
    """RaisedSysctls stores in a file which settings were raised, and their values before, so that they can be restored.

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


def _put_right(setting: Setting) -> OSError | None:
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
    """As sysctl(8): where the first separator is a dot, a slash stands for a dot in a name."""
    return Path("/proc/sys", *(part.replace("/", ".") for part in name.split(".")))
