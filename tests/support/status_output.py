"""Renders the native view of `status` from a pipeline that a test drives."""

from __future__ import annotations

from typing import get_type_hints

from ipvsagent.kernel.fake.kernel import FakeKernel
from ipvsagent.rows import Observed, VirtualServerRow
from ipvsagent.sources.view import SourceView
from ipvsagent.status.chains import as_entries
from ipvsagent.status.document import StatusDocument, document
from ipvsagent.status.native import lines
from ipvsagent.status.snapshot import Programming, Snapshot, held_ids, server_views, totals_of
from tests.support.iptables_pipeline import Agent as AgentOnIptables
from tests.support.ipvs_pipeline import Agent


def shown(kernel: FakeKernel, agent: Agent | AgentOnIptables, **fields: object) -> tuple[str, StatusDocument]:
    """Return the text and the document. fields: fields of the snapshot that differ from an agent without findings."""
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
        "held": held_ids(agent.pipeline),
        **fields,
    }
    snapshot = Snapshot(
        **{name: known[name] if name in known else kinds[kind] for name, kind in get_type_hints(Snapshot).items()}
    )
    if isinstance(agent, AgentOnIptables):
        made = document("iptables", None, 0, as_entries(agent.servers.read(None)), snapshot)
        return "\n".join(text for text, _ in lines(made)), made
    entries: list[tuple[Observed, list[Observed]]] = []
    for seen in kernel.ipvs.read(None):
        if isinstance(seen.row, VirtualServerRow):
            entries.append((seen, []))
        else:
            entries[-1][1].append(seen)
    made = document("ipvs", (1, 2, 1), 4096, entries, snapshot)
    return "\n".join(text for text, _ in lines(made)), made
