"""How requests to one Service port spread over its endpoints, and whether that is as it should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from integration.demo.cluster import ServicePort
from integration.lab import Namespace, Report, send_requests

PER_ENDPOINT = 10  # requests from each kind of client
UNEVEN = 0.10  # of the even share; one request more or less is always even


@dataclass(frozen=True)
class Spread:
    """reports: one for each kind of client, in the order in which they were given."""

    port: ServicePort
    reports: tuple[Report, ...]

    @property
    def total(self) -> Report:
        return sum(self.reports, Report(()))

    @property
    def share(self) -> float:
        """What each endpoint would get if all got the same."""
        return len(self.total.outcomes) / len(self.port.endpoints)

    @property
    def answers(self) -> list[int]:
        """Of each endpoint, in the order of the port's."""
        spread = self.total.spread
        return [spread[server.name] for server in self.port.endpoints]

    @property
    def is_even(self) -> bool:
        return max(abs(count - self.share) for count in self.answers) <= max(1.0, UNEVEN * self.share)

    @property
    def strangers(self) -> list[str]:
        """Who answered and is no endpoint of it."""
        return sorted(set(self.total.spread) - {server.name for server in self.port.endpoints})


def measure(port: ServicePort, clients: Sequence[Namespace]) -> Spread:
    """Asks its cluster IP, from one kind of client after the other."""
    count = PER_ENDPOINT * len(port.endpoints)
    return Spread(port, tuple(send_requests(client, port.cluster_ip, count) for client in clients))
