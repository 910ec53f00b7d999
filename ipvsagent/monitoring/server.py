"""The agent's HTTP servers, put together: which path of which address answers what.

The health address (for kubelet and load balancers) has /healthz and /livez; the metrics address (loopback by default)
has /metrics, /proxyMode, /configz and a /healthz of its own that only says that the process answers, as kube-proxy's do
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
KUBE_PROXY_PORTS = (10249, 10256)  # its metrics and its health; another agent has ended before this one listens


class Server:
    """backend: its name. families: those that are synced. tell: hands a message to the loop."""

    def __init__(
        self, config: Config, backend: str, families: Collection[Family], tell: Callable[[object], None]
    ) -> None:
        self._config = config
        self._backend = backend
        self._tell = tell
        self._listeners = Listeners(self._say_faults)
        self.health = Health(config.sync_period, families)
        self.metrics = Metrics(families, tell)
        self.services = ServiceHealth(self._listeners, self.health)

    def configure(self, config: Config) -> None:
        """What /configz shows from now on; addresses stay those of the start. Any thread may call this."""
        self._config = config

    def start(self) -> None:
        addresses: dict[Hashable, ListenAddress] = {}
        for key, text in (("health", self._config.healthz_address), ("metrics", self._config.metrics_address)):
            if text:
                addresses[key] = listen_address(text)
        self._listeners.want(_GROUP, addresses, self._answer)
        self._listeners.start()

    def close(self) -> None:
        """The addresses are free for the next agent when this returns."""
        self._listeners.close()

    def _say_faults(self, faults: Sequence[Fault]) -> None:
        for fault in faults:
            if self._config.bind_hard_fail and fault.group == _GROUP:
                self._tell(StartError(f"cannot listen on {fault.address}: {fault.why}", "See `ss -lntp` for who does"))
        self._tell(Findings("listeners", tuple(map(_finding, faults))))

    def _answer(self, key: Hashable, path: str, accept: str) -> Response:
        pages = {"health": ("/healthz", "/livez"), "metrics": ("/metrics", "/healthz", "/proxyMode", "/configz")}
        known = pages[str(key)]
        if path not in known:
            return Response(404, f"not here; there are {', '.join(known)}\n".encode())
        if key == "health":
            response = self.health.livez() if path == "/livez" else self.health.healthz()
            self.metrics.answered(path, response.status)
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
    """`0.0.0.0:10256` or `[::]:10256`, as the configuration has checked it."""
    host, _, port = address.rpartition(":")
    return ListenAddress(host.strip("[]"), int(port))


def _configuration(config: Config) -> bytes:
    shown = msgspec.structs.replace(config, master=without_userinfo(config.master))
    return msgspec.json.encode({"ipvsagent": shown}, enc_hook=_as_text)


def _as_text(value: Any) -> Any:
    return printable(str(value))
