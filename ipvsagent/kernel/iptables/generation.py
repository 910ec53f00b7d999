"""Whether somebody changed the packet rules, asked of the kernel in microseconds, without starting a process.

nf_tables counts its transactions; every one of anybody counts. The older x_tables tells of each table its number
of entries, their size, and where each built-in chain begins and ends: a rule replaced by one of the same size, or
two rules exchanged within a chain, look the same. A caller that relies on this reads everything again now and then.
Policies of table filter are looked at beside it, since accepts of ours must be there as soon as a policy is DROP.
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
_LARGE_EVERY = 10  # looks; a table with more is copied now and then
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
        self._looks = 0
        self._of_large: tuple[int, ...] = ()

    def read(self, tables: Sequence[str]) -> Hashable:
        try:
            return tuple((info := self._info(table), self._policies(table, info)) for table in tables)
        except OSError as error:
            raise KernelError.of(error.errno or errno.EIO, "the packet rules could not be looked at") from error

    def _info(self, table: str) -> bytes:
        return self._ask(_GET_INFO, table.encode(), _INFO_SIZE)

    def _policies(self, table: str, info: bytes) -> tuple[int, ...]:
        """Verdicts at the ends of the built-in chains of table filter: of an earlier look if that is very large, none
        if it was replaced since."""
        if table != "filter":
            return ()
        _, hooks, *offsets, _, size = _INFO.unpack(info)
        if size <= _MOST_ENTRIES:
            return self._ends(table, hooks, offsets, size)
        if self._looks % _LARGE_EVERY == 0:
            self._of_large = self._ends(table, hooks, offsets, size)
        self._looks += 1
        return self._of_large

    def _ends(self, table: str, hooks: int, offsets: Sequence[int], size: int) -> tuple[int, ...]:
        try:
            entries = self._ask(_GET_ENTRIES, _ENTRIES.pack(table.encode(), size), _ENTRIES.size + size)
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

    def _ask(self, option: int, question: bytes, size: int) -> bytes:
        # Not by Python's own getsockopt(): that hands the kernel a blank buffer, but the question is asked in it.
        buffer = ctypes.create_string_buffer(question, size)
        length = ctypes.c_uint32(size)
        number = self._libc.getsockopt(self._socket.fileno(), self._level, option, buffer, ctypes.byref(length))
        if number != 0:
            raise OSError(ctypes.get_errno(), "getsockopt")
        return buffer.raw

    def close(self) -> None:
        self._socket.close()
