"""The resources that are served."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resource:
    """empty: what the API server sends in a bookmark beside metadata, where Go's zero values are not left out.

    fields: field selectors beyond metadata.name and metadata.namespace. returns_deleted: DELETE answers with the
    object instead of a Status. created_by_update: PUT of an unknown name creates it.
    """

    group: str
    plural: str
    kind: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    empty: str = ""
    fields: frozenset[str] = frozenset()
    has_status: bool = False
    returns_deleted: bool = False
    created_by_update: bool = False

    version = "v1"

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def singular(self) -> str:
        return self.kind.lower()


_EVENT_FIELDS = frozenset(
    [f"involvedObject.{name}" for name in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion")]
    + ["involvedObject.fieldPath", "reason", "reportingComponent", "source", "type"]
)

SERVICES = Resource(
    "",
    "services",
    "Service",
    short_names=("svc",),
    empty='"spec":{},"status":{"loadBalancer":{}}',
    fields=frozenset({"spec.clusterIP", "spec.type"}),
    has_status=True,
    returns_deleted=True,
    created_by_update=True,
)
ENDPOINT_SLICES = Resource(
    "discovery.k8s.io", "endpointslices", "EndpointSlice", empty='"addressType":"","endpoints":null,"ports":null'
)
NODES = Resource(
    "",
    "nodes",
    "Node",
    namespaced=False,
    short_names=("no",),
    empty='"spec":{},"status":{"daemonEndpoints":{"kubeletEndpoint":{"Port":0}},"nodeInfo":{}}',
    fields=frozenset({"spec.unschedulable"}),
    has_status=True,
)
NAMESPACES = Resource(
    "",
    "namespaces",
    "Namespace",
    namespaced=False,
    short_names=("ns",),
    empty='"spec":{},"status":{}',
    fields=frozenset({"status.phase"}),
    has_status=True,
)
EVENTS = Resource("", "events", "Event", short_names=("ev",), fields=_EVENT_FIELDS, created_by_update=True)
NEW_EVENTS = Resource("events.k8s.io", "events", "Event", short_names=("ev",), created_by_update=True)
LEASES = Resource("coordination.k8s.io", "leases", "Lease", empty='"spec":{}', created_by_update=True)
PODS = Resource(
    "",
    "pods",
    "Pod",
    short_names=("po",),
    empty='"spec":{"containers":null},"status":{}',
    fields=frozenset({"spec.nodeName", "status.phase"}),
    has_status=True,
    returns_deleted=True,
)
CONFIG_MAPS = Resource("", "configmaps", "ConfigMap", short_names=("cm",), created_by_update=True)

RESOURCES = (
    SERVICES,
    ENDPOINT_SLICES,
    NODES,
    NAMESPACES,
    EVENTS,
    NEW_EVENTS,
    LEASES,
    PODS,
    CONFIG_MAPS,
)
BY_PATH = {(resource.group, resource.plural): resource for resource in RESOURCES}
BY_KIND = {(resource.api_version, resource.kind): resource for resource in RESOURCES}
