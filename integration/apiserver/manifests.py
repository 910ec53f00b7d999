"""Objects from manifest files, as they are: no defaults, no checks. What a real API server would refuse comes through,
because clients must bear it from servers of other versions.

Reads the files by itself, not with the agent's code: what is expected must not come from what is tested.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from integration.apiserver.records import Thing
from integration.apiserver.resources import BY_KIND, NAMESPACES, Resource
from integration.apiserver.store import Store

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SYSTEM_NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")


def load(store: Store, paths: Iterable[Path]) -> int:
    """Files, and the .yaml, .yml and .json files of directories. Objects of unknown kinds are left out. The number of
    objects. Raises OSError, yaml.YAMLError."""
    count = 0
    for path in paths:
        files = (
            sorted(p for p in path.rglob("*") if p.suffix in (".yaml", ".yml", ".json")) if path.is_dir() else [path]
        )
        for file in files:
            for document in yaml.load_all(file.read_text(), _LOADER):
                for resource, thing in objects(document):
                    put(store, resource, thing)
                    count += 1
    return count


def put(store: Store, resource: Resource, thing: Thing) -> None:
    """Returns an object with its namespace filled in."""
    namespace = thing["metadata"].get("namespace")
    if namespace and store.get(NAMESPACES, namespace) is None:
        add_namespace(store, namespace)
    store.put(resource, thing)


def add_namespace(store: Store, name: str) -> None:
    metadata = {"name": name, "uid": f"namespace-{name}", "labels": {"kubernetes.io/metadata.name": name}}
    store.put(NAMESPACES, {"metadata": metadata, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})


def objects(document: Any) -> Iterator[tuple[Resource, Thing]]:
    """Of a document: one, or the items of a list. Namespaced ones without a namespace are in `default`."""
    if not isinstance(document, dict):
        return
    if isinstance(document.get("items"), list):
        kind = str(document.get("kind", "")).removesuffix("List")
        for item in document["items"]:
            named = {"apiVersion": document.get("apiVersion"), "kind": kind} if kind else {}
            yield from objects({**named, **item} if isinstance(item, dict) else item)
        return
    resource = BY_KIND.get((str(document.get("apiVersion")), str(document.get("kind"))))
    metadata = document.get("metadata")
    if resource is None or not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        return
    if resource.namespaced:
        metadata = {**metadata, "namespace": metadata.get("namespace") or "default"}
    yield resource, {**document, "metadata": metadata}
