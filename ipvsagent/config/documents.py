"""Reads configuration files: which documents they have, and which fields those set.

A file contains KubeProxyConfiguration and IPVSAgentConfiguration documents, YAML or JSON, or a ConfigMap with such
files, as `kubectl -n kube-system get configmap kube-proxy -o yaml` prints it.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping

import yaml
from msgspec import Struct

from ipvsagent.config.remarks import Remark
from ipvsagent.config.schema import Document
from ipvsagent.yaml_documents import yaml_documents


class Written(Struct, frozen=True):
    """Holds a document in a file, without apiVersion and kind."""

    document: Document
    file: str
    fields: dict[str, object]

    def remark(self, reason: str, path: str = "") -> Remark:
        return Remark(reason, path, self.document.kind, self.file)


def documents_in(file: str, content: bytes) -> tuple[list[Written], list[Remark]]:
    """Return the documents of a file, and what is wrong with the file as a whole."""
    try:
        found = list(yaml_documents(content))
    except yaml.YAMLError as error:
        return [], [Remark(f"is not YAML: {' '.join(str(error).split())}", file=file)]
    except RecursionError:
        return [], [Remark("is nested too deeply", file=file)]
    if not found:
        return [], [Remark("is empty: a KubeProxyConfiguration or an IPVSAgentConfiguration is expected", file=file)]
    written: list[Written] = []
    problems: list[Remark] = []
    for document in found:
        more, wrong = _documents(file, document)
        written += more
        problems += wrong
    return written, problems


def _documents(file: str, document: object) -> tuple[list[Written], list[Remark]]:
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        return [], [Remark("has a document that is not a mapping with apiVersion and kind", file=file)]
    if document.get("kind") == "ConfigMap" and document.get("apiVersion") == "v1":
        return _in_config_map(file, document)
    for known in Document:
        if document.get("kind") == known.kind:
            if document.get("apiVersion") != known.api_version:
                reason = f"is {document.get('apiVersion')!r}; only {known.api_version} is supported"
                return [], [Remark(reason, "apiVersion", known.kind, file)]
            fields = {key: value for key, value in document.items() if key not in ("apiVersion", "kind")}
            return [Written(known, file, fields)], []
    kinds = " or ".join(known.kind for known in Document)
    if "kind" not in document:
        return [], [Remark(f"has a document without a kind; it must be {kinds}", file=file)]
    return [], [Remark(f"has a document of kind {document['kind']!r}; it must be {kinds}", file=file)]


def _in_config_map(file: str, config_map: Mapping[str, object]) -> tuple[list[Written], list[Remark]]:
    """Return the documents in a ConfigMap. Its other entries, such as kubeadm's kubeconfig, are ignored."""
    data = config_map.get("data")
    found: list[Written] = []
    problems: list[Remark] = []
    for name, text in data.items() if isinstance(data, dict) else ():
        if isinstance(text, str) and any(known.kind in text for known in Document):
            more, wrong = documents_in(f"{file}[{name}]", text.encode())
            found += more
            problems += wrong
    if not found and not problems:
        kinds = " or ".join(known.kind for known in Document)
        problems.append(Remark(f"no entry has a {kinds}", "data", "ConfigMap", file))
    return found, problems


class Unknown(Struct, frozen=True):
    """Reports a field that the kind does not have."""

    path: str
    instead: str
    """The known field with the most similar path, or ""."""


class NoMapping(Struct, frozen=True):
    """Reports a field that must be a mapping, but has another value."""

    path: str


class Value(Struct, frozen=True):
    """Holds a field with its value."""

    path: str
    value: object


def values_in(fields: Mapping[str, object], known: Collection[str]) -> Iterator[Value | Unknown | NoMapping]:
    """Yield the fields that a document sets; null counts as not set. known: the paths of all fields of its kind."""
    branches = {path.rsplit(".", depth)[0] for path in known for depth in range(1, path.count(".") + 1)}
    return _values(fields, "", known, branches)


def _values(
    fields: Mapping[str, object], prefix: str, known: Collection[str], branches: set[str]
) -> Iterator[Value | Unknown | NoMapping]:
    for key, value in fields.items():
        path = f"{prefix}{key}"
        if path in known:
            if value is not None:
                yield Value(path, value)
        elif path not in branches:
            alike = difflib.get_close_matches(path.lower(), [each.lower() for each in known], 1, 0.75)
            yield Unknown(path, next((each for each in known if each.lower() in alike), ""))
        elif isinstance(value, dict):
            yield from _values(value, f"{path}.", known, branches)
        elif value is not None:
            yield NoMapping(path)
