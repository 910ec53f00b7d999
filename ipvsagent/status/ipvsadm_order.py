"""Sorts as ipvsadm's listings are sorted (libipvs.c: ipvs_cmp_services and ipvs_cmp_dests, with glibc's qsort).

ipvsadm compares by differences in signed 32-bit arithmetic, so 192.168.0.1 sorts before 10.0.0.1, and triples can be
cyclic. The result then depends on the algorithm and on the kernel's order, which is why the sort here is glibc's: a
merge sort whose first half is half the items, rounded down, and that takes the left item unless it is greater.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import TypeVar

from ipvsagent.address import Address, Family, pack
from ipvsagent.model import Protocol
from ipvsagent.rows import Observed, RealServerRow, VirtualServerRow

Entry = tuple[Observed, list[Observed]]
"""A virtual server with its real servers."""

_NUMBER = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132, Protocol.FWM: 0}
_AF = {Family.IPV4: 2, Family.IPV6: 10}

T = TypeVar("T")
_Key = tuple[int, tuple[int, ...], int]
"""How many words are compared, the words (an address always has four), and the port."""


def grouped(rows: Iterable[Observed]) -> list[Entry]:
    """Group rows in which each virtual server is followed by its real servers, as the kernel table yields them."""
    entries: list[Entry] = []
    for seen in rows:
        if isinstance(seen.row, VirtualServerRow):
            entries.append((seen, []))
        else:
            entries[-1][1].append(seen)
    return entries


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Sort entries. They must be in the kernel's order, which decides where the comparison is cyclic."""
    servers = _merge_sort([(_server_key(entry[0]), entry) for entry in entries])
    return [
        (server, [real for _, real in _merge_sort([(_real_server_key(real), real) for real in reals])])
        for _, (server, reals) in servers
    ]


def _merge_sort(items: list[tuple[_Key, T]]) -> list[tuple[_Key, T]]:
    if len(items) < 2:
        return items
    middle = len(items) // 2
    left, right = _merge_sort(items[:middle]), _merge_sort(items[middle:])
    merged: list[tuple[_Key, T]] = []
    i = j = 0
    while i < len(left) and j < len(right):
        if _compare(left[i][0], right[j][0]) <= 0:
            merged.append(left[i])
            i += 1
        else:
            merged.append(right[j])
            j += 1
    return merged + left[i:] + right[j:]


def _compare(a: _Key, b: _Key) -> int:
    """Compare as many words as the family of `a` has, so that between IPv4 and IPv6 the order of arguments matters."""
    for x, y in zip(a[1][: a[0]], b[1], strict=False):
        if x != y:
            return _signed(x - y)
    return a[2] - b[2]


def _signed(number: int) -> int:
    """Wrap a number into 32 bits, as C does."""
    return (number + (1 << 31)) % (1 << 32) - (1 << 31)


def _server_key(seen: Observed) -> _Key:
    assert isinstance(seen.row, VirtualServerRow)
    server = seen.row.id
    mark = server.port if server.protocol is Protocol.FWM else 0
    words = (mark, _AF[server.family], _NUMBER[server.protocol], *_words(server.address))
    return len(words), words, 0 if mark else server.port


def _real_server_key(seen: Observed) -> _Key:
    assert isinstance(seen.row, RealServerRow)
    words = _words(seen.row.address)
    return (4 if ":" in seen.row.address else 1), words, seen.row.port


def _words(address: Address) -> tuple[int, ...]:
    return struct.unpack("!4I", pack(address).ljust(16, b"\0"))
