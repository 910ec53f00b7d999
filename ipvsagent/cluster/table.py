"""Keeps every Kubernetes object that the agent knows, and finds which Services a change makes dirty.

It joins slices to Services by name. Which endpoints serve and which Services are served is for policy/, and so is the
effect of a changed Node: `nodes_revision` counts such changes. The cost of `apply` follows the objects in the message.
"""

from __future__ import annotations

from collections.abc import Iterable

from ipvsagent.address import Address
from ipvsagent.cluster.objects import (
    EVERYTHING_KNOWN,
    BlindSpots,
    Changes,
    EndpointSlice,
    Node,
    Object,
    ObjectKey,
    Service,
    ServiceKey,
)


class ServiceTable:
    """Holds objects by key. `blind` and `synced` are as the source last reported them."""

    def __init__(self) -> None:
        self.services: dict[ServiceKey, Service] = {}
        self.nodes: dict[str, Node] = {}
        self.nodes_revision = 0
        self.synced = False
        self.blind: BlindSpots = EVERYTHING_KNOWN
        self._slices: dict[ServiceKey, dict[str, EndpointSlice]] = {}
        self._service_of_slice: dict[tuple[str, str], ServiceKey] = {}
        self._cluster_ips: dict[Address, int] = {}
        self._listed_by: dict[Address, ServiceKey | dict[ServiceKey, int]] = {}

    def apply(self, changes: Changes) -> set[ServiceKey]:
        """Apply changes, and return the Services that they may affect. Equal objects make nothing dirty."""
        dirty: set[ServiceKey] = set()
        for item in changes.upserts:
            self._put(item.key, item, dirty)
        for key in changes.removals:
            self._put(key, None, dirty)
        self.synced = self.synced or changes.synced
        if changes.blind is not None:
            self.blind = changes.blind
        return dirty

    def slices_of(self, key: ServiceKey) -> list[EndpointSlice]:
        """Return a Service's slices in order of name, so that the endpoints chosen do not depend on the order of
        arrival."""
        slices = self._slices.get(key)
        if slices is None:
            return []
        return [slices[name] for name in sorted(slices)] if len(slices) > 1 else list(slices.values())

    def is_cluster_ip(self, address: Address) -> bool:
        return address in self._cluster_ips

    def slice_count(self) -> int:
        return len(self._service_of_slice)

    def _put(self, key: ObjectKey, new: Object | None, dirty: set[ServiceKey]) -> None:
        if key.kind == "Service":
            self._put_service(ServiceKey(key.namespace, key.name), new, dirty)
        elif key.kind == "EndpointSlice":
            self._put_slice(key, new, dirty)
        elif key.kind == "Node":
            self._put_node(key.name, new)

    def _put_service(self, key: ServiceKey, new: Object | None, dirty: set[ServiceKey]) -> None:
        assert new is None or isinstance(new, Service)
        old = self.services.get(key)
        if old == new:
            return
        if new is None:
            del self.services[key]
        else:
            self.services[key] = new
        dirty.add(key)
        before, after = _served_ips(old), _served_ips(new)
        for address in after:
            if address not in before:
                self._cluster_ips[address] = self._cluster_ips.get(address, 0) + 1
                if self._cluster_ips[address] == 1:
                    dirty.update(self._users(address))
        for address in before:
            if address not in after:
                self._cluster_ips[address] -= 1
                if not self._cluster_ips[address]:
                    del self._cluster_ips[address]
                    dirty.update(self._users(address))

    def _put_slice(self, key: ObjectKey, new: Object | None, dirty: set[ServiceKey]) -> None:
        assert new is None or isinstance(new, EndpointSlice)
        place = (key.namespace, key.name)
        owner = self._service_of_slice.pop(place, None)
        old = self._slices[owner][key.name] if owner else None
        service = ServiceKey(key.namespace, new.service) if new and new.service else None
        if service:
            self._service_of_slice[place] = service
        if old == new and owner == service:
            return
        if owner and owner != service:
            del self._slices[owner][key.name]
            if not self._slices[owner]:
                del self._slices[owner]
        if service and new:
            self._slices.setdefault(service, {})[key.name] = new
        for affected in (owner, service):
            if affected:
                dirty.add(affected)
        before = {e.address for e in old.endpoints} if old else set()
        after = {e.address for e in new.endpoints} if new and service else set()
        if owner == service:
            before, after = before - after, after - before
        for address in before:
            assert owner
            self._unlist(address, owner)
        for address in after:
            assert service
            self._list(address, service)

    def _put_node(self, name: str, new: Object | None) -> None:
        assert new is None or isinstance(new, Node)
        if self.nodes.get(name) == new:
            return
        if new is None:
            del self.nodes[name]
        else:
            self.nodes[name] = new
        self.nodes_revision += 1

    # Which Services list an address. Nearly always it is one slice of one Service, whose key is then the whole value.

    def _list(self, address: Address, service: ServiceKey) -> None:
        users = self._listed_by.get(address)
        if users is None:
            self._listed_by[address] = service
        elif isinstance(users, dict):
            users[service] = users.get(service, 0) + 1
        else:
            counts = {users: 1}
            counts[service] = counts.get(service, 0) + 1
            self._listed_by[address] = counts

    def _unlist(self, address: Address, service: ServiceKey) -> None:
        users = self._listed_by[address]
        if not isinstance(users, dict):
            del self._listed_by[address]
            return
        users[service] -= 1
        if not users[service]:
            del users[service]
        if not users:
            del self._listed_by[address]

    def _users(self, address: Address) -> Iterable[ServiceKey]:
        users = self._listed_by.get(address, ())
        return (users,) if isinstance(users, ServiceKey) else users


def _served_ips(service: Service | None) -> tuple[Address, ...]:
    return service.cluster_ips if service and not service.headless else ()
