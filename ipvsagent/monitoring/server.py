"""Runs the agent's HTTP servers: defines which path of which address answers what.

The health address (for kubelet and load balancers) has /healthz and /livez; the metrics address (loopback by default)
has /metrics, /proxyMode, /configz and a /healthz of its own that only shows that the process answers, as in kube-proxy
(cmd/kube-proxy/app/server.go).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any

import msgspec

from ipvsagent.address import Family
from ipvsagent.api.credentials import without_userinfo
from ipvsagent.config import Config
from ipvsagent.errors import StartError
from ipvsagent.findings import Finding, FindingKind, Severity
from ipvsagent.kernel.host import STOP_KUBE_PROXY
from ipvsagent.monitoring.health import Health
from ipvsagent.monitoring.listeners import Fault, ListenAddress, Listeners, Response
from ipvsagent.monitoring.metrics import Metrics
from ipvsagent.monitoring.service_health import GROUP as SERVICES
from ipvsagent.monitoring.service_health import ServiceHealth
from ipvsagent.printable import printable
from ipvsagent.sources.inbox import Findings

_GROUP = "agent"
KUBE_PROXY_PORTS = (10249, 10256)  # metrics and health; another agent has ended before this one listens


class Server:
    """Listens on the health address and the metrics address, and for the health checks of Services."""

    def __init__(
        self, config: Config, backend: str, families: Collection[Family], send: Callable[[object], None]
    ) -> None:
        """backend: its name, for /proxyMode. families: those of the node. send: sends a message to the loop."""
        self._config = config
        self._backend = backend
        self._send = send
        self._listeners = Listeners(self._report_faults)
        self.health = Health(config.sync_period, families)
        self.metrics = Metrics(families, send)
        self.services = ServiceHealth(self._listeners, self.health)

    def configure(self, config: Config) -> None:
        """Set what /configz shows; listen addresses do not change. Any thread may call this."""
        self._config = config

    def start(self) -> None:
        addresses: dict[Hashable, ListenAddress] = {}
        for key, text in (("health", self._config.healthz_address), ("metrics", self._config.metrics_address)):
            if text:
                addresses[key] = listen_address(text)
        self._listeners.want(_GROUP, addresses, self._answer)
        self._listeners.start()

    def close(self) -> None:
        """Stop listening. The addresses are free for the next agent when this returns."""
        self._listeners.close()

    def _report_faults(self, faults: Sequence[Fault]) -> None:
        for fault in faults:
            if self._config.bind_hard_fail and fault.group == _GROUP:
                self._send(
                    StartError(
                        f"cannot listen on {fault.address}: {fault.why}", "Run `ss -lntp` to find the process that does"
                    )
                )
        self._send(Findings("listeners", tuple(map(_finding, faults))))

    def _answer(self, key: Hashable, path: str, accept: str) -> Response:
        pages = {"health": ("/healthz", "/livez"), "metrics": ("/metrics", "/healthz", "/proxyMode", "/configz")}
        known = pages[str(key)]
        if path not in known:
            return Response(404, f"no such path; there are {', '.join(known)}\n".encode())
        if key == "health":
            response = self.health.livez() if path == "/livez" else self.health.healthz()
            self.metrics.record_answer(path, response.status)
            return response
        if path == "/metrics":
            body, content_type = self.metrics.exposition(accept)
            return Response(200, body, content_type)
        if path == "/proxyMode":
            return Response(200, self._backend.encode())
        if path == "/configz":
            return Response(200, _configuration(self._config) + b"\n", "application/json")
        return Response(200, b"ok")


def _finding(fault: Fault) -> Finding:
    if fault.group == SERVICES and isinstance(fault.key, tuple):
        reason = f"load balancers cannot check its health on {fault.address}: {fault.why}; tried again every 5 s"
        return Finding(FindingKind.HOST, f"Service {fault.key[0]}", reason, "spec.healthCheckNodePort")
    reason = f"cannot listen there: {fault.why}; tried again every 5 s"
    if fault.in_use and fault.address.port in KUBE_PROXY_PORTS:
        reason += f". Most likely kube-proxy runs on this node and undoes the work of this agent. {STOP_KUBE_PROXY}"
        return Finding(FindingKind.HOST, str(fault.address), reason, severity=Severity.ERROR)
    return Finding(FindingKind.HOST, str(fault.address), reason)


def listen_address(address: str) -> ListenAddress:
    """Parse `0.0.0.0:10256` or `[::]:10256`, which the configuration has validated."""
    host, _, port = address.rpartition(":")
    return ListenAddress(host.strip("[]"), int(port))


def _configuration(config: Config) -> bytes:
    shown = msgspec.structs.replace(config, master=without_userinfo(config.master))
    return msgspec.json.encode({"ipvsagent": shown}, enc_hook=_as_text)


def _as_text(value: Any) -> Any:
    return printable(str(value))
