"""The settings of connection tracking that kube-proxy makes, too: how large its table may be, how long it remembers.

Traffic goes on without them, so that what cannot be set is a finding and not, as there, the end of the start: a node
that is itself a container has no say in the size of the table. (pkg/proxy/conntrack/sysctls.go)
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ipvsagent.config import Config
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.kernel.host import load_module
from ipvsagent.kernel.sysctls import read_sysctl, write_sysctl

_MAX = "net.netfilter.nf_conntrack_max"
_MOST = 1048576
"""What many cores may ask for: they need no more connections than others, and each takes 300 bytes."""
_HASH_SIZE = Path("/sys/module/nf_conntrack/parameters/hashsize")


def wanted_sysctls(config: Config, cpus: int) -> dict[str, int]:
    """Sysctls and their values; those that are left alone are not in it. Parts of seconds count as one."""
    wanted = {}
    if config.conntrack_max_per_core:
        scaled = config.conntrack_max_per_core * cpus
        wanted[_MAX] = _MOST if scaled > _MOST else max(scaled, config.conntrack_min)
    if config.conntrack_be_liberal:
        wanted["net.netfilter.nf_conntrack_tcp_be_liberal"] = 1
    for name, seconds in (
        ("tcp_timeout_established", _established(config)),
        ("tcp_timeout_close_wait", config.conntrack_tcp_close_wait),
        ("udp_timeout", config.conntrack_udp),
        ("udp_timeout_stream", config.conntrack_udp_stream),
    ):
        if seconds > 0:
            wanted[f"net.netfilter.nf_conntrack_{name}"] = max(int(seconds), 1)
    return wanted


def _established(config: Config) -> float:
    """Not less than what idle connections of Services are promised."""
    seconds = config.conntrack_tcp_established
    return max(seconds, config.idle_timeout) if seconds > 0 else seconds


def set_conntrack(config: Config) -> list[Finding]:
    """Sets what differs; what could not be set, each with its remedy."""
    wanted = wanted_sysctls(config, os.cpu_count() or 1)
    if wanted and read_sysctl(_MAX) is None:
        load_module("nf_conntrack")
    findings = []
    for name, value in wanted.items():
        if name == _MAX and not _is_ours_to_size():
            continue
        try:
            write_sysctl(name, value)
        except OSError as error:
            reason = f"is {read_sysctl(name)} and cannot be set to {value} ({error.strerror})"
            findings.append(Finding(FindingKind.HOST, name, f"{reason}; run on the host `sysctl -w {name}={value}`"))
    if _MAX in wanted and _is_ours_to_size():
        findings += _enlarge_hash(wanted[_MAX] // 4)
    return findings


def _is_ours_to_size() -> bool:
    """The table is the host's: in other network namespaces its size is shown, and nobody may write it
    (nf_conntrack_standalone_init_sysctl, net/netfilter/nf_conntrack_standalone.c)."""
    try:
        mode = os.stat("/proc/sys/" + _MAX.replace(".", "/")).st_mode
    except OSError:
        return True  # not there at all: that is worth a finding
    return bool(mode & stat.S_IWUSR)


def _enlarge_hash(buckets: int) -> list[Finding]:
    """Chains of more than four entries on average would slow every packet down. Never made smaller."""
    try:
        if int(_HASH_SIZE.read_text()) >= buckets:
            return []
        _HASH_SIZE.write_text(str(buckets))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        reason = f"cannot be set to {buckets} ({why}); run on the host `echo {buckets} > {_HASH_SIZE}`"
        return [Finding(FindingKind.HOST, str(_HASH_SIZE), reason)]
    return []
