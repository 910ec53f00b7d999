"""Parses values as people write them. Each parser raises ConfigError with one sentence."""

from __future__ import annotations

import ipaddress
import re

from msgspec import Struct

from ipvsagent.errors import ConfigError

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")

_PORT_RANGE = re.compile(r"(\d{1,5})(?:([-+])(\d{1,5}))?", re.ASCII)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class PortRange(Struct, frozen=True):
    """Holds a range of ports, 1 to 65535, both ends included."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    @property
    def ports(self) -> range:
        return range(self.first, self.last + 1)


def parse_duration(text: str) -> float:
    """Return the seconds of a Go duration such as `1h30m`, `15m`, `100ms` or `0`."""
    text = text.strip()
    if text == "0":
        return 0.0
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ConfigError([f"{text!r} is not a duration; write for example 30s, 15m or 1h30m"])
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def write_duration(seconds: float) -> str:
    """Return a Go duration that `parse_duration` reads back as the same number."""
    whole = int(seconds)
    if whole != seconds:
        return f"{seconds!r}s" if "e" not in repr(seconds) else f"{seconds:.9f}s"
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    text = (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes else "") + (f"{left}s" if left else "")
    return text or "0s"


def parse_network(text: str) -> Network:
    """Parse an IPv4 or IPv6 CIDR, which may have host bits."""
    try:
        return ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise ConfigError([f"{text!r} is not a CIDR; write for example 10.0.0.0/8 or fd00::/64"]) from None


def parse_address(text: str) -> str:
    """Return an IP address in its canonical form."""
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        raise ConfigError([f"{text!r} is not an IP address"]) from None


def parse_port_range(text: str) -> PortRange:
    """Parse `FIRST-LAST`, `FIRST+COUNT` (that many ports after the first), or one port.

    These are the forms of kube-apiserver's flag (PortRange.Set, k8s.io/apimachinery/pkg/util/net/port_range.go), which
    however accepts port 0, too.
    """
    found = _PORT_RANGE.fullmatch(text.strip())
    if not found:
        raise ConfigError([f"{text!r} is not a range of ports; write for example 30000-32767"])
    first, last = int(found[1]), int(found[3] or found[1])
    if found[2] == "+":
        last += first
    if first < 1 or last > 65535:
        raise ConfigError([f"{text!r} has a port outside the range 1 to 65535"])
    if last < first:
        raise ConfigError([f"{text!r} ends before it begins"])
    return PortRange(first, last)


def parse_listener(text: str, port: int) -> str:
    """Parse `ADDRESS:PORT`, `[IPv6]:PORT`, or an address alone, which gets `port`. Return "" for port 0: no listener.

    It accepts what AppendPortIfNeeded, pkg/proxy/util/utils.go, and validateHostPort, pkg/proxy/apis/config/validation,
    accept.
    """
    text = text.strip()
    if text in ("", "0"):
        return ""
    host, number = text, str(port)
    if re.fullmatch(r"\[[^\[\]]*\](:\d+)?", text):
        host, _, given = text[1:].partition("]")
        number = given[1:] or number
    elif text.count(":") == 1:
        host, number = text.split(":")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ConfigError([f"{text!r} is not an IP address and a port; write for example 0.0.0.0:{port}"]) from None
    if not number.isdecimal() or int(number) > 65535:
        raise ConfigError([f"{text!r} has no port from 1 to 65535 (or 0, which disables it)"])
    if int(number) == 0:
        return ""
    return f"[{address}]:{int(number)}" if address.version == 6 else f"{address}:{int(number)}"
