"""Describes the lab that tests build: its topology, and servers at its pods."""

from __future__ import annotations

from integration.lab import Machine, Pod, Server, Topology


def pods(node: int, count: int) -> tuple[Pod, ...]:
    return tuple(
        Pod(f"pod-{node}-{i}", (f"10.244.{node}.{i}", f"fd00:10:244:{node}::{i}")) for i in range(1, count + 1)
    )


def machine(number: int, pod_count: int) -> Machine:
    addresses = (f"192.168.56.1{number}", f"fd00:192:168:56::1{number}")
    return Machine(f"node-{number}", addresses, pods(number, pod_count))


TOPOLOGY = Topology(machine(1, 2), (machine(2, 2), machine(3, 1)))


def servers_of(topology: Topology, port: int = 8080) -> list[Server]:
    """Return a TCP and a UDP server for every address of every pod."""
    return [
        Server(pod.name, address, port, protocol)
        for each in topology.machines
        for pod in each.pods
        for address in pod.addresses
        for protocol in ("TCP", "UDP")
    ]
