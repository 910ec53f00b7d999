"""What `status` says first: the source before the kernel, and what is there when no agent is."""

from __future__ import annotations

import pytest

from ipvsagent.address import Address
from ipvsagent.cluster.objects import EVERYTHING_KNOWN
from ipvsagent.kernel.fake.kernel import FakeKernel
from ipvsagent.model import Protocol, VirtualServerId
from ipvsagent.rows import Observed, Owner, RealServerRow, VirtualServerRow
from ipvsagent.rows.nat_chains import ChainsRow, MarkedRule
from ipvsagent.sources.view import KindView, SourceView
from ipvsagent.status.chains import names_of
from ipvsagent.status.document import StatusDocument, document
from ipvsagent.status.native import lines
from tests.support.generated_cluster import many
from tests.support.ipvs_pipeline import Agent
from tests.support.status_output import shown

ID = VirtualServerId(Protocol.TCP, Address("10.0.0.1"), 80)
ROWS = [
    (
        Observed(VirtualServerRow(ID, "random"), Owner.OURS),
        [Observed(RealServerRow(ID, Address("10.1.0.1"), 8080, 1), Owner.OURS)],
    )
]


def text_of(made: StatusDocument) -> list[str]:
    return [text for text, _ in lines(made)]


@pytest.mark.parametrize(
    ("synced", "first"),
    [
        (True, ": API server NOT connected; with what it reported last, in sync; "),
        (False, ": API server NOT reached yet, nothing is changed; "),
    ],
)
def test_a_lost_api_server_is_said_first(synced: bool, first: str) -> None:
    kernel = FakeKernel()
    kind = KindView("Service", "", False, 3.0 if synced else None, "", 1, 1)
    source = SourceView("https://api", synced, (kind,))
    _, made = shown(kernel, Agent(kernel, many(1), 0.0, EVERYTHING_KNOWN), source=source, in_sync=True)
    (head, style), *_ = lines(made)
    assert first in head and style == "red"


def test_chains_without_an_agent_have_names_and_no_counts() -> None:
    made = document("iptables", None, 0, ROWS, None, {ID: ("shop/web:http", "ClusterIP")})
    assert made.backend == "iptables"
    assert made.virtual_servers[0].real_servers[0].active is None
    text = text_of(made)
    assert text[0] == "No agent is running here: conditions are not known. Services are on iptables"
    assert "shop/web:http  ClusterIP" in text and "No Service" not in text
    assert any("active -" in line and line.endswith("inactive -") for line in text)


def test_a_bare_node() -> None:
    made = document("iptables", None, 0, (), None)
    assert made.backend == "" and "left no Services" in text_of(made)[0]
    assert document("ipvs", (1, 2, 1), 4096, ROWS, None).backend == "ipvs"


def test_names_are_in_the_comments_of_rules() -> None:
    rule = '-d 10.0.0.1/32 -p tcp -m comment --comment "ipvsagent:0123456789 shop/web:http LoadBalancer" -j X'
    row = ChainsRow(ID, "B", MarkedRule("0123456789", rule), ())
    assert names_of([Observed(row, Owner.OURS)]) == {ID: ("shop/web:http", "LoadBalancer")}
