"""Answers over HTTP whether this agent works: for kubelet, load balancers and monitoring.

The loop records a few facts, each with a single assignment, and answers are made from them alone, in another thread:
an agent that hangs must be able to report it. There are two questions, answered as kube-proxy does
(pkg/proxy/healthcheck/proxy_health.go):

/livez    Does the agent work? No if a desired change has been waiting for two sync periods, for whatever reason, or if
          the loop has not turned for that long.
/healthz  Does it work, and should load balancers send traffic to this node? No if its Node object is unknown, is
          being deleted, or is about to be removed by the cluster autoscaler.

A single refused virtual server does not make the agent unhealthy: a restart would not help, and `status` names it.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Collection

import msgspec
from msgspec import Struct

from ipvsagent.address import Family
from ipvsagent.cluster.objects import Node
from ipvsagent.monitoring.listeners import Response

SYNC_PERIODS = 2


class FamilyHealth(Struct, frozen=True):
    lastUpdated: str
    healthy: bool


class Body(Struct, frozen=True, omit_defaults=True):
    """Defines the document that kube-proxy answers with, and adds `fallback`. Times are in the format of RFC 3339."""

    lastUpdated: str
    currentTime: str
    healthy: bool
    status: dict[str, FamilyHealth]
    nodeEligible: bool | None = None
    """Answers of /livez omit it."""
    fallback: tuple[str, ...] = ()
    """Why Services are not on IPVS."""


class Health:
    """Records facts that the loop reports, and answers from them in any thread."""

    def __init__(
        self,
        sync_period: float,
        families: Collection[Family],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """sync_period is in seconds; `clock` is monotonic, `wall` returns seconds since 1970."""
        self._limit = SYNC_PERIODS * sync_period
        self._families = tuple(families)
        self._clock = clock
        self._wall = wall
        self._waiting_since: float | None = None
        self._last_turn: float | None = None
        self._updated = 0.0
        self._eligible = False
        self._fallback: tuple[str, ...] = ()

    # Called by the loop

    def heartbeat(self) -> None:
        """Record that the loop has begun a turn."""
        self._last_turn = self._clock()

    def mark_waiting(self) -> None:
        """Record that the kernel does not hold everything that is desired yet."""
        if self._waiting_since is None:
            self._waiting_since = self._clock()

    def mark_synced(self) -> None:
        """Record that everything desired has been written."""
        self._waiting_since = None
        self._updated = self._wall()

    def set_node(self, node: Node | None) -> None:
        self._eligible = node is not None and not node.leaving

    def set_fallback(self, reasons: tuple[str, ...]) -> None:
        """Set what IPVS lacks here and how to remedy it; empty if Services are on IPVS."""
        self._fallback = reasons

    # Called by any thread

    @property
    def updated(self) -> float:
        """Return when everything desired was last in the kernel; 0 = never."""
        return self._updated

    def alive(self) -> bool:
        now = self._clock()
        since = (self._waiting_since, self._last_turn)
        return all(moment is None or now - moment < self._limit for moment in since)

    def livez(self) -> Response:
        return self._response(self.alive(), None)

    def healthz(self) -> Response:
        eligible = self._eligible
        return self._response(self.alive() and eligible, eligible)

    def _response(self, healthy: bool, eligible: bool | None) -> Response:
        now = _timestamp(self._wall())
        alive = self.alive()
        updated = now if healthy else _timestamp(self._updated)
        body = Body(
            lastUpdated=updated,
            currentTime=now,
            healthy=healthy,
            status={family.value: FamilyHealth(updated, alive) for family in self._families},
            nodeEligible=eligible,
            fallback=self._fallback,
        )
        return Response(
            200 if healthy else 503,
            msgspec.json.encode(body) + b"\n",
            "application/json",
            (("X-Content-Type-Options", "nosniff"),),
        )


def _timestamp(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat().replace("+00:00", "Z")
