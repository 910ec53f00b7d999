"""Measures how requests to a Service port spread over its endpoints, and judges the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import JustifyMethod
from rich.text import Text

from integration.demo.cluster import ServicePort
from integration.lab import Namespace, Report, send_requests

PER_ENDPOINT = 10  # requests from each kind of client
UNEVEN = 0.10  # of the even share; one request more or less is always even
# Where endpoints are chosen at random: more requests, so that chance averages out, and less than one of a million fair
# choices is more standard deviations from its mean.
PER_ENDPOINT_AT_RANDOM = 40
DEVIATIONS = 5.0
COLUMNS: list[tuple[str, JustifyMethod]] = [
    ("Service", "left"),
    ("cluster IP", "left"),
    ("pod", "right"),
    ("node", "right"),
    ("outside", "right"),
    ("each endpoint", "left"),
]


@dataclass(frozen=True)
class Spread:
    """reports: one for each kind of client, in the order in which they were given. at_random: how endpoints are
    chosen."""

    port: ServicePort
    reports: tuple[Report, ...]
    at_random: bool = False

    @property
    def total(self) -> Report:
        return sum(self.reports, Report(()))

    @property
    def share(self) -> float:
        """The share of an endpoint if all got the same."""
        return len(self.total.outcomes) / len(self.port.endpoints)

    @property
    def answers(self) -> list[int]:
        """The requests of each endpoint, in the order of the port's endpoints."""
        spread = self.total.spread
        return [spread[server.name] for server in self.port.endpoints]

    @property
    def is_even(self) -> bool:
        """Whether the spread is as even as can be expected."""
        if self.at_random:
            limit = DEVIATIONS * math.sqrt(self.share * (1 - 1 / len(self.port.endpoints)))
        else:
            limit = UNEVEN * self.share
        return max(abs(count - self.share) for count in self.answers) <= max(1.0, limit)

    @property
    def strangers(self) -> list[str]:
        """The servers that answered and are not endpoints of the port."""
        return sorted(set(self.total.spread) - {server.name for server in self.port.endpoints})


def measure(port: ServicePort, clients: Sequence[Namespace], *, at_random: bool = False) -> Spread:
    """Sends requests to the cluster IP from one kind of client after the other."""
    count = per_endpoint(at_random) * len(port.endpoints)
    reports = tuple(send_requests(client, port.cluster_ip, count) for client in clients)
    return Spread(port, reports, at_random)


def per_endpoint(at_random: bool) -> int:
    """How many requests `measure` sends for each endpoint, from each kind of client."""
    return PER_ENDPOINT_AT_RANDOM if at_random else PER_ENDPOINT


def give(at_random: bool) -> str:
    """Describes how far from its share an endpoint may be."""
    return f"within {DEVIATIONS:.0f} standard deviations" if at_random else f"give or take {UNEVEN:.0%}"


def row(spread: Spread) -> list[str | Text]:
    """Returns a row of a table with COLUMNS."""
    answers = " ".join(f"{count:3}" for count in spread.answers)
    return [
        spread.port.short_name,
        spread.port.cluster_ip.authority,
        *(Text(str(len(report.answered)), "bold red" if report.lost else "") for report in spread.reports),
        Text(answers, "" if spread.is_even else "bold red"),
    ]
