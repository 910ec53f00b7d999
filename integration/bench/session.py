"""One run: every measurement at every size, in an order in which none disturbs the next."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from integration.bench import api, idle
from integration.bench.cluster import THIS_NODE, Cluster
from integration.bench.stand import INTERFACE, LIMIT, Stand, agent_argv, environment, loop_seconds, stand
from integration.bench.worker import Measured
from integration.lab import LabError

_APPLIED = re.compile(r"applied: .*\((?P<writes>\d+) writes")
REFERENCE_ONCE_FROM = 5000
"""From this size on the reference takes a minute, and is run once: that it is slower by far needs no median."""


@dataclass
class Session:
    """samples: by figure and size, in the order in which they were taken."""

    sizes: Sequence[int]
    directory: Path
    repeats: int = 3
    changes: int = 1000
    events: int = 200
    only: str = ""
    idle_seconds: float = 20.0
    say: Callable[[str], None] = lambda text: None
    samples: dict[str, dict[int, list[float]]] = field(default_factory=dict)

    def run(self) -> None:
        for size in self.sizes:
            cluster = Cluster(size)
            if self.only == "api":
                self._api(cluster)
                continue
            if self.only == "route":
                for turn in range(self.repeats):
                    self._route(cluster, turn)
                continue
            for turn in range(self.repeats):
                if turn == 0 or size < REFERENCE_ONCE_FROM:
                    self._reference(cluster, turn)
                self._floor(cluster, turn)
                self._programming(cluster, turn)
                self._cold_start(cluster, turn)
            self._settled(cluster)
            self._api(cluster)
            self._route(cluster, 0)

    def own(self) -> None:
        """What needs no IPVS, and so no guest."""
        for size in self.sizes:
            if self.only != "api":
                source = self.directory / f"own-{size}"
                source.mkdir()
                cluster = Cluster(size)
                cluster.write_files(source)
                words = ["own", str(size), f"changes={self.changes}", f"source={source}"]
                argv = [sys.executable, "-m", "integration.bench.worker", *words]
                done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, env=environment(), check=True)
                self._note("own", size, json.loads(done.stdout.splitlines()[-1]))
            self._note("lists", size, api.measure_lists(self.directory, size))

    def _reference(self, cluster: Cluster, turn: int) -> None:
        rules, commands = cluster.ipvsadm_rules(), cluster.ip_commands(INTERFACE)
        with stand(f"reference-{cluster.size}-{turn}", self.directory) as place:
            _, ipvs = place.run(["ipvsadm", "-R"], rules)
            _, addresses = place.run(["ip", "-batch", "-"], commands)
        measured = {"seconds": ipvs + addresses, "ipvs_seconds": ipvs, "address_seconds": addresses}
        self._note("reference", cluster.size, measured)

    def _floor(self, cluster: Cluster, turn: int) -> None:
        with stand(f"floor-{cluster.size}-{turn}", self.directory) as place:
            changes = self.changes if turn == self.repeats - 1 else 1
            measured = self._worker(place, "floor", cluster, f"changes={changes}")
        if turn < self.repeats - 1:
            measured = {"seconds": measured["seconds"]}
        self._note("floor", cluster.size, measured)

    def _programming(self, cluster: Cluster, turn: int) -> None:
        with stand(f"program-{cluster.size}-{turn}", self.directory) as place:
            self._note("program", cluster.size, self._worker(place, "program", cluster))

    def _route(self, cluster: Cluster, turn: int) -> None:
        """The same programming with a route for all cluster IPs, and with an address for each."""
        measured: Measured = {}
        for name, options in (("", ["routed=1"]), ("bound_", [])):
            with stand(f"route-{name}{cluster.size}-{turn}", self.directory) as place:
                each = self._worker(place, "program", cluster, *options)
            wanted = ("seconds", "address_seconds", "rows", "failures", "rss_mib")
            measured |= {f"{name}{figure}": each[figure] for figure in wanted}
        self._note("route", cluster.size, measured)

    def _cold_start(self, cluster: Cluster, turn: int) -> None:
        with stand(f"cold-{cluster.size}-{turn}", self.directory) as place, place.namespace.entered():
            argv = [sys.executable, "-m", "integration.bench.probe", str(LIMIT)]
            with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment()) as probe:
                assert probe.stdout is not None
                if probe.stdout.readline() != "ready\n":
                    raise LabError("the probe did not start")
                measured = self._worker(place, "program", cluster)
                answered = float(probe.stdout.readline() or "nan")
        self._note("cold", cluster.size, {"seconds": answered - measured["decoded_at"]})

    def _settled(self, cluster: Cluster) -> None:
        """What is done with a table that is complete: changes, restarts, nothing."""
        with stand(f"settled-{cluster.size}", self.directory) as place:
            source = place.state / "manifests"
            source.mkdir()
            self._note("files", cluster.size, {"mib": cluster.write_files(source) / (1 << 20)})
            self._note("change", cluster.size, self._worker(place, "change", cluster, f"changes={self.changes}"))
            for _ in range(self.repeats):
                self._note("restart", cluster.size, _restart(place, source))
            self._note("restart", cluster.size, self._worker(place, "phases", cluster, f"source={source}"))
            self._note("idle", cluster.size, idle.measure(place, source, self.idle_seconds))

    def _api(self, cluster: Cluster) -> None:
        with stand(f"api-{cluster.size}", self.directory) as place:
            self._note("api", cluster.size, api.measure(place, cluster, self.events))

    def _worker(self, place: Stand, what: str, cluster: Cluster, *options: str) -> Measured:
        argv = [sys.executable, "-m", "integration.bench.worker", what, str(cluster.size), f"state={place.state}"]
        output, _ = place.run([*argv, *options])
        measured: Measured = json.loads(output.splitlines()[-1])
        return measured

    def _note(self, group: str, size: int, measured: Measured) -> None:
        measured = {**measured, "loop_seconds": loop_seconds()}
        for name, value in measured.items():
            self.samples.setdefault(f"{group}.{name}", {}).setdefault(size, []).append(value)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in measured.items())
        self.say(f"{group} {size}: {shown}")


def _restart(place: Stand, source: Path) -> Measured:
    words = ("run", "--once", "--source", str(source), "--hostname-override", THIS_NODE, "--interface", INTERFACE)
    output, seconds = place.run(agent_argv(*words, "--state-dir", str(place.state)))
    applied = _APPLIED.search(output)
    if applied is None:
        raise LabError(f"the agent did not say what it applied: {output[-2000:]}")
    return {"seconds": seconds, "writes": int(applied["writes"])}


def machine() -> dict[str, str]:
    """Where the figures were taken."""
    return {
        "kernel": os.uname().release,
        "cpus": str(os.cpu_count()),
        "python": sys.version.split()[0],
        "guest": "yes" if "User Mode Linux" in Path("/proc/cpuinfo").read_text() else "no",
    }
