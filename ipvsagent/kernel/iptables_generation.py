"""Whether somebody changed the packet rules, asked of the kernel in microseconds, without starting a process.

nf_tables counts its transactions; every one of anybody counts. The older x_tables tells of each table its number
of entries, their size, and where each built-in chain begins and ends: a rule replaced by one of the same size, or
two rules exchanged within a chain, look the same. Whoever relies on this reads everything again now and then.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Hashable, Sequence
from typing import Protocol

from ipvsagent.address import Family
from ipvsagent.errors import KernelError
from ipvsagent.kernel.netlink import NetlinkSocket

_NETFILTER = 12
_GET_GENERATION = 10 << 8 | 16  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN
_GET_INFO = 64  # IPT_SO_GET_INFO and IP6T_SO_GET_INFO
_INFO_SIZE = 84  # struct ipt_getinfo
_NFGENMSG = struct.pack("=BBH", 0, 0, 0)


class Generation(Protocol):
    def read(self, tables: Sequence[str]) -> Hashable:
        """Equal values: nobody changed these tables in between, as far as this can tell. Raises KernelError."""

    def close(self) -> None: ...


class NftGeneration:
    """Of the whole network namespace, whatever the tables."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(_NETFILTER)

    def read(self, tables: Sequence[str]) -> Hashable:
        answer = self._socket.get([(_GET_GENERATION, _NFGENMSG)])[0]
        if isinstance(answer, KernelError):
            raise answer
        return answer.data[answer.start + 8 : answer.start + 12]  # NFTA_GEN_ID, always the first attribute

    def close(self) -> None:
        self._socket.close()


class LegacyGeneration:
    def __init__(self, family: Family) -> None:
        v6 = family is Family.IPV6
        self._level = socket.IPPROTO_IPV6 if v6 else socket.IPPROTO_IP
        self._socket = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._libc = ctypes.CDLL(None, use_errno=True)

    def read(self, tables: Sequence[str]) -> Hashable:
        try:
            return tuple(self._table(table) for table in tables)
        except OSError as error:
            raise KernelError.of(error.errno or errno.EIO, "the packet rules could not be looked at") from error

    def _table(self, table: str) -> bytes:
        # Not by Python's own getsockopt(): that hands the kernel a blank buffer, but the question is asked in it.
        buffer = ctypes.create_string_buffer(table.encode(), _INFO_SIZE)
        size = ctypes.c_uint32(_INFO_SIZE)
        number = self._libc.getsockopt(self._socket.fileno(), self._level, _GET_INFO, buffer, ctypes.byref(size))
        if number != 0:
            raise OSError(ctypes.get_errno(), "getsockopt")
        return buffer.raw

    def close(self) -> None:
        self._socket.close()
