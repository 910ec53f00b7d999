"""Generates IPVS tables with rows of every kind from a seed; the kernel accepts every row.

Addresses are drawn from few blocks that lie more than 2^31 apart in all ways, so that ipvsadm's order of them is
cyclic nearly everywhere, and from few values within a block, so that ports decide often.
"""

from __future__ import annotations

import random

from ipvsagent.address import Address, Family, unpack
from ipvsagent.model import Forwarding, Protocol, VirtualServerId
from ipvsagent.rows import (
    FULL_MASK,
    FULL_PREFIX,
    ONE_PACKET,
    PERSISTENT,
    SCHED1,
    SCHED2,
    SCHED3,
    RealServerRow,
    Row,
    Tunnel,
    VirtualServerRow,
)

SCHEDULERS = ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "fo", "ovf"]
_V4_FIRST = [1, 10, 12, 100, 127, 128, 138, 172, 192, 223, 240, 254]
_V6_FIRST = ["2001", "3fff", "7000", "8000", "9000", "b000", "fc00", "fd00"]
_V6_REST = ["00000000", "00000001", "7fffffff", "80000000", "ffffffff", "0000ffff"]
_PORTS = [1, 53, 80, 443, 8080, 32767, 32768, 65535]
_MASKS = [FULL_MASK, 0xFFFFFF00, 0xFFFF0000, 0xFF000000, 0x80000000, 0xFFFFFFFE, 0xF0F0F0F0]
_MARKS = [1, 2, 7, 0x7FFFFFFF, 0x80000000, 0x80000001, 3_000_000_000, 0xC0000000, 0xFFFFFFFE, 0xFFFFFFFF]


def ipvs_table(seed: int, size: int, *, restorable: bool = False, pe_names: tuple[str, ...] = ("", "sip")) -> list[Row]:
    """Return `size` virtual servers, each followed by up to 24 real servers.

    restorable: only what ipvsadm can make. Otherwise also what the kernel takes from others: Local, tunnelled and
    routed real servers on any port, TCP with one-packet scheduling, weights and thresholds up to the kernel's limit.
    """
    dice = random.Random(seed)
    servers: dict[VirtualServerId, VirtualServerRow] = {}
    while len(servers) < size:
        row = _virtual_server(dice, restorable, pe_names)
        servers.setdefault(row.id, row)
    rows: list[Row] = []
    for row in servers.values():
        rows.append(row)
        rows.extend(_real_servers(dice, row, restorable))
    return rows


def v4(dice: random.Random) -> Address:
    return Address(
        f"{dice.choice(_V4_FIRST)}.{dice.choice([0, 1, 16, 168, 255])}.{dice.randrange(2)}.{dice.randint(1, 4)}"
    )


def v6(dice: random.Random) -> Address:
    words = dice.choice(_V6_FIRST) + dice.choice(["0000", "0db8", "ffff"])
    return unpack(bytes.fromhex(words + "".join(dice.choice(_V6_REST) for _ in range(3))))


def _virtual_server(dice: random.Random, restorable: bool, pe_names: tuple[str, ...]) -> VirtualServerRow:
    ipv6 = dice.random() < 0.4
    protocol = dice.choice([Protocol.TCP, Protocol.TCP, Protocol.UDP, Protocol.SCTP, Protocol.FWM])
    flags = dice.choice([0, PERSISTENT])
    if protocol is Protocol.FWM:
        mark = dice.choice([dice.choice(_MARKS), dice.randint(1, 0xFFFFFFFF)])
        server = VirtualServerId(protocol, Address("::" if ipv6 else "0.0.0.0"), mark)
    else:
        port = 0 if flags and dice.random() < 0.1 else dice.choice([*_PORTS, dice.randint(1, 65535)])
        server = VirtualServerId(protocol, v6(dice) if ipv6 else v4(dice), port)
    scheduler = dice.choice(SCHEDULERS)
    flags |= dice.choice(
        [0, 0, SCHED1, SCHED2, SCHED3, SCHED1 | SCHED2, SCHED1 | SCHED2 | SCHED3, dice.randrange(8) << 3]
    )
    if dice.random() < 0.3 and (protocol in (Protocol.UDP, Protocol.FWM) or not restorable):
        flags |= ONE_PACKET
    full = FULL_PREFIX if ipv6 else FULL_MASK
    if not flags & PERSISTENT:
        return VirtualServerRow(server, scheduler, flags, 0, full, dice.choice([*pe_names, "", ""]))
    mask = dice.choice([full, dice.choice([1, 8, 64, 65, 127]) if ipv6 else dice.choice(_MASKS)])
    timeout = dice.choice([1, 60, 10800, 86400 * 31, dice.randint(1, 86400)])
    return VirtualServerRow(server, scheduler, flags, timeout, mask, dice.choice(pe_names))


def _real_servers(dice: random.Random, server: VirtualServerRow, restorable: bool) -> list[RealServerRow]:
    # The kernel builds the table of mh again for each real server, which takes long with many.
    count = dice.choice([0, 1, 2, 3, 5, 24]) if server.scheduler != "mh" else dice.choice([0, 1, 3])
    made: dict[tuple[Address, int], RealServerRow] = {}
    for _ in range(count):
        row = _real_server(dice, server.id, restorable)
        made.setdefault(row.key, row)
    return list(made.values())


def _real_server(dice: random.Random, server: VirtualServerId, restorable: bool) -> RealServerRow:
    method = dice.choice([Forwarding.MASQUERADE, Forwarding.TUNNEL, Forwarding.ROUTE, Forwarding.LOCAL])
    if restorable and method is Forwarding.LOCAL:
        method = Forwarding.MASQUERADE
    ipv6 = server.family is Family.IPV6
    tunnel = None
    if method is Forwarding.TUNNEL:
        ipv6 ^= dice.random() < 0.4
        tunnel = dice.choice(
            [None, Tunnel(1, dice.choice([1, 6080, 65535]), dice.choice([0, 1, 2])), Tunnel(2, 0, dice.choice([0, 1]))]
        )
    port = dice.choice(_PORTS)
    if restorable and method is not Forwarding.MASQUERADE and server.protocol is not Protocol.FWM:
        port = server.port  # ipvsadm does not let them differ
    upper = dice.choice([0, 0, 10, (1 << 31) - 1 if restorable else (1 << 32) - 1])
    return RealServerRow(
        server,
        v6(dice) if ipv6 else v4(dice),
        port,
        dice.choice([0, 1, 1, 100, 65535] if restorable else [0, 1, 100, 65535, 999_999, 1_000_000, (1 << 31) - 1]),
        method,
        upper,
        dice.choice([0, upper // 2, upper]),  # never above the upper one: ERANGE
        tunnel,
    )
