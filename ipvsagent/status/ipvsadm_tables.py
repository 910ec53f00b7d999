"""Formats ipvsadm's tables that are not about virtual servers: connections, timeouts, synchronization daemons.

They are byte for byte as ipvsadm 1.31 prints them (ipvsadm.c: list_conn, list_timeout, list_daemon).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ipvsagent.address import endpoint_text
from ipvsagent.kernel.ipvs.connections import Connection
from ipvsagent.kernel.ipvs.sync_daemons import SyncDaemon
from ipvsagent.kernel.ipvs.table import Timeouts


def connection_lines(connections: Iterable[Connection], *, persistence: bool = False) -> Iterator[str]:
    """Yield connections in the given order. persistence: include the data of their persistence engine.

    ipvsadm cuts a line of the kernel at 255 bytes and crashes on the rest, as happens with long Call-IDs over IPv6;
    here it is printed whole.
    """
    yield "IPVS connection entries\n"
    title = f"pro expire {'state':<11} {'source':<18} {'virtual':<18} "
    yield title + (f"{'destination':<18} {'pe name':<16} pe_data\n" if persistence else "destination\n")
    for c in connections:
        client, virtual = endpoint_text(c.client, c.client_port), endpoint_text(c.virtual, c.virtual_port)
        destination = endpoint_text(c.destination, c.destination_port)
        if persistence and c.pe_data:
            destination = f"{destination:<16} {c.pe_name:<18} {c.pe_data}"  # the title's two widths, swapped
        yield f"{c.protocol:<3} {_left(c.expires):<6} {c.state:<11} {client:<18} {virtual:<18} {destination}\n"


def timeout_line(timeouts: Timeouts) -> str:
    return f"Timeout (tcp tcpfin udp): {timeouts.tcp} {timeouts.tcp_fin} {timeouts.udp}\n"


def daemon_lines(daemons: Iterable[SyncDaemon]) -> Iterator[str]:
    for daemon in daemons:
        words = [f"mcast={daemon.interface}", f"syncid={daemon.sync_id}"]
        optional = {"maxlen": daemon.max_length, "group": daemon.group, "port": daemon.port, "ttl": daemon.ttl}
        words.extend(f"{name}={value}" for name, value in optional.items() if value)
        yield f"{daemon.role} sync daemon ({', '.join(words)})\n"


def _left(seconds: int) -> str:
    return f"{seconds // 60:02}:{seconds % 60:02}"
