"""Decides which operations IPVS refuses, and with which error, for the fake kernel. The checks and their order are
those of net/netfilter/ipvs/ip_vs_ctl.c in Linux 6.1.

Each function returns an errno, or 0 if the kernel accepts the operation. Numbers that do not fit into a message are
ERANGE, as in `requests.pack_ops`.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Container

from ipvsagent.address import Address, Family, family_of
from ipvsagent.model import Forwarding, Protocol
from ipvsagent.rows import RealServerRow, Verb, VirtualServerRow

_MAX_U16, _MAX_U32, _MAX_INT = 0xFFFF, 0xFFFFFFFF, 0x7FFFFFFF
_NAME_SIZE = 15  # IP_VS_SCHEDNAME_MAXLEN, IP_VS_PENAME_MAXLEN, less the NUL
_GUE = 1


def virtual_server_refusal(
    verb: Verb, row: VirtualServerRow, there: bool, schedulers: Container[str], pe_names: Container[str] = ()
) -> int:
    """Return the errno for an op on a virtual server. there: whether the virtual server exists."""
    if not 0 <= row.id.port <= (_MAX_U32 if row.id.protocol is Protocol.FWM else _MAX_U16):
        return errno.ERANGE
    if verb is Verb.DELETE:
        return 0 if there else errno.ESRCH
    if not all(0 <= number <= _MAX_U32 for number in (row.flags, row.timeout, row.mask)):
        return errno.ERANGE
    if max(len(row.scheduler.encode()), len(row.pe_name.encode())) > _NAME_SIZE:
        return errno.EINVAL
    if there is (verb is Verb.ADD):
        return errno.EEXIST if there else errno.ESRCH
    if row.scheduler not in schedulers or (row.pe_name and row.pe_name not in pe_names):
        return errno.ENOENT
    if row.id.family is Family.IPV6 and not 1 <= row.mask <= 128:
        return errno.EINVAL
    return 0


def real_server_refusal(verb: Verb, row: RealServerRow, server_there: bool, there: bool) -> int:
    """Return the errno for an op on a real server. there: whether the real server exists."""
    if not 0 <= row.port <= _MAX_U16:
        return errno.ERANGE
    numbers = (row.weight, row.upper_threshold, row.lower_threshold)
    if verb is not Verb.DELETE and not all(0 <= number <= _MAX_U32 for number in numbers):
        return errno.ERANGE
    if not server_there:
        return errno.ESRCH
    if verb is Verb.DELETE:
        return 0 if there else errno.ENOENT
    if family_of(row.address) is not row.server.family and row.forwarding is not Forwarding.TUNNEL:
        return errno.EINVAL
    if row.weight > _MAX_INT or row.lower_threshold > row.upper_threshold:
        return errno.ERANGE
    if row.tunnel is not None and row.tunnel.kind == _GUE and row.tunnel.port == 0:
        return errno.EINVAL
    if there is (verb is Verb.ADD):
        return errno.EEXIST if there else errno.ENOENT
    return errno.EINVAL if verb is Verb.ADD and not is_unicast(row.address) else 0


def is_unicast(address: Address) -> bool:
    """Return whether ip_vs_new_dest() accepts an address as unicast, on a node that has no such address itself."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv4Address):
        return not (ip.is_unspecified or ip.is_multicast or address == "255.255.255.255")
    return not (ip.is_unspecified or ip.is_multicast or ip.is_link_local or ip.ipv4_mapped)
