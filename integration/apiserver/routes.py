"""Parses the method and path of a request."""

from __future__ import annotations

from dataclasses import dataclass

from integration.apiserver.errors import ApiError, no_such_path
from integration.apiserver.resources import BY_PATH, NAMESPACES, Resource

_VERBS = {"GET": ("list", "get"), "PUT": ("", "update"), "PATCH": ("", "patch"), "POST": ("create", "")}
_DELETE = ("deletecollection", "delete")


@dataclass(frozen=True)
class Route:
    """verb: as RBAC names it. name: empty for all of a namespace, or of all namespaces."""

    verb: str
    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""


def route(method: str, path: str, *, watch: bool) -> Route:
    """Raises ApiError."""
    words = path.strip("/").split("/")
    if words[:2] == ["api", "v1"]:
        group, words = "", words[2:]
    elif words[0] == "apis" and len(words) > 2 and words[2] == "v1":
        group, words = words[1], words[3:]
    else:
        raise no_such_path()
    namespace = ""
    if words[:1] == ["namespaces"] and len(words) > 2 and words[2] not in ("status", "finalize"):
        namespace, words = words[1], words[2:]
    resource = BY_PATH.get((group, words[0] if words else ""))
    if resource is None or len(words) > 3 or (namespace and not resource.namespaced):
        raise no_such_path()
    name = words[1] if len(words) > 1 else ""
    subresource = words[2] if len(words) > 2 else ""
    if subresource not in ("", "status") or (subresource and not resource.has_status and resource is not NAMESPACES):
        raise no_such_path()
    if name and resource.namespaced and not namespace:
        raise no_such_path()
    of_all, of_one = _DELETE if method == "DELETE" else _VERBS.get(method, ("", ""))
    verb = of_one if name else of_all
    if not verb or (resource.namespaced and not namespace and verb not in ("list", "deletecollection")):
        raise ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    return Route("watch" if verb == "list" and watch else verb, resource, namespace, name, subresource)
