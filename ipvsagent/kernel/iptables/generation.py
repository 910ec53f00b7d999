"""Asks the kernel whether packet rules changed; that takes microseconds and starts no process.

nf_tables counts the transactions of all programs. The older x_tables only reports, for each table, the number and the
total size of its entries, and where each built-in chain begins and ends: if a rule is replaced by one of the same size,
or two rules of a chain are swapped, these stay the same. A caller must therefore read all rules again now and then. For
x_tables the policies of table filter are read as well, because our accepts are needed as soon as a policy is DROP.
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
_INFO = struct.Struct("=32sI5I5III")  # name, valid hooks, where each hook begins, and ends; number of entries, size
_GET_ENTRIES = 65  # IPT_SO_GET_ENTRIES and IP6T_SO_GET_ENTRIES
_ENTRIES = struct.Struct("=32sI4x")  # struct ipt_get_entries
_TARGET_OFFSET = {socket.IPPROTO_IP: 88, socket.IPPROTO_IPV6: 140}  # in struct ipt_entry and ip6t_entry
_VERDICT = 32  # in struct xt_standard_target
_MOST_ENTRIES = 1 << 20  # bytes; the kernel copies them all, some 0.2 to 1 ms for each 100 kB
_LARGE_EVERY = 10  # a larger table is copied only once in so many readings
_NFGENMSG = struct.pack("=BBH", 0, 0, 0)


class Generation(Protocol):
    """Reads a value that changes with the rules."""

    def read(self, tables: Sequence[str]) -> Hashable:
        """Return a value that stays equal while these tables do not change, as far as the kernel shows. Raises
        KernelError."""

    def close(self) -> None: ...


class NftGeneration:
    """Reads the transaction counter of nf_tables, which covers all tables of the network namespace."""

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
    """Reads the layout of x_tables, and the policies of table filter."""

    def __init__(self, family: Family) -> None:
        v6 = family is Family.IPV6
        self._level = socket.IPPROTO_IPV6 if v6 else socket.IPPROTO_IP
        self._socket = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._readings = 0
        self._large_policies: tuple[int, ...] = ()

    def read(self, tables: Sequence[str]) -> Hashable:
        try:
            return tuple((info := self._info(table), self._policies(table, info)) for table in tables)
        except OSError as error:
            raise KernelError.of(error.errno or errno.EIO, "cannot read the state of the packet rules") from error

    def _info(self, table: str) -> bytes:
        return self._get_option(_GET_INFO, table.encode(), _INFO_SIZE)

    def _policies(self, table: str, info: bytes) -> tuple[int, ...]:
        """Return the verdicts at the ends of the built-in chains of table filter. Those of a very large table may be
        of an earlier reading; none are returned if the table was replaced meanwhile."""
        if table != "filter":
            return ()
        _, hooks, *offsets, _, size = _INFO.unpack(info)
        if size <= _MOST_ENTRIES:
            return self._read_policies(table, hooks, offsets, size)
        if self._readings % _LARGE_EVERY == 0:
            self._large_policies = self._read_policies(table, hooks, offsets, size)
        self._readings += 1
        return self._large_policies

    def _read_policies(self, table: str, hooks: int, offsets: Sequence[int], size: int) -> tuple[int, ...]:
        try:
            entries = self._get_option(_GET_ENTRIES, _ENTRIES.pack(table.encode(), size), _ENTRIES.size + size)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
            return ()
        ends = [_ENTRIES.size + offsets[5 + hook] for hook in range(5) if hooks >> hook & 1]
        offset = _TARGET_OFFSET[self._level]
        return tuple(
            struct.unpack_from("=i", entries, end + struct.unpack_from("=H", entries, end + offset)[0] + _VERDICT)[0]
            for end in ends
        )

    def _get_option(self, option: int, request: bytes, size: int) -> bytes:
        # Python's own getsockopt() passes an empty buffer, but the kernel reads the request from it.
        buffer = ctypes.create_string_buffer(request, size)
        length = ctypes.c_uint32(size)
        result = self._libc.getsockopt(self._socket.fileno(), self._level, option, buffer, ctypes.byref(length))
        if result != 0:
            raise OSError(ctypes.get_errno(), "getsockopt")
        return buffer.raw

    def close(self) -> None:
        self._socket.close()
