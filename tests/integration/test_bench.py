"""The bench runs, counts right and judges right. Its times are for people: no test depends on one."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from integration.bench import own
from integration.bench.changes import BATCH, LIFE, batches
from integration.bench.claims import judge
from integration.bench.cluster import Cluster, Extra
from integration.bench.figures import Figures
from integration.bench.stand import CHECKOUT
from integration.bench.table import failures, lines
from ipvsagent.cluster.objects import EndpointSlice, Service

SIZE = 20


@pytest.mark.kernel
def test_small_run_counts_right(tmp_path: Path) -> None:
    target = tmp_path / "bench.json"
    words = ["--sizes", str(SIZE), "--repeats", "1", "--changes", "100", "--events", "5", "--idle-seconds", "1"]
    words += ["--json", str(target)]
    done = subprocess.run(
        [sys.executable, "-m", "integration.bench", *words], cwd=CHECKOUT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    figures = {name: values[str(SIZE)] for name, values in json.loads(target.read_text())["figures"].items()}
    rows = figures["program.rows"]
    assert rows >= Cluster(SIZE).rows
    assert rows == figures["program.rows_in_kernel"] == figures["change.rows_in_kernel"]
    counts = {name: figures[f"change.{name}"] for name in ("messages", "ops", "rows_read", "calls")}
    assert counts == {"messages": 1, "ops": 1, "rows_read": 0, "calls": 2}
    assert figures["change.changes"] == figures["floor.changes"] == 100
    assert figures["program.failures"] == figures["restart.writes"] == figures["idle.start_writes"] == 0
    assert figures["own.change_seconds"] > 0 and figures["lists.seconds"] > 0
    assert figures["own.library_seconds"] > 0 and figures["own.library_mib"] > 0
    assert figures["own.drains"] == SIZE / 5
    assert figures["cold.seconds"] > 0 and figures["idle.agent_rss_mib"] > 0
    assert 0 < figures["api.median"] <= figures["api.p99"]
    assert figures["api.official_median"] > 0 and figures["api.peak_mib"] >= figures["api.rss_mib"] > 0
    assert "FIRST PROGRAMMING" in done.stdout


def test_rows_are_those_that_the_tools_are_given() -> None:
    cluster = Cluster(SIZE)
    rules, commands = cluster.ipvsadm_rules().splitlines(), cluster.ip_commands("dummy").splitlines()
    assert len(rules) + len(commands) == cluster.rows
    assert len(commands) == cluster.virtual_servers == SIZE + 1


def test_files_hold_the_decoded_objects(tmp_path: Path) -> None:
    cluster = Cluster(SIZE)
    assert cluster.write_files(tmp_path) == sum(path.stat().st_size for path in tmp_path.iterdir())
    names = [item["metadata"]["name"] for path in tmp_path.iterdir() for item in json.loads(path.read_text())["items"]]
    decoded = list(cluster.decoded())
    assert sorted(names) == sorted(item.name for item in decoded)
    assert sum(isinstance(item, Service) for item in decoded) == SIZE + 1
    assert sum(len(item.endpoints) for item in decoded if isinstance(item, EndpointSlice)) == SIZE * 10 + 1


def test_a_life_is_one_more_endpoint() -> None:
    cluster = Cluster(SIZE)
    assert len(cluster.slice(3).endpoints) == 10
    extra = cluster.slice(3, Extra.TERMINATING).endpoints[-1]
    assert (extra.address, extra.ready, extra.terminating) == (cluster.new_pod(3), False, True)


@pytest.mark.parametrize(("size", "width"), [(10, 10), (1000, BATCH)])
def test_changes_are_whole_lives_and_always_the_same(size: int, width: int) -> None:
    cluster = Cluster(size)
    all_of_them = list(batches(cluster, 1000))
    assert sum(len(services) for _, services in all_of_them) == 1000
    first = list(islice(batches(cluster, 1000), len(LIFE)))
    assert first == all_of_them[: len(LIFE)]
    assert [step for step, _ in first] == list(LIFE)
    assert all(services == first[0][1] and len(set(services)) == width for _, services in first)


def _figures(**at_largest: float) -> Figures:
    samples = {name: {100: [1.0], 1000: [value]} for name, value in at_largest.items()}
    return Figures({name.replace("__", "."): values for name, values in samples.items()}, [1000, 100])


def test_a_claim_that_fails_is_named_with_its_figure() -> None:
    figures = _figures(restart__seconds=7.5, restart__writes=0, own__change_seconds=1.1)
    verdicts = {(verdict.figure, verdict.size): verdict.held for verdict in judge(figures)}
    assert verdicts["restart.seconds", 100] and not verdicts["restart.seconds", 1000]
    assert verdicts["restart.writes", 1000] and verdicts["own.change_seconds", 0]
    assert any("takes under 5 s: 7.5 at 1,000 Services" in line for line in failures(list(judge(figures))))
    restart = next(line for line in lines(figures, list(judge(figures))) if "run --once" in line)
    assert "7.50 s" in restart and "FAIL" in restart


def test_what_was_not_measured_does_not_pass() -> None:
    assert not any(verdict.held for verdict in judge(Figures({}, [10_000])))


def test_the_median_counts_and_ratios_are_made_of_medians() -> None:
    samples = {"reference.seconds": {10: [100.0]}, "program.seconds": {10: [9.0, 4.0, 5.0]}}
    figures = Figures(samples, [10])
    assert figures.at("faster than reference", 10) == 20


def test_what_importing_pyroute2_costs_is_measured():
    figures = own.library_cost()
    assert figures.keys() == {"library_seconds", "library_mib"} and all(value > 0 for value in figures.values())
