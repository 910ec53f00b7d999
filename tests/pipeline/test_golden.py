"""Clusters in, kernel state out: tests/golden/<case>/cluster.yaml becomes the expected files beside it.

ipset.txt holds the members of our sets, ipvs.txt what `ipvsadm -Sn`, `ip address` and the chain of translations would
show on node-1 (172.16.0.1, on the pods' side 10.244.1.254), findings.txt what the operator reads, iptables.txt what
the iptables backend writes in place of ipvs.txt. `pytest tests/pipeline/test_golden.py --rewrite-golden` writes them;
review the diff. The same objects from an API server must come to the same, in a stream or page by page.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from integration.apiserver import ApiServer, NoWatchList, load
from ipvsagent.backends.assembly import pipeline_for
from ipvsagent.backends.iptables import iptables_pipeline, renderer
from ipvsagent.cluster.objects import Changes
from ipvsagent.config import Config
from ipvsagent.findings import Finding, FindingBook
from ipvsagent.kernel.fake.kernel import FakeKernel
from ipvsagent.kernel.fake.rules import server_rules
from ipvsagent.pipeline import Pipeline
from ipvsagent.reconcile.kernel_tables import KernelTables
from ipvsagent.render.ipvs import IpvsRenderer
from ipvsagent.render.set_members import set_specs
from ipvsagent.rows import AddressRow, Op, SetMemberRow, Verb
from ipvsagent.rows.nat_chains import ChainsRow, commands
from ipvsagent.rows.packet_rules import RuleSet
from ipvsagent.sources.kubernetes import api_source
from ipvsagent.sources.manifests import ManifestSource

Read = Callable[[Path, Path], tuple[Changes, list[Finding]]]
CASES = sorted(path for path in (Path(__file__).parent.parent / "golden").iterdir() if path.is_dir())


def from_files(case: Path, _: Path) -> tuple[Changes, list[Finding]]:
    return ManifestSource([case / "cluster.yaml"]).load_once()


def streamed(case: Path, folder: Path, server: ApiServer | None = None) -> tuple[Changes, list[Finding]]:
    with server or ApiServer() as server:
        load(server.store, [case / "cluster.yaml"])
        kubeconfig = server.write_kubeconfig(folder / "kubeconfig")
        loaded = api_source(Config(kubeconfig=str(kubeconfig))).load_once()
        lists = {entry.verb for entry in server.requests if entry.verb}  # one that has just begun has none yet
    assert lists == ({"watch"} if not server.faults.left else {"watch", "list"})
    return loaded


def in_pages(case: Path, folder: Path) -> tuple[Changes, list[Finding]]:
    server = ApiServer()
    server.faults.add(NoWatchList(times=None))
    return streamed(case, folder, server)


def findings_after_start(pipeline: Pipeline, kernel: FakeKernel, loaded: tuple[Changes, list[Finding]]) -> FindingBook:
    """Start the pipeline with all that was loaded, and return the findings."""
    book = FindingBook()
    changes, findings = loaded
    book.replace("source", findings)
    origins = pipeline.set_node_addresses(kernel.addresses.node_addresses())
    origins += pipeline.apply_changes(changes, 0.0)
    origins += pipeline.start(0.0).findings
    for origin, found in origins:
        book.replace(origin, found)
    return book


def on_iptables(loaded: tuple[Changes, list[Finding]]) -> dict[str, str]:
    """Return what the iptables backend writes for each virtual server, without marks of rules, and its findings."""
    kernel = FakeKernel(node_addresses={"172.16.0.1": "eth0", "10.244.1.254": "cni0"})
    kernel.sets.ensure(set_specs())
    config = Config(node_name="node-1")
    servers = server_rules(kernel)
    for table in servers.tables:
        table.apply(RuleSet(table.family))
    pipeline = iptables_pipeline(config, KernelTables(renderer(config), servers, None, kernel.sets), window=0)
    book = findings_after_start(pipeline, kernel, loaded)
    lines: list[str] = []
    for seen in servers.read(None):
        assert isinstance(seen.row, ChainsRow)
        lines += [_without_marks(line) for line in commands(Verb.ADD, seen.row) if " -N " not in line]
    return {"iptables.txt": "".join(f"{line}\n" for line in lines) + _said(book)}


def _without_marks(line: str) -> str:
    return re.sub(
        r' -m comment --comment "?ipvsagent:[0-9a-f]+ ?([^"]*)"?', lambda m: f"   # {m[1]}" * bool(m[1]), line
    )


def _said(book: FindingBook) -> str:
    """Return the findings of this backend alone: that a field is not honoured."""
    return "".join(f"# {finding}\n" for finding in book.current() if "iptables backend" in finding.reason)


def programmed(loaded: tuple[Changes, list[Finding]]) -> dict[str, str]:
    kernel = FakeKernel(node_addresses={"172.16.0.1": "eth0", "10.244.1.254": "cni0"})
    kernel.sets.ensure(set_specs())
    tables = (kernel.ipvs, kernel.addresses, kernel.sets)
    backend = KernelTables(IpvsRenderer(), *tables, translations=kernel.translations)
    pipeline = pipeline_for(Config(node_name="node-1"), backend, window=0)
    book = findings_after_start(pipeline, kernel, loaded)
    kernel.keep_rules()
    bound = sorted(str(row) for row in kernel.snapshot() if isinstance(row, AddressRow))
    shared = [f"ip address add {row} dev kube-ipvs0" for row in bound]
    shared += [str(Op(Verb.ADD, row)) for row in sorted(kernel.translated)]
    return {
        "ipvs.txt": kernel.dump() + "".join(f"{line}\n" for line in shared),
        "ipset.txt": "".join(f"{row}\n" for row in sorted(r for r in kernel.snapshot() if isinstance(r, SetMemberRow))),
        "findings.txt": "".join(f"{f}\n" for f in book.current()),
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("read", [from_files, streamed, in_pages])
def test_golden(read: Read, case: Path, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    loaded = read(case, tmp_path)
    for name, text in (programmed(loaded) | on_iptables(loaded)).items():
        expected = case / name
        text = text.replace(f"{case}/", "")
        if read is from_files and request.config.getoption("--rewrite-golden"):
            expected.write_text(text)
        # An API server has no file name to put before what is wrong.
        wanted = expected.read_text() if read is from_files else expected.read_text().replace("cluster.yaml: ", "")
        assert text == wanted, f"{case.name}/{name}"
