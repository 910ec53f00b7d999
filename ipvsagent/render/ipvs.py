"""A virtual server as IPVS rows, and the address it needs.

The rows of one virtual server are its own (`rows`) or shared with others (`shared`): a bound address stays
while any virtual server needs it.
"""

from __future__ import annotations

from ipvsagent.address import Family
from ipvsagent.model import VirtualServer
from ipvsagent.rows import (
    FULL_MASK,
    FULL_PREFIX,
    ONE_PACKET,
    PERSISTENT,
    AddressRow,
    RealServerRow,
    Row,
    VirtualServerRow,
)


class IpvsRenderer:
    def rows(self, server: VirtualServer) -> list[Row]:
        """The virtual server first, then its real servers."""
        server_id = server.id
        flags = server.scheduler_flags
        if server.persistence_timeout:
            flags |= PERSISTENT
        if server.one_packet:
            flags |= ONE_PACKET
        rows: list[Row] = [
            VirtualServerRow(
                server_id,
                server.scheduler,
                flags,
                server.persistence_timeout,
                FULL_PREFIX if server_id.family is Family.IPV6 else FULL_MASK,
            )
        ]
        rows.extend([RealServerRow(server_id, r.address, r.port, r.weight) for r in server.real_servers])
        return rows

    def shared(self, server: VirtualServer) -> tuple[AddressRow, ...]:
        return (AddressRow(server.id.address),) if server.bind else ()
