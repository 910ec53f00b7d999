"""From what was written to a `Config`: options over defaults, every problem at once."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from ipvsagent.config.schema import SETTINGS, Setting
from ipvsagent.config.settings import Config
from ipvsagent.errors import ConfigError

Options = Mapping[str, str | tuple[str, ...]]
"""Option texts by option name, those that were given."""


class Warned(Struct, frozen=True):
    """Something that was written and is not refused, but is not what its writer may think. where: an option, or a path
    in a file."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


class Resolved(Struct, frozen=True):
    """origins: where each field's value came from, for those that are not defaults."""

    config: Config
    warnings: tuple[Warned, ...] = ()
    origins: dict[str, str] = {}


class _Reading:
    """Values found so far, and all that is wrong with the others."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self.problems: list[str] = []
        self.warnings: list[Warned] = []

    def take(self, setting: Setting, origin: str, value: Callable[[], Any]) -> None:
        try:
            self.values[setting.field] = value()
        except ConfigError as error:
            self.problems += [f"{origin}: {problem}" for problem in error.problems]
            return
        self.origins[setting.field] = origin
        if setting.pending and self.values[setting.field] != setting.default:
            self.warnings.append(Warned(origin, "has no effect yet"))


def resolve(options: Options) -> Resolved:
    """Raises ConfigError with every problem."""
    reading = _Reading()
    for setting in SETTINGS:
        for name in setting.options:
            if name in options:
                text = options[name]
                reading.take(setting, name, lambda s=setting, t=text: _of_option(s, t))  # type: ignore[misc]
    reading.problems += _disagreements(reading)
    if reading.problems:
        raise ConfigError(reading.problems)
    return Resolved(
        Config(**{**_dependent_defaults(reading.values), **reading.values}), tuple(reading.warnings), reading.origins
    )


def _of_option(setting: Setting, text: str | tuple[str, ...]) -> Any:
    kind = setting.kind
    if isinstance(text, str):
        return kind.meaning(msgspec.convert(kind.text(text), kind.wire))
    return kind.meaning([element for each in text for element in kind.text(each)])


def _dependent_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """An IPv6 bind address makes the servers listen on IPv6 (getDefaultAddresses, v1alpha1/defaults.go)."""
    if ipaddress.ip_address(values.get("bind_address", "0.0.0.0")).version == 4:
        return {}
    return {"healthz_address": "[::]:10256", "metrics_address": "[::1]:10249"}


def _disagreements(reading: _Reading) -> Iterable[str]:
    """What is wrong only together."""
    values = reading.values
    needed = {"BridgeInterface": "pod_bridge", "InterfaceNamePrefix": "pod_interface_prefix"}
    mode = values.get("detect_local", "")
    field = needed.get(mode)
    if field and not values.get(field):
        setting = next(s for s in SETTINGS if s.field == field)
        yield f"{reading.origins['detect_local']}: {mode} needs {setting.options[0]} ({setting.path})"
