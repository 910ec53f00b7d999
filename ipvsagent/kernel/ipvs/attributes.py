"""Defines the constants of the netlink interface of IPVS (include/uapi/linux/ip_vs.h).

Numbers are in host byte order, except ports, addresses, and the persistence mask of IPv4. For IPv6, that attribute is a
prefix length in host byte order.
"""

from __future__ import annotations

import struct

from ipvsagent.model import Protocol

GENL_NAME, GENL_VERSION = "IPVS", 1

NEW_SERVICE, SET_SERVICE, DEL_SERVICE, GET_SERVICE = 1, 2, 3, 4  # IPVS_CMD_*
NEW_DEST, SET_DEST, DEL_DEST, GET_DEST = 5, 6, 7, 8
SET_CONFIG, GET_CONFIG, GET_INFO = 12, 13, 15

CMD_SERVICE, CMD_DEST, CMD_TIMEOUT_TCP, CMD_TIMEOUT_TCP_FIN, CMD_TIMEOUT_UDP = 1, 2, 4, 5, 6  # IPVS_CMD_ATTR_*

SVC_AF, SVC_PROTOCOL, SVC_ADDR, SVC_PORT, SVC_FWMARK = range(1, 6)  # IPVS_SVC_ATTR_*
SVC_SCHED, SVC_FLAGS, SVC_TIMEOUT, SVC_NETMASK, SVC_STATS, SVC_PE_NAME, SVC_STATS64 = range(6, 13)

DEST_ADDR, DEST_PORT, DEST_FORWARD, DEST_WEIGHT, DEST_UPPER, DEST_LOWER = range(1, 7)  # IPVS_DEST_ATTR_*
DEST_ACTIVE, DEST_INACTIVE, DEST_PERSISTENT, DEST_STATS, DEST_FAMILY, DEST_STATS64 = range(7, 13)
DEST_TUN_TYPE, DEST_TUN_PORT, DEST_TUN_FLAGS = range(13, 16)

# IPVS_STATS_ATTR_*: 1 to 10 in the order of rows.Counters, then padding.
STATS = range(1, 11)
INFO_VERSION, INFO_TABLE_SIZE = 1, 2  # IPVS_INFO_ATTR_*

PROTOCOL_NUMBERS = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}

GENL = struct.Struct("=BBH")
ATTR = struct.Struct("=HH")
U16, U32, BE32 = struct.Struct("=H"), struct.Struct("=I"), struct.Struct(">I")


def head_of(kind: int, size: int) -> int:
    """Return the header of an attribute as one number, read in host byte order."""
    (number,) = U32.unpack(ATTR.pack(size + 4, kind))
    return int(number)
