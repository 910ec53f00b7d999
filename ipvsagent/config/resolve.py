"""From what was written to a `Config`: defaults, then documents, then options; every problem at once.

Which wins, as cmd/kube-proxy/app/options.go has it: a KubeProxyConfiguration decides all settings of its kind, and
options for these count without one only, except the host name's and those of the log. An option that is ignored for
that reason is named. Settings of our own have no such history: their options win over an IPVSAgentConfiguration.
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
    says_nothing,
)
from ipvsagent.config.remarks import Remark
from ipvsagent.config.schema import SETTINGS, Document, Setting
from ipvsagent.config.settings import BackendChoice, Config
from ipvsagent.errors import ConfigError
from ipvsagent.wrong_types import in_words

Options = Mapping[str, str | tuple[str, ...]]
"""Texts of the options that were given, each by the name that was typed."""

Entry = Setting | Translated | WithoutEffect
ENTRIES: tuple[Entry, ...] = (*SETTINGS, *TRANSLATED, *WITHOUT_EFFECT)
_WINS_OVER_FILE = ("node_name",)
_PATHS: dict[Document, dict[str, Entry]] = {
    document: {e.path: e for e in ENTRIES if e.path and e.document is document} for document in Document
}


class Resolved(Struct, frozen=True):
    """config is None if there are problems. origins: where the value of a field was written; defaults have none."""

    config: Config | None
    problems: tuple[Remark, ...] = ()
    warnings: tuple[Remark, ...] = ()
    origins: dict[str, Remark] = {}

    def required(self) -> Config:
        """Raises ConfigError with every problem."""
        if self.config is None:
            raise ConfigError([str(problem) for problem in self.problems])
        return self.config


def resolve(options: Options, files: Mapping[str, bytes] = {}) -> Resolved:
    """files: contents of configuration files, by name."""
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
            reading.problems.append(document.remark(f"is there twice; the other is in {earlier.file}"))
    for document in first.values():
        reading.read(document)
    reading.read_options(options, first.get(Document.KUBE_PROXY))
    return reading.result()


class _Reading:
    """What was found so far. hints: what translations say about fields that may still be said themselves."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.hints: dict[str, tuple[Any, Remark]] = {}
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
                self._take_value(known[found.path], found, at)
        if written.document is Document.KUBE_PROXY:
            self._say_mode(written)

    def _take_value(self, entry: Entry, found: Value, at: Remark) -> None:
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
                self._take(entry.field, lambda: kind.meaning(value), at, entry, lambda: kind.doubts(value))
        else:
            self._take_other(entry, value, at)

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
                self._take(entry.field, partial(kind.meaning, value), at, entry, partial(kind.doubts, value))
            else:
                self._take_other(entry, value, at)

    def _is_decided_by_file(self, entry: Entry) -> bool:
        if isinstance(entry, Setting):
            return entry.document is Document.KUBE_PROXY and entry.field not in _WINS_OVER_FILE
        return isinstance(entry, Translated) and not entry.logging

    def _take(
        self, field: str, value: Callable[[], Any], at: Remark, setting: Setting, doubts: Callable[[], list[str]]
    ) -> None:
        try:
            self.values[field] = value()
        except ConfigError as error:
            self.problems += [_because(at, problem) for problem in error.problems]
            return
        self.origins[field] = at
        self.warnings += [_because(at, doubt) for doubt in doubts()]
        if setting.pending and self.values[field] != setting.default:
            self.warnings.append(_because(at, "has no effect yet"))

    def _take_other(self, entry: Translated | WithoutEffect, value: Any, at: Remark) -> None:
        try:
            meant = entry.kind.meaning(value)
        except ConfigError as error:
            self.problems += [_because(at, problem) for problem in error.problems]
            return
        if isinstance(entry, WithoutEffect):
            if not says_nothing(value) and meant not in entry.usual:
                self.warnings.append(_because(at, f"has no effect: {entry.why}"))
            return
        if entry.path == "featureGates":
            self._say_gates(meant, at)
        said = entry.meaning(meant)
        if said is not None:
            self.hints[entry.field] = (said, at)

    def _say_gates(self, gates: Mapping[str, bool], at: Remark) -> None:
        for name in gates:
            if name not in KNOWN_GATES:
                where = msgspec.structs.replace(at, path=f"{at.path}.{name}" if at.file else f"{at.path} {name}")
                self.warnings.append(_because(where, "has no effect: there is no such feature gate here"))

    def _say_mode(self, written: Written) -> None:
        mode = written.fields.get("mode")
        if mode in (None, "", "nftables"):
            what = "is nftables" if mode else "is empty, which kube-proxy takes for iptables"
            reason = f"{what}; here it means auto: ipvs, or iptables where the kernel has no ip_vs"
            self.warnings.append(written.remark(reason, "mode"))

    def _unknown(self, at: Remark, instead: str, document: Document) -> None:
        hint = f"; is {instead} meant?" if instead else ""
        if document is Document.KUBE_PROXY:  # as upstream, which decodes leniently once it cannot do so strictly
            self.warnings.append(_because(at, f"is no field of kube-proxy's and has no effect{hint}"))
        else:
            self.problems.append(_because(at, f"is no field of {document.kind}{hint}"))

    def result(self) -> Resolved:
        for field, (value, at) in self.hints.items():
            if field not in self.values or value == "":  # a server switched off by its port is off
                self.values[field] = value
                self.origins[field] = at
        self._check_together()
        warnings = tuple(self.warnings)
        if self.problems:
            return Resolved(None, tuple(self.problems), warnings, self.origins)
        return Resolved(Config(**{**self._dependent_defaults(), **self.values}), (), warnings, self.origins)

    def _dependent_defaults(self) -> dict[str, Any]:
        """An IPv6 bind address makes the servers listen on IPv6 (getDefaultAddresses, v1alpha1/defaults.go)."""
        if ipaddress.ip_address(self.values.get("bind_address", "0.0.0.0")).version == 4:
            return {}
        return {"healthz_address": "[::]:10256", "metrics_address": "[::1]:10249"}

    def _check_together(self) -> None:
        """What is wrong only together."""
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
            reason = f"and {second.path} set the same: idle TCP connections of Services; leave one out"
            self.problems.append(_because(at, reason))
        if self.values.get("route_mode") and not self.values.get("service_cidrs"):
            at = self.origins["route_mode"]
            self.problems.append(_because(at, f"needs {'serviceCIDRs' if at.file else '--service-cidrs'}"))
        if self.values.get("backend") is BackendChoice.IPTABLES and self.values.get("route_mode"):
            self.problems.append(_because(self.origins["route_mode"], "cannot be had with the iptables backend"))


def _because(at: Remark, reason: str) -> Remark:
    return msgspec.structs.replace(at, reason=reason)


def _option_value(kind: Kind, text: str | tuple[str, ...]) -> Any:
    """What a document would have. Raises ConfigError."""
    if isinstance(text, str):
        return kind.text(text.removeprefix("="))
    return [element for each in text for element in kind.text(each)]
