"""Makes a `Config` of defaults, documents and options, and reports every problem at once.

Precedence is that of cmd/kube-proxy/app/options.go: if there is a KubeProxyConfiguration, it decides all settings of
its kind, and their options are ignored with a warning, except for the host name and the log. Options for settings of
our own override an IPVSAgentConfiguration.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct

from ipvsagent.config.documents import NoMapping, Unknown, Value, Written, documents_in, values_in
from ipvsagent.config.kinds import Kind
from ipvsagent.config.kube_proxy import (
    KNOWN_GATES,
    TRANSLATED,
    WITHOUT_EFFECT,
    Translated,
    WithoutEffect,
    is_unset,
)
from ipvsagent.config.remarks import Remark
from ipvsagent.config.schema import SETTINGS, Document, Setting
from ipvsagent.config.settings import BackendChoice, Config
from ipvsagent.errors import ConfigError
from ipvsagent.wrong_types import in_words

Options = Mapping[str, str | tuple[str, ...]]
"""The texts of the options that were given, by the name that was typed."""

Entry = Setting | Translated | WithoutEffect
ENTRIES: tuple[Entry, ...] = (*SETTINGS, *TRANSLATED, *WITHOUT_EFFECT)
_WINS_OVER_FILE = ("node_name",)
_PATHS: dict[Document, dict[str, Entry]] = {
    document: {e.path: e for e in ENTRIES if e.path and e.document is document} for document in Document
}


class Resolved(Struct, frozen=True):
    """Holds a configuration, or what is wrong with it."""

    config: Config | None
    """None if there are problems."""
    problems: tuple[Remark, ...] = ()
    warnings: tuple[Remark, ...] = ()
    origins: dict[str, Remark] = {}
    """Where each value was written, by field of `Config`; defaults have no origin."""

    def required(self) -> Config:
        """Return the configuration. Raises ConfigError with every problem."""
        if self.config is None:
            raise ConfigError([str(problem) for problem in self.problems])
        return self.config


def resolve(options: Options, files: Mapping[str, bytes] = {}) -> Resolved:
    """Resolve options and the contents of configuration files, by name."""
    reading = _Reading()
    written: list[Written] = []
    for file, content in files.items():
        found, problems = documents_in(file, content)
        reading.problems += problems
        written += found
    first: dict[Document, Written] = {}
    for document in written:
        earlier = first.setdefault(document.document, document)
        if earlier is not document:
            reading.problems.append(document.remark(f"is present twice; the first is in {earlier.file}"))
    for document in first.values():
        reading.read(document)
    reading.read_options(options, first.get(Document.KUBE_PROXY))
    return reading.result()


class _Reading:
    """Collects values and remarks while documents and options are read."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.hints: dict[str, tuple[Any, Remark]] = {}
        """Values that other settings imply, for fields that have no explicit value."""
        self.origins: dict[str, Remark] = {}
        self.problems: list[Remark] = []
        self.warnings: list[Remark] = []

    def read(self, written: Written) -> None:
        known = _PATHS[written.document]
        for found in values_in(written.fields, known):
            at = written.remark("", found.path)
            if isinstance(found, Unknown):
                self._unknown(at, found.instead, written.document)
            elif isinstance(found, NoMapping):
                self.problems.append(_because(at, "must be a mapping"))
            else:
                self._read_value(known[found.path], found, at)
        if written.document is Document.KUBE_PROXY:
            self._warn_of_mode(written)

    def _read_value(self, entry: Entry, found: Value, at: Remark) -> None:
        kind: Kind = entry.kind
        try:
            value = msgspec.convert(found.value, kind.wire, strict=True)
        except msgspec.ValidationError as error:
            where, reason = in_words(error)
            self.problems.append(_because(at, f"{where} {reason}".strip()))
            return
        if isinstance(entry, Setting):
            distinct = entry.optional or entry.document is Document.AGENT
            if distinct or not kind.unset(value):
                self._store(entry.field, lambda: kind.meaning(value), at, entry, lambda: kind.warnings(value))
        else:
            self._read_other(entry, value, at)

    def read_options(self, options: Options, kube_proxy: Written | None) -> None:
        """kube_proxy: the document that decides the settings of its kind, if there is one."""
        for entry in ENTRIES:
            name = next((name for name in entry.options if name in options), "")
            if not name:
                continue
            at = Remark("", name)
            text = options[name]
            if kube_proxy and self._is_decided_by_file(entry):
                where = f" ({entry.path})" if entry.path else ""
                self.warnings.append(
                    _because(at, f"is ignored: the {kube_proxy.document.kind} in {kube_proxy.file} decides{where}")
                )
                continue
            if text == "" and not entry.kind.off:
                continue
            try:
                value = _option_value(entry.kind, text)
            except ConfigError as error:
                self.problems += [_because(at, problem) for problem in error.problems]
                continue
            if isinstance(entry, Setting):
                kind = entry.kind
                self._store(entry.field, partial(kind.meaning, value), at, entry, partial(kind.warnings, value))
            else:
                self._read_other(entry, value, at)

    def _is_decided_by_file(self, entry: Entry) -> bool:
        if isinstance(entry, Setting):
            return entry.document is Document.KUBE_PROXY and entry.field not in _WINS_OVER_FILE
        return isinstance(entry, Translated) and not entry.logging

    def _store(
        self, field: str, value: Callable[[], Any], at: Remark, setting: Setting, warnings: Callable[[], list[str]]
    ) -> None:
        try:
            self.values[field] = value()
        except ConfigError as error:
            self.problems += [_because(at, problem) for problem in error.problems]
            return
        self.origins[field] = at
        self.warnings += [_because(at, warning) for warning in warnings()]
        if setting.pending and self.values[field] != setting.default:
            self.warnings.append(_because(at, "has no effect yet"))

    def _read_other(self, entry: Translated | WithoutEffect, value: Any, at: Remark) -> None:
        try:
            meant = entry.kind.meaning(value)
        except ConfigError as error:
            self.problems += [_because(at, problem) for problem in error.problems]
            return
        if isinstance(entry, WithoutEffect):
            if not is_unset(value) and meant not in entry.usual:
                self.warnings.append(_because(at, f"has no effect: {entry.why}"))
            return
        if entry.path == "featureGates":
            self._warn_of_gates(meant, at)
        implied = entry.meaning(meant)
        if implied is not None:
            self.hints[entry.field] = (implied, at)

    def _warn_of_gates(self, gates: Mapping[str, bool], at: Remark) -> None:
        for name in gates:
            if name not in KNOWN_GATES:
                where = msgspec.structs.replace(at, path=f"{at.path}.{name}" if at.file else f"{at.path} {name}")
                self.warnings.append(_because(where, "has no effect: ipvsagent does not have this feature gate"))

    def _warn_of_mode(self, written: Written) -> None:
        mode = written.fields.get("mode")
        if mode in (None, "", "nftables"):
            what = "is nftables" if mode else "is empty, which means iptables for kube-proxy"
            reason = f"{what}; here it means auto: ipvs, or iptables if the kernel has no ip_vs"
            self.warnings.append(written.remark(reason, "mode"))

    def _unknown(self, at: Remark, instead: str, document: Document) -> None:
        hint = f"; did you mean {instead}?" if instead else ""
        if document is Document.KUBE_PROXY:  # kube-proxy, too, ignores unknown fields
            self.warnings.append(_because(at, f"is not a field of kube-proxy's and has no effect{hint}"))
        else:
            self.problems.append(_because(at, f"is not a field of {document.kind}{hint}"))

    def result(self) -> Resolved:
        for field, (value, at) in self.hints.items():
            if field not in self.values or value == "":  # a server switched off by its port is off
                self.values[field] = value
                self.origins[field] = at
        self._check_combinations()
        warnings = tuple(self.warnings)
        if self.problems:
            return Resolved(None, tuple(self.problems), warnings, self.origins)
        return Resolved(Config(**{**self._dependent_defaults(), **self.values}), (), warnings, self.origins)

    def _dependent_defaults(self) -> dict[str, Any]:
        """Return the defaults that depend on other values: with an IPv6 bind address the servers listen on IPv6
        (getDefaultAddresses, v1alpha1/defaults.go)."""
        if ipaddress.ip_address(self.values.get("bind_address", "0.0.0.0")).version == 4:
            return {}
        return {"healthz_address": "[::]:10256", "metrics_address": "[::1]:10249"}

    def _check_combinations(self) -> None:
        """Report values that are valid by themselves, but not together."""
        needed = {"BridgeInterface": "pod_bridge", "InterfaceNamePrefix": "pod_interface_prefix"}
        mode = self.values.get("detect_local", "")
        field = needed.get(mode)
        if field and not self.values.get(field):
            setting = next(s for s in SETTINGS if s.field == field)
            at = self.origins["detect_local"]
            self.problems.append(_because(at, f"{mode} needs {setting.path if at.file else setting.options[0]}"))
        if self.values.get("idle_timeout") and self.values.get("tcp_timeout"):
            at = self.origins["idle_timeout"]
            second = self.origins["tcp_timeout"]
            reason = f"and {second.path} both set the timeout of idle TCP connections; remove one"
            self.problems.append(_because(at, reason))
        if self.values.get("route_mode") and not self.values.get("service_cidrs"):
            at = self.origins["route_mode"]
            self.problems.append(_because(at, f"needs {'serviceCIDRs' if at.file else '--service-cidrs'}"))
        if self.values.get("backend") is BackendChoice.IPTABLES and self.values.get("route_mode"):
            self.problems.append(_because(self.origins["route_mode"], "is not supported by the iptables backend"))


def _because(at: Remark, reason: str) -> Remark:
    return msgspec.structs.replace(at, reason=reason)


def _option_value(kind: Kind, text: str | tuple[str, ...]) -> Any:
    """Return the value that a document would have. Raises ConfigError."""
    if isinstance(text, str):
        return kind.text(text.removeprefix("="))
    return [element for each in text for element in kind.text(each)]
