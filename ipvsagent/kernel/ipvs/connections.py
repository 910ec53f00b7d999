"""The connections that IPVS tracks, from /proc/net/ip_vs_conn (ip_vs_conn_seq_show, ip_vs_conn.c).

There is no netlink message for them. How they are shown is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from ipvsagent.address import Address, parse_address, unpack

# Not /proc/net, which is the network namespace of the process, whatever this thread has entered.
_FILE = Path("/proc/thread-self/net/ip_vs_conn")
_FIELDS = 9  # without a persistence engine's two


class Connection(Struct, frozen=True, gc=False):
    """A connection, or a persistence template, whose state is NONE."""

    protocol: str
    client: Address
    client_port: int
    virtual: Address
    virtual_port: int
    destination: Address
    destination_port: int
    state: str
    expires: int
    """Seconds left."""
    pe_name: str = ""
    pe_data: str = ""
    """What the persistence engine identifies a client by, such as SIP's Call-ID."""


def connections(path: Path = _FILE) -> Iterator[Connection]:
    """Yield connections in the kernel's order. Raises OSError (FileNotFoundError if there is no IPVS). Bytes of
    `pe_data` that are not UTF-8 become surrogates."""
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
    """Parse eight hexadecimal digits, or IPv6 with all its colons."""
    return parse_address(word) if ":" in word else unpack(bytes.fromhex(word))
