"""Defines kinds of settings: the type of a document's value, how it and an option's text are read, and how it is
written back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from ipvsagent.config.parsers import (
    Network,
    parse_address,
    parse_duration,
    parse_listener,
    parse_network,
    parse_port_range,
    write_duration,
)
from ipvsagent.config.settings import BackendChoice
from ipvsagent.errors import ConfigError

PRIMARY = "primary"


def _is_empty(value: Any) -> bool:
    return bool(value == "")


class Kind(Struct, frozen=True):
    """Describes what may be written for a setting."""

    wire: Any
    """The type of a document's value."""
    meaning: Callable[[Any], Any]
    """From a document's value to that of `Config`; raises ConfigError."""
    text: Callable[[str], Any]
    """From an option's text to a document's value; raises ConfigError."""
    write: Callable[[Any], Any]
    """From the value of `Config` to a document's."""
    metavar: str = "TEXT"
    """The placeholder for the value in `--help`."""
    flag: bool = False
    """The option without a value means true."""
    many: bool = False
    """The option may be given more than once; each adds elements."""
    unset: Callable[[Any], bool] = _is_empty
    """Whether a document's value means the default, for settings that do not distinguish the two."""
    off: bool = False
    """An option's empty text is a value, too, and not the default."""
    words: tuple[str, ...] = ()
    """The values, or the most frequent ones, for completion."""
    warnings: Callable[[Any], list[str]] = lambda value: []
    """What in a valid value is probably a mistake, one sentence each."""


def _same(value: Any) -> Any:
    return value


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _each(values: Iterable[str], parse: Callable[[str], Any]) -> tuple[Any, ...]:
    """Return all values parsed. Raises ConfigError with every problem."""
    parsed, problems = [], []
    for value in values:
        try:
            parsed.append(parse(value))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return tuple(parsed)


def _networks(values: Iterable[str]) -> tuple[Network, ...]:
    return _each(values, parse_network)


def _node_ports(values: Iterable[str]) -> tuple[str, ...]:
    words = tuple(value.strip() for value in values)
    if words == (PRIMARY,):
        return words
    if PRIMARY in words:
        raise ConfigError([f'"{PRIMARY}" cannot be combined with other values'])
    return tuple(str(network) for network in _networks(words))


def _cluster_cidrs(text: str) -> tuple[Network, ...]:
    networks = _networks(_words(text))
    if len(networks) > 2 or (len(networks) == 2 and networks[0].version == networks[1].version):
        raise ConfigError([f"{text!r} must be one CIDR, or one of each family"])
    return networks


def _network_warnings(text: str) -> list[str]:
    """Return what is odd about CIDRs that are accepted because kube-proxy accepts them."""
    warnings = []
    for word, network in zip(_words(text), _networks(_words(text)), strict=True):
        if "/" not in word:
            warnings.append(f"{word} has no prefix length: it counts as the one address {network}")
        elif parse_address(word.partition("/")[0]) != str(network.network_address):
            warnings.append(f"{word} has bits beyond its prefix length: it counts as {network}")
    return warnings


def _strings(values: Iterable[Any]) -> list[str]:
    return [str(value) for value in values]


def _bool(text: str) -> bool:
    """Parse a boolean as Go's strconv.ParseBool does."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ConfigError([f"{text!r} is neither true nor false"])


def _gates(text: str) -> dict[str, bool]:
    gates = {}
    for word in _words(text):
        name, equals, value = word.partition("=")
        if not equals:
            raise ConfigError([f"{word!r} is not NAME=true or NAME=false"])
        gates[name.strip()] = _bool(value.strip())
    return gates


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ConfigError([f"{text!r} is not a whole number"]) from None


def _fraction(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError([f"{text!r} is not a number"]) from None


def _mask(value: int | str) -> int:
    number = value if isinstance(value, int) else _number(value)
    if not 0 <= number < 1 << 32:
        raise ConfigError([f"{value} is not a 32-bit mask"])
    return number


def _mode(text: str) -> BackendChoice:
    """Parse a mode. Empty is kube-proxy's own default, and nftables its recommendation: neither rules out IPVS."""
    if text in ("", "nftables"):
        return BackendChoice.AUTO
    try:
        return BackendChoice(text)
    except ValueError:
        raise ConfigError([f"{text!r} is not one of {', '.join(BackendChoice)}, nftables"]) from None


def _node_name(text: str) -> str:
    name = text.strip()
    if not name:
        raise ConfigError([f"{text!r} is not a name"])
    return name


def interface(*, optional: bool = False) -> Kind:
    """Return the kind of an interface's name (dev_valid_name, net/core/dev.c). optional: "" means none."""

    def meaning(text: str) -> str:
        name = text.strip()
        if (not re.fullmatch(r"[^\s/:]{1,15}", name) and (name or not optional)) or name in (".", ".."):
            raise ConfigError([f"{text!r} is not the name of an interface"])
        return name

    return Kind(str, meaning, _same, _same, "NAME")


def integer(low: int, high: int) -> Kind:
    """Return the kind of a whole number in a range, both ends included."""

    def meaning(value: int) -> int:
        if not low <= value <= high:
            raise ConfigError([f"{value} is not in the range {low} to {high}"])
        return value

    return Kind(int, meaning, _number, _same, "NUMBER")


def duration(*, positive: bool = False) -> Kind:
    """Return the kind of a duration. positive: 0 is rejected."""

    def meaning(text: str) -> float:
        if text.strip().startswith("-") and parse_duration(text.strip()[1:]) > 0:
            raise ConfigError([f"{text} is less than 0"])
        seconds = parse_duration(text.strip().lstrip("-"))
        if positive and not seconds:
            raise ConfigError([f"{text} is not greater than 0"])
        return seconds

    def unset(text: str) -> bool:
        try:
            return parse_duration(text) == 0
        except ConfigError:
            return False

    return Kind(str, meaning, _same, write_duration, "DURATION", unset=unset)


def choice(*names: str) -> Kind:
    """Return the kind of one of several words."""

    def meaning(text: str) -> str:
        if text in names:
            return text
        raise ConfigError([f"{text!r} is not one of {', '.join(names)}"])

    return Kind(str, meaning, _same, str, "|".join(names), words=names)


def listener(port: int, off: str) -> Kind:
    """Return the kind of a server's address. port: the default one. off: the document's value for no server."""

    def write(address: str) -> str:
        return address or off

    return Kind(str, lambda text: parse_listener(text, port), _same, write, "ADDRESS:PORT", off=True)


TEXT = Kind(str, str.strip, _same, _same)
NAME = Kind(str, str.strip, _same, _same, "NAME")
FILE = Kind(str, _same, _same, _same, "FILE")
SCHEDULER = msgspec.structs.replace(NAME, words=("rr", "wrr", "lc", "wlc", "sh", "mh", "dh", "sed", "nq", "fo", "ovf"))
NODE_NAME = Kind(str, _node_name, _same, _same, "NAME")
FLAG = Kind(bool, _same, _bool, _same, "true|false", flag=True, words=("true", "false"))
FRACTION = Kind(float, _same, _fraction, _same, "NUMBER")
NETWORKS = Kind(list[str], _networks, _words, _strings, "CIDR,...", many=True)
CLUSTER_CIDRS = Kind(
    str, _cluster_cidrs, _same, lambda networks: ",".join(map(str, networks)), "CIDR,...", warnings=_network_warnings
)
NODE_PORTS = Kind(list[str], _node_ports, _words, list, "CIDR,...|primary", many=True, words=("primary",))
ANYTHING = Kind(Any, _same, _same, _same, flag=True)
MODE = Kind(str, _mode, _same, str, "|".join(BackendChoice), words=tuple([choice.value for choice in BackendChoice]))
PORT_RANGE = Kind(str, parse_port_range, _same, str, "PORT-PORT")
ADDRESS = Kind(str, parse_address, _same, _same, "ADDRESS")
GATES = Kind(dict[str, bool], _same, _gates, _same, "NAME=true,...")
PATH = Kind(str, Path, _same, str, "PATH")
PATHS = Kind(list[str], lambda values: tuple(map(Path, values)), lambda text: [text], _strings, "PATH", many=True)
MASK = Kind(int | str, _mask, _same, hex, "MASK")
