"""Finds how long the kernel remembers an idle connection to a Service: in IPVS, and in connection tracking.

Both have to remember it. Whichever forgets first ends the connection: IPVS deletes the tracked entry with its own
(ip_vs_conn_expire()), and a packet of a forgotten connection looks like a new one. kube-proxy sets either, and shows
neither.
"""

from __future__ import annotations

from msgspec import Struct

from ipvsagent.kernel.ipvs.table import IpvsTable
from ipvsagent.kernel.sysctls import Setting, read_sysctl

CONNTRACK = "net.netfilter.nf_conntrack"
ESTABLISHED = f"{CONNTRACK}_tcp_timeout_established"


class IdleTimeout(Struct, frozen=True):
    """Holds the timeouts of one state of a connection, in seconds; None = that side has none, or reports none."""

    connection: str
    ipvs: int | None
    conntrack: int | None
    conntrack_setting: str
    """The sysctl that sets `conntrack`."""
    effective: int | None
    """The one that ends first."""


def idle_timeouts(ipvs: IpvsTable) -> tuple[IdleTimeout, ...]:
    """Return the timeouts in force in this network namespace. Raises KernelError."""
    held = ipvs.timeouts()
    return (
        _one("TCP, established", held.tcp, ESTABLISHED),
        _one("TCP, closing", held.tcp_fin, f"{CONNTRACK}_tcp_timeout_fin_wait"),
        _one("UDP, unanswered", held.udp, f"{CONNTRACK}_udp_timeout"),
        _one("UDP, answered", held.udp, f"{CONNTRACK}_udp_timeout_stream"),
    )


def established_setting(seconds: float) -> Setting:
    """Return the setting by which connection tracking remembers at least as long. It serves the whole node, so this
    never makes it forget sooner."""
    why = f"connections of Services may be idle for {int(seconds)} s, and connection tracking would forget them sooner"
    return Setting(ESTABLISHED, int(seconds), why, at_least=True, vital=False)


def _one(connection: str, ipvs: int, setting: str) -> IdleTimeout:
    tracked = read_sysctl(setting)
    return IdleTimeout(connection, ipvs, tracked, setting, ipvs if tracked is None else min(ipvs, tracked))
