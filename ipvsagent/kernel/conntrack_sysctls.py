"""Sets what kube-proxy sets of connection tracking, too: the size of its table, and its timeouts
(pkg/proxy/conntrack/sysctls.go).

Services work without these settings. So one that cannot be set is a finding, whereas kube-proxy does not start: a node
that is a container itself cannot set the size of the table.
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
_LARGEST = 1048576
"""The most that --conntrack-max-per-core may add up to: a connection takes 300 bytes, and a node with many cores does
not need more connections."""
_HASH_SIZE = Path("/sys/module/nf_conntrack/parameters/hashsize")


def desired_sysctls(config: Config, cpus: int) -> dict[str, int]:
    """Return the sysctls to set and their values. A timeout of less than a second counts as one second."""
    desired = {}
    if config.conntrack_max_per_core:
        scaled = config.conntrack_max_per_core * cpus
        desired[_MAX] = _LARGEST if scaled > _LARGEST else max(scaled, config.conntrack_min)
    if config.conntrack_be_liberal:
        desired["net.netfilter.nf_conntrack_tcp_be_liberal"] = 1
    for name, seconds in (
        ("tcp_timeout_established", _established(config)),
        ("tcp_timeout_close_wait", config.conntrack_tcp_close_wait),
        ("udp_timeout", config.conntrack_udp),
        ("udp_timeout_stream", config.conntrack_udp_stream),
    ):
        if seconds > 0:
            desired[f"net.netfilter.nf_conntrack_{name}"] = max(int(seconds), 1)
    return desired


def _established(config: Config) -> float:
    """Return the timeout of established connections, at least --idle-timeout."""
    seconds = config.conntrack_tcp_established
    return max(seconds, config.idle_timeout) if seconds > 0 else seconds


def set_conntrack(config: Config) -> list[Finding]:
    """Set the sysctls that differ, and return a finding with a remedy for each setting that could not be set."""
    desired = desired_sysctls(config, os.cpu_count() or 1)
    if desired and read_sysctl(_MAX) is None:
        load_module("nf_conntrack")
    findings = []
    for name, value in desired.items():
        if name == _MAX and not _may_size_table():
            continue
        try:
            write_sysctl(name, value)
        except OSError as error:
            reason = f"is {read_sysctl(name)} and cannot be set to {value} ({error.strerror})"
            findings.append(Finding(FindingKind.HOST, name, f"{reason}; run on the host `sysctl -w {name}={value}`"))
    if _MAX in desired and _may_size_table():
        findings += _enlarge_hash(desired[_MAX] // 4)
    return findings


def _may_size_table() -> bool:
    """Return whether this network namespace is the host's. Others show the size of the table, but cannot write it
    (nf_conntrack_standalone_init_sysctl, net/netfilter/nf_conntrack_standalone.c)."""
    try:
        mode = os.stat("/proc/sys/" + _MAX.replace(".", "/")).st_mode
    except OSError:
        return True  # there is no such setting: writing it fails, which becomes a finding
    return bool(mode & stat.S_IWUSR)


def _enlarge_hash(buckets: int) -> list[Finding]:
    """Enlarge the hash table if chains would be longer than four entries on average, which slows down every packet."""
    try:
        if int(_HASH_SIZE.read_text()) >= buckets:
            return []
        _HASH_SIZE.write_text(str(buckets))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        reason = f"cannot be set to {buckets} ({why}); run on the host `echo {buckets} > {_HASH_SIZE}`"
        return [Finding(FindingKind.HOST, str(_HASH_SIZE), reason)]
    return []
