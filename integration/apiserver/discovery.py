"""Answers discovery: kubectl asks before everything else, client libraries now and then."""

from __future__ import annotations

from typing import Any

from integration.apiserver.resources import RESOURCES, Resource

_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_GROUPS = sorted({resource.group for resource in RESOURCES if resource.group})
VERSION = {
    "major": "1",
    "minor": "34",
    "gitVersion": "v1.34.0",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "2025-08-27T10:09:04Z",
    "goVersion": "go1.24.6",
    "compiler": "gc",
    "platform": "linux/amd64",
}
_PATHS = {"": "/api/v1", **{name: f"/apis/{name}/v1" for name in _GROUPS}}
HEALTH = ("/healthz", "/livez", "/readyz")


def discovery(path: str) -> dict[str, Any] | None:
    """Returns the document at a path, None if there is none."""
    documents: dict[str, dict[str, Any]] = {
        "/api": {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name) for name in _GROUPS]},
        "/api/v1": _resource_list("", "v1"),
        "/version": VERSION,
        "/openapi/v3": {"paths": {path[1:]: {"serverRelativeURL": f"/openapi/v3{path}"} for path in _PATHS.values()}},
    }
    for name, where in _PATHS.items():
        documents[f"/openapi/v3{where}"] = _schema(name, where)
    for name in _GROUPS:
        documents[f"/apis/{name}"] = {"kind": "APIGroup", "apiVersion": "v1", **_group(name)}
        documents[f"/apis/{name}/v1"] = _resource_list(name, f"{name}/v1")
    return documents.get(path)


def _schema(group: str, path: str) -> dict[str, Any]:
    """Declares fieldValidation for PATCH, by which kubectl knows that it need not check objects itself."""
    paths = {}
    for resource in RESOURCES:
        if resource.group == group:
            kind = {"group": group, "version": "v1", "kind": resource.kind}
            parameters = [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}]
            where = f"{path}/namespaces/{{namespace}}" if resource.namespaced else path
            patch = {"x-kubernetes-action": "patch", "x-kubernetes-group-version-kind": kind, "parameters": parameters}
            paths[f"{where}/{resource.plural}/{{name}}"] = {"patch": patch}
    info = {"title": "Kubernetes", "version": "v1.34.0"}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": {}}}


def _group(name: str) -> dict[str, Any]:
    version = {"groupVersion": f"{name}/v1", "version": "v1"}
    return {"name": name, "versions": [version], "preferredVersion": version}


def _resource_list(group: str, version: str) -> dict[str, Any]:
    entries = []
    for resource in RESOURCES:
        if resource.group == group:
            entries.append(_entry(resource, resource.plural, _VERBS))
            if resource.has_status:
                entries.append(_entry(resource, f"{resource.plural}/status", ["get", "patch", "update"]))
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": entries}


def _entry(resource: Resource, name: str, verbs: list[str]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": name,
        "singularName": "" if "/" in name else resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": verbs,
    }
    if resource.short_names and "/" not in name:
        entry["shortNames"] = list(resource.short_names)
    return entry
