"""Labs for tests, and places on an API server.

Labs need root, not ip_vs: without root they fail and say so, for a skip would look like a pass."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from integration.lab import Lab, Machine, Pod, Server, Servers, Topology
from tests.support.api_place import kubeconfig, place  # noqa: F401

NOT_ROOT = "network namespaces need root: run these tests as root (`sudo make test-native`)"


def pods(node: int, count: int) -> tuple[Pod, ...]:
    return tuple(
        Pod(f"pod-{node}-{i}", (f"10.244.{node}.{i}", f"fd00:10:244:{node}::{i}")) for i in range(1, count + 1)
    )


def machine(number: int, pod_count: int) -> Machine:
    addresses = (f"192.168.56.1{number}", f"fd00:192:168:56::1{number}")
    return Machine(f"node-{number}", addresses, pods(number, pod_count))


TOPOLOGY = Topology(machine(1, 2), (machine(2, 2), machine(3, 1)))


def servers_of(topology: Topology, port: int = 8080) -> list[Server]:
    """TCP and UDP at every address of every pod."""
    return [
        Server(pod.name, address, port, protocol)
        for each in topology.machines
        for pod in each.pods
        for address in pod.addresses
        for protocol in ("TCP", "UDP")
    ]


@pytest.fixture(scope="session")
def root() -> None:
    if os.geteuid() != 0:
        pytest.fail(NOT_ROOT, pytrace=False)


@pytest.fixture
def servers() -> Iterator[Servers]:
    with Servers() as running:
        yield running


@pytest.fixture
def lab(root: None) -> Iterator[Lab]:
    with Lab(TOPOLOGY) as built:
        yield built
