"""Decides which virtual server each id gets when several Services claim it.

The oldest Service wins: by creation time, then namespace and name; one without a creation time comes after all that
have one. kube-proxy does not notice such conflicts, and the winner changes at random. The rank is part of the claim: a
Service that is deleted and created again under its old name between two rounds loses its seniority.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from msgspec import Struct

from ipvsagent.cluster.objects import Service, ServiceKey
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.model import VirtualServer, VirtualServerId

Rank = tuple[float, str, str]


def rank_of(service: Service) -> Rank:
    """Return the rank of a Service's claims; the lowest wins."""
    created = float("inf") if service.created is None else float(service.created)
    return (created, service.namespace, service.name)


class Claim(Struct, frozen=True, gc=False):
    """Holds a virtual server that a Service asks for, with the rank of that Service."""

    rank: Rank
    server: VirtualServer


class Replaced(NamedTuple):
    """Holds what a call of `DesiredState.replace` changed."""

    changed: set[VirtualServerId]
    """Ids whose winner has another value now."""
    affected: set[ServiceKey]
    """Services that share an id with the claims that changed, so that what they win may differ."""
    passed: set[ServiceKey]
    """Other Services that an id has passed to, or from."""


class DesiredState:
    """Holds the claims of all Services, and the winner of each id."""

    def __init__(self) -> None:
        self._claims: dict[VirtualServerId, tuple[Claim, ...]] = {}
        self._ids: dict[ServiceKey, tuple[VirtualServerId, ...]] = {}

    def get(self, server_id: VirtualServerId) -> VirtualServer | None:
        claims = self._claims.get(server_id)
        return claims[0].server if claims else None

    def __iter__(self) -> Iterator[VirtualServerId]:
        return iter(self._claims)

    def __len__(self) -> int:
        return len(self._claims)

    def ids_of(self, key: ServiceKey) -> tuple[VirtualServerId, ...]:
        """Return the ids that the Service claims, whether it won them or not."""
        return self._ids.get(key, ())

    def would_win(self, key: ServiceKey, rank: Rank, server_id: VirtualServerId) -> bool:
        """Return whether a claim of this Service would win over those of all others."""
        return all(rank < claim.rank for claim in self._claims.get(server_id, ()) if _claimant(claim) != key)

    def replace(self, key: ServiceKey, rank: Rank, servers: Iterable[VirtualServer]) -> Replaced:
        """Replace all claims of a Service; no servers if it is gone."""
        new = {server.id: Claim(rank, server) for server in servers}
        changed: set[VirtualServerId] = set()
        affected: set[ServiceKey] = set()
        passed: set[ServiceKey] = set()
        for server_id in dict.fromkeys((*self._ids.get(key, ()), *new)):
            before = self._claims.get(server_id, ())
            claim = new.get(server_id)
            others = []
            for held in before:
                if _claimant(held) != key:
                    others.append(held)
                elif claim and held.server == claim.server:
                    claim = Claim(rank, held.server)  # one object per value, or a resync would double the memory
            after = tuple(sorted([*others, claim] if claim else others, key=lambda c: c.rank))
            if after:
                self._claims[server_id] = after
            else:
                self._claims.pop(server_id, None)
            if not before or not after or before[0].server != after[0].server:
                changed.add(server_id)
            if others:
                affected.update(_claimant(c) for c in after)
                winners = {_claimant(claims[0]) for claims in (before, after) if claims}
                if len(winners) == 2:
                    passed |= winners - {key}
        if new:
            self._ids[key] = tuple(new)
        else:
            self._ids.pop(key, None)
        return Replaced(changed, affected, passed)

    def shadowed(self, key: ServiceKey) -> list[Finding]:
        """Return a finding for each claim of this Service that an older one has won."""
        findings = []
        for server_id in self._ids.get(key, ()):
            winner = self._claims[server_id][0].server
            if (winner.service.namespace, winner.service.service) != key:
                findings.append(
                    Finding(
                        FindingKind.SHADOWED_BY_SERVICE,
                        f"Service {key}",
                        f"{server_id} belongs to the older Service {winner.service.namespace}/{winner.service.service}",
                    )
                )
        return findings


def _claimant(claim: Claim) -> ServiceKey:
    return ServiceKey(claim.server.service.namespace, claim.server.service.service)
