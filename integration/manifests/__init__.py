"""The manifests as kubectl would apply them: `manifests/` read as kustomize reads it, as far as it is used there.

`kubectl kustomize` is asked, too, where it is installed; a test holds the two against each other.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
VARIANTS = tuple(sorted(path.parent.name for path in MANIFESTS.glob("*/kustomization.yaml")))
_KNOWN = {"apiVersion", "kind", "resources", "patches"}

Object = dict[str, Any]


def rendered(directory: Path) -> list[Object]:
    """Returns the objects of a kustomization. Raises ValueError for anything that this reader does not support."""
    kustomization = _documents(directory / "kustomization.yaml")[0]
    unknown = kustomization.keys() - _KNOWN
    if unknown:
        raise ValueError(f"{directory}: cannot read {', '.join(sorted(unknown))}")
    objects: list[Object] = []
    for name in kustomization["resources"]:
        path = directory / name
        objects += rendered(path) if path.is_dir() else _documents(path)
    for patch in kustomization.get("patches", ()):
        for target in _targets(objects, patch["target"]):
            for operation in _documents(directory / patch["path"])[0]:
                _patch(target, operation)
    return objects


def _documents(path: Path) -> list[Any]:
    # Copied, because an alias in YAML is one object in two places, and a patch is for one place.
    return [copy.deepcopy(_unshared(document)) for document in yaml.safe_load_all(path.read_text()) if document]


def _unshared(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    return [_unshared(inner) for inner in value] if isinstance(value, list) else value


def _targets(objects: list[Object], target: dict[str, str]) -> Iterator[Object]:
    found = [o for o in objects if o["kind"] == target["kind"] and o["metadata"]["name"] == target["name"]]
    if not found:
        raise ValueError(f"a patch for {target}, which is not there")
    yield from found


def _patch(target: Any, operation: dict[str, Any]) -> None:
    """Applies one of the three supported operations of RFC 6902."""
    *way, last = operation["path"].lstrip("/").split("/")
    for step in way:
        target = target[int(step) if isinstance(target, list) else step.replace("~1", "/")]
    last = last.replace("~1", "/")
    verb = operation["op"]
    if isinstance(target, list) and last == "-" and verb == "add":
        target.append(operation["value"])
        return
    key: Any = int(last) if isinstance(target, list) else last
    if verb != "add" and isinstance(target, dict) and key not in target:
        raise ValueError(f"{operation['path']} is not there")
    if verb == "remove":
        del target[key]
    elif verb in ("add", "replace"):
        target[key] = operation["value"]
    else:
        raise ValueError(f"cannot {verb}")
