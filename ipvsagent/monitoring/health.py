"""Whether this agent does its work, told to whoever asks over HTTP: kubelet, load balancers, monitoring.

The loop leaves a few facts here as it goes, each a single assignment, and answers are made from them alone, in another
thread: an agent that hangs must be able to say so. Two questions, as kube-proxy answers them
(pkg/proxy/healthcheck/proxy_health.go):

/livez    is the agent at work? Not if what is wanted has not been carried out for two sync periods, for whatever
          reason, nor if the loop has not come round for so long.
/healthz  the same, and should load balancers send traffic to this node? Not if its Node object was never seen, is
          being deleted, or the cluster autoscaler is about to remove it.

A single refused virtual server is not unhealthy: a restart would not cure it, and `status` names it.
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
    """kube-proxy's document, and why Services are not on IPVS. Times as RFC 3339 writes them; nodeEligible only where
    it was asked for."""

    lastUpdated: str
    currentTime: str
    healthy: bool
    status: dict[str, FamilyHealth]
    nodeEligible: bool | None = None
    fallback: tuple[str, ...] = ()


class Health:
    """sync_period: seconds. clock is monotonic, wall counts seconds since 1970."""

    def __init__(
        self,
        sync_period: float,
        families: Collection[Family],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._limit = SYNC_PERIODS * sync_period
        self._families = tuple(families)
        self._clock = clock
        self._wall = wall
        self._waiting_since: float | None = None
        self._turned_at: float | None = None
        self._updated = 0.0
        self._eligible = False
        self._fallback: tuple[str, ...] = ()

    # Said by the loop

    def heartbeat(self) -> None:
        """The loop has come round."""
        self._turned_at = self._clock()

    def mark_waiting(self) -> None:
        """Something is wanted that the kernel does not hold yet."""
        if self._waiting_since is None:
            self._waiting_since = self._clock()

    def mark_synced(self) -> None:
        """All that was wanted has been carried out."""
        self._waiting_since = None
        self._updated = self._wall()

    def set_node(self, node: Node | None) -> None:
        self._eligible = node is not None and not node.leaving

    def set_fallback(self, reasons: tuple[str, ...]) -> None:
        """What is missing, and the remedy; nothing, if nothing is."""
        self._fallback = reasons

    # Asked by others

    @property
    def updated(self) -> float:
        """When all that was wanted had been carried out for the last time; 0 = never."""
        return self._updated

    def alive(self) -> bool:
        now = self._clock()
        since = (self._waiting_since, self._turned_at)
        return all(moment is None or now - moment < self._limit for moment in since)

    def livez(self) -> Response:
        return self._response(self.alive(), None)

    def healthz(self) -> Response:
        eligible = self._eligible
        return self._response(self.alive() and eligible, eligible)

    def _response(self, good: bool, eligible: bool | None) -> Response:
        now = _timestamp(self._wall())
        alive = self.alive()
        updated = now if good else _timestamp(self._updated)
        body = Body(
            lastUpdated=updated,
            currentTime=now,
            healthy=good,
            status={family.value: FamilyHealth(updated, alive) for family in self._families},
            nodeEligible=eligible,
            fallback=self._fallback,
        )
        return Response(
            200 if good else 503,
            msgspec.json.encode(body) + b"\n",
            "application/json",
            (("X-Content-Type-Options", "nosniff"),),
        )


def _timestamp(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat().replace("+00:00", "Z")
