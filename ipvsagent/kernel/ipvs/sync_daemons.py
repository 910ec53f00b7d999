"""Unpacks connection synchronization daemons as the kernel reports them (ip_vs_genl_fill_daemon, ip_vs_ctl.c).

The agent runs none; they are read because `ipvsadm -L --daemon` shows them. Pure, like answers.py. pyroute2 has no
decoder for them, nor for the timeouts and the version (docs/pyroute2.md).
"""

from __future__ import annotations

import sys

from msgspec import Struct

from ipvsagent.address import unpack
from ipvsagent.kernel.netlink import Body, attributes

GET_DAEMON = 11
_DAEMON = 3  # IPVS_CMD_ATTR_DAEMON
_STATE, _INTERFACE, _SYNC_ID, _MAX_LENGTH, _GROUP, _GROUP6, _PORT, _TTL = range(1, 9)  # IPVS_DAEMON_ATTR_*
_MASTER = 1


class SyncDaemon(Struct, frozen=True):
    """Describes a running daemon. Kernels before 4.3 leave out all but the first three fields, which are then 0 or
    ""."""

    role: str
    """`master` or `backup`."""
    interface: str
    sync_id: int
    max_length: int = 0
    """Bytes of a message."""
    group: str = ""
    port: int = 0
    ttl: int = 0


def unpack_daemon(body: Body) -> SyncDaemon:
    found = attributes(attributes(body.data, body.start + 4, body.end)[_DAEMON])
    group = found.get(_GROUP) or found.get(_GROUP6)
    return SyncDaemon(
        role="master" if _number(found[_STATE]) & _MASTER else "backup",
        interface=found[_INTERFACE].partition(b"\0")[0].decode(errors="replace"),
        sync_id=_number(found[_SYNC_ID]),
        max_length=_number(found.get(_MAX_LENGTH, b"")),
        group=unpack(group) if group else "",
        port=_number(found.get(_PORT, b"")),
        ttl=_number(found.get(_TTL, b"")),
    )


def _number(raw: bytes) -> int:
    return int.from_bytes(raw, sys.byteorder)
