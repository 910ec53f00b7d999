"""Reads the connections of IPVS from /proc/net/ip_vs_conn (ip_vs_conn_seq_show, ip_vs_conn.c). There is no netlink
message for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from ipvsagent.address import Address, parse_address, unpack

# Not /proc/net: that is of the process's network namespace, even if this thread has entered another one.
_FILE = Path("/proc/thread-self/net/ip_vs_conn")
_FIELDS = 9  # without the two of a persistence engine


class Connection(Struct, frozen=True, gc=False):
    """Holds one line of the file."""

    protocol: str
    client: Address
    client_port: int
    virtual: Address
    virtual_port: int
    destination: Address
    destination_port: int
    state: str
    """As the kernel names it; NONE for a persistence template."""
    expires: int
    """Seconds until it expires."""
    pe_name: str = ""
    """Name of the persistence engine."""
    pe_data: str = ""
    """By what the persistence engine distinguishes clients, such as the Call-ID of SIP."""


def connections(path: Path = _FILE) -> Iterator[Connection]:
    """Yield the connections in the kernel's order. Bytes of `pe_data` that are not UTF-8 become surrogates. Raises
    OSError, FileNotFoundError if there is no IPVS."""
    with path.open("rb") as file:
        next(file, None)  # column titles
        for line in file:
            connection = parse(line)
            if connection is not None:
                yield connection


def parse(line: bytes) -> Connection | None:
    """Parse one line; None if it is truncated."""
    words = [word.decode(errors="surrogateescape") for word in line.split()]
    if len(words) < _FIELDS:
        return None
    return Connection(
        words[0],
        _address(words[1]),
        int(words[2], 16),
        _address(words[3]),
        int(words[4], 16),
        _address(words[5]),
        int(words[6], 16),
        words[7],
        int(words[8]),
        *words[9:11],
    )


def _address(word: str) -> Address:
    """Parse eight hexadecimal digits, or an IPv6 address."""
    return parse_address(word) if ":" in word else unpack(bytes.fromhex(word))
