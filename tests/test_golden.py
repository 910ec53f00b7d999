"""Clusters in, kernel state out: tests/golden/<case>/cluster.yaml becomes the expected files beside it.

ipset.txt holds the members of our sets, ipvs.txt what `ipvsadm -Sn` and `ip address` would show on node-1 (172.16.0.1,
on the pods' side 10.244.1.254), findings.txt what the operator is told. `pytest tests/test_golden.py --rewrite-golden`
writes them; review the diff.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ipvsagent.config import Config
from ipvsagent.findings import FindingBook
from ipvsagent.kernel.fake import FakeKernel
from ipvsagent.node import pipeline_for
from ipvsagent.reconcile.backend import Backend
from ipvsagent.render.ipvs import IpvsRenderer
from ipvsagent.render.members import set_specs
from ipvsagent.render.node_clients import NodeClients
from ipvsagent.rows import AddressRow, SetMemberRow
from ipvsagent.sources.manifests import ManifestSource

CASES = sorted(path for path in (Path(__file__).parent / "golden").iterdir() if path.is_dir())


def programmed(case: Path) -> dict[str, str]:
    kernel = FakeKernel(node_addresses={"172.16.0.1": "eth0", "10.244.1.254": "cni0"})
    kernel.sets.ensure(set_specs())
    node_clients = NodeClients(Config().node_marks)
    backend = Backend(IpvsRenderer(), kernel.ipvs, kernel.addresses, kernel.sets, node_clients=node_clients)
    pipeline = pipeline_for(Config(node_name="node-1"), backend, window=0)
    book = FindingBook()
    changes, findings = ManifestSource([case / "cluster.yaml"]).load_once()
    book.replace("source", findings)
    origins = pipeline.node_addresses(kernel.addresses.node_addresses())
    origins += pipeline.take(changes, 0.0)
    origins += pipeline.start(0.0).findings
    for origin, found in origins:
        book.replace(origin, found)
    bound = sorted(str(row) for row in kernel.snapshot() if isinstance(row, AddressRow))
    return {
        "ipvs.txt": kernel.dump() + "".join(f"ip address add {row} dev kube-ipvs0\n" for row in bound),
        "ipset.txt": "".join(f"{row}\n" for row in sorted(r for r in kernel.snapshot() if isinstance(r, SetMemberRow))),
        "findings.txt": "".join(f"{str(f).replace(f'{case}/', '')}\n" for f in book.current()),
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden(case: Path, request: pytest.FixtureRequest) -> None:
    for name, text in programmed(case).items():
        expected = case / name
        if request.config.getoption("--rewrite-golden"):
            expected.write_text(text)
        assert text == expected.read_text(), f"{case.name}/{name}"
