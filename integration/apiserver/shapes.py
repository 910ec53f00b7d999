"""Which JSON type a field must have: what no object of its kind can be read from is refused before all else.

Only fields that the rest of the double looks at.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from integration.apiserver.errors import bad_request
from integration.apiserver.records import Thing
from integration.apiserver.resources import ENDPOINT_SLICES, NEW_EVENTS, SERVICES, Resource


class _Metadata(Struct):
    name: str | None = None
    generateName: str | None = None
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    finalizers: list[str] | None = None


class _Any(Struct):
    metadata: _Metadata | None = None


class _Port(Struct):
    name: str | None = None
    protocol: str | None = None
    port: int | None = None
    nodePort: int | None = None


class _ServiceSpec(Struct):
    type: str | None = None
    clusterIP: str | None = None
    clusterIPs: list[str] | None = None
    ipFamilies: list[str] | None = None
    ports: list[_Port] | None = None


class _Service(_Any):
    spec: _ServiceSpec | None = None


class _Slice(_Any):
    endpoints: list[dict[str, Any]] | None = None
    ports: list[_Port] | None = None


class _Series(Struct):
    count: int | None = None


class _Event(_Any):
    regarding: dict[str, Any] | None = None
    series: _Series | None = None


_SHAPES: dict[Resource, type[_Any]] = {SERVICES: _Service, ENDPOINT_SLICES: _Slice, NEW_EVENTS: _Event}


def check_shape(resource: Resource, thing: Thing) -> None:
    """Raises ApiError (400)."""
    try:
        msgspec.convert(thing, _SHAPES.get(resource, _Any))
    except msgspec.ValidationError as error:
        text = f'{resource.kind} in version "{resource.api_version}" cannot be handled as a {resource.kind}: {error}'
        raise bad_request(text) from None
