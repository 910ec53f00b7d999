"""Answers the health checks of Services, one listener for each Service and family, as kube-proxy does
(pkg/proxy/healthcheck/service_health.go): 200 if the Service has a ready endpoint on this node and the agent
works, 503 otherwise, whatever the path. A Node that is being deleted keeps answering, as it may still get connections.

A load balancer address may be bound later than its Service is known here; the listener works once it is.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import msgspec

from ipvsagent.address import Address, Family, family_of
from ipvsagent.cluster.objects import ServiceKey
from ipvsagent.monitoring.health import Health
from ipvsagent.monitoring.listeners import ListenAddress, Listeners, Response
from ipvsagent.policy.health_checks import HealthCheck

GROUP = "Service"
_EVERY = {Family.IPV4: Address("0.0.0.0"), Family.IPV6: Address("::")}


class ServiceHealth:
    """Listens on the health check node ports of Services."""

    def __init__(self, listeners: Listeners, health: Health) -> None:
        self._listeners = listeners
        self._health = health
        self._checks: Mapping[ServiceKey, HealthCheck] = {}

    def serve(self, checks: Mapping[ServiceKey, HealthCheck], addresses: Sequence[Address] | None) -> None:
        """Serve these checks and no others from now on.

        addresses: where node ports are served; None = everywhere, which includes load balancer addresses.
        """
        self._checks = checks
        listen_addresses: dict[Hashable, ListenAddress] = {}
        for key, check in checks.items():
            every = [_EVERY[family] for family in check.local_endpoints]
            for address in every if addresses is None else check.answers_on(addresses):
                listen = ListenAddress(address, check.port, only_family=True, may_appear=address in check.addresses)
                listen_addresses[key, family_of(address), address] = listen
        self._listeners.want(GROUP, listen_addresses, self._answer)

    def _answer(self, key: Hashable, path: str, accept: str) -> Response:
        assert isinstance(key, tuple)
        service, family, _ = key
        check = self._checks.get(service)
        count = check.local_endpoints.get(family, 0) if check else 0
        healthy = self._health.alive()
        body = {
            "service": {"namespace": service.namespace, "name": service.name},
            "localEndpoints": count,
            "serviceProxyHealthy": healthy,
        }
        return Response(
            200 if count and healthy else 503,
            msgspec.json.encode(body) + b"\n",
            "application/json",
            (("X-Content-Type-Options", "nosniff"), ("X-Load-Balancing-Endpoint-Weight", str(count))),
        )
