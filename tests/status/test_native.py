"""The native view of `status`, where a Service has more than one virtual server for one address."""

from __future__ import annotations

from typing import get_type_hints

from ipvsagent.address import Address
from ipvsagent.cluster.objects import EVERYTHING_KNOWN, Changes, EndpointSlice
from ipvsagent.kernel.fake import FakeKernel
from ipvsagent.rows import VirtualServerRow
from ipvsagent.sources.view import SourceView
from ipvsagent.status.document import StatusDocument, document
from ipvsagent.status.native import lines
from ipvsagent.status.snapshot import Programming, Snapshot, server_views, totals_of
from tests.test_laws import Agent, many


def shown(kernel: FakeKernel, agent: Agent, **said_of_it: object) -> tuple[str, StatusDocument]:
    views = server_views(agent.pipeline, 0.0)

    kinds = {int: 0, float: 0.0, str: "", bool: True, dict[str, int]: {}}
    known = {
        "source": SourceView("files", synced=True),
        "virtual_servers": views,
        "totals": totals_of(agent.pipeline),
        "findings": (),
        "programming": Programming(),
        "seconds_since_change": None,
        "conn_reuse": None,
        **said_of_it,
    }
    said = Snapshot(
        **{name: known[name] if name in known else kinds[kind] for name, kind in get_type_hints(Snapshot).items()}
    )
    entries = []
    for seen in kernel.ipvs.read(None):
        if isinstance(seen.row, VirtualServerRow):
            entries.append((seen, []))
        else:
            entries[-1][1].append(seen)
    made = document((1, 2, 1), 4096, entries, said)
    return "\n".join(text for text, _ in lines(made)), made


def test_both_halves_of_a_local_policy_are_under_one_service() -> None:
    kernel = FakeKernel()
    objects = many(1, local=True)
    agent = Agent(kernel, objects, 0.0, EVERYTHING_KNOWN)
    text, made = shown(kernel, agent)
    titles = [line for line in text.splitlines() if line.startswith("ns/")]
    assert titles == [
        "ns/s0:http  ClusterIP",
        "ns/s0:http  LoadBalancer",
        "ns/s0:http  every external address, for pods and processes of this node",
    ]
    assert "  TCP 192.0.0.1:80 rr  (for clients outside this node)" in text.splitlines()
    by_clients = {each.clients: each for each in made.virtual_servers}
    assert by_clients["outside"].mark == by_clients["node"].port and by_clients["node"].protocol == "FWM"
    assert {each.condition for each in made.virtual_servers} == {"confirmed"}


def test_silence_is_said() -> None:
    kernel = FakeKernel()
    service, piece = many(1, local=True)
    assert isinstance(piece, EndpointSlice)
    agent = Agent(kernel, [service, piece], 0.0, EVERYTHING_KNOWN)
    elsewhere = tuple(endpoint for endpoint in piece.endpoints if endpoint.node == "other")
    changed = EndpointSlice(
        namespace="ns",
        name=piece.name,
        service=piece.service,
        family=piece.family,
        ports=piece.ports,
        endpoints=elsewhere,
    )
    agent.pipeline.take(Changes(upserts=(changed,)), 1.0)
    agent.round(1.0)
    text, _ = shown(kernel, agent)
    assert "  TCP 192.0.0.1:80 rr  (no endpoint on this node: silence for clients outside)" in text.splitlines()
    assert Address("192.0.0.1") in kernel.bound
