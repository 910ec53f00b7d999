"""`python -m integration.bench.chains`: one endpoint changed on iptables, beside a restore of the whole table.

In a network namespace of its own, on the kernel that runs it; needs root, iptables and ipset, and no ip_vs. What is
written follows the change; what the kernel does with it is its own: legacy iptables copies the whole table each time.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

from integration.lab import Namespace
from ipvsagent.address import Address, Family
from ipvsagent.kernel.ipset.table import SetTable
from ipvsagent.kernel.iptables.commands import Mode, Variant
from ipvsagent.kernel.iptables.kernel_rules import KernelRules
from ipvsagent.kernel.iptables.server_chains import ServerChains, ServerRules
from ipvsagent.model import Frontend, Protocol, RealServer, ServicePortName, VirtualServer, VirtualServerId
from ipvsagent.render.iptables.ipvs_rules import RuleOptions
from ipvsagent.render.iptables.nat_chains import IptablesRenderer
from ipvsagent.render.iptables.nat_rules import nat_rule_set
from ipvsagent.render.set_members import set_specs
from ipvsagent.rows import Op, Verb

ENDPOINTS = 10
OPTIONS = RuleOptions(pods_known=True)
RENDERER = IptablesRenderer(dict.fromkeys(Family, OPTIONS))


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m integration.bench.chains", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--sizes", default="1000,5000", metavar="N,...", help="numbers of Services (%(default)s)")
    parser.add_argument("--changes", type=int, default=10, help="changes measured (%(default)s)")
    options = parser.parse_args(argv)
    print(f"{'Services':>8}  {'iptables':8}  {'one change':>11}  {'whole table':>11}  {'ratio':>6}")
    for size in map(int, options.sizes.split(",")):
        for mode in Mode:
            change, whole = measured(mode, size, options.changes)
            print(
                f"{size:8}  {mode:8}  {change * 1000:8.1f} ms  {whole * 1000:8.1f} ms  {whole / change:6.0f}",
                flush=True,
            )
    return 0


def measured(mode: Mode, size: int, changes: int) -> tuple[float, float]:
    """Seconds of a change, the median, and of a restore of all that is there, the lesser of two."""
    namespace = Namespace("chains")
    with namespace.entered():
        sets = SetTable()
        sets.ensure(set_specs())
        servers = ServerRules([ServerChains(KernelRules(Family.IPV4, Variant(mode, "it is measured")))])
        (table,) = servers.tables
        table.apply(nat_rule_set(Family.IPV4, OPTIONS))
        assert not servers.write([Op(Verb.ADD, row) for n in range(size) for row in RENDERER.rows(server(n))])
        times = [timed(partial(_change, servers, n * 7 % size)) for n in range(changes)]
        saved = subprocess.run(
            [f"iptables-{mode}-save", "-t", "nat"], capture_output=True, text=True, check=True
        ).stdout
        restore = [f"iptables-{mode}-restore"]
        whole = min(timed(lambda: subprocess.run(restore, input=saved, text=True, check=True)) for _ in range(2))
        table.close()
        sets.close()
    namespace.close()
    return statistics.median(times), whole


def server(number: int, endpoints: int = ENDPOINTS) -> VirtualServer:
    high, low = divmod(number, 250)
    return VirtualServer(
        id=VirtualServerId(Protocol.TCP, Address(f"10.96.{high}.{low + 1}"), 80),
        service=ServicePortName("bench", f"service-{number}", "http"),
        frontend=Frontend.CLUSTER_IP,
        scheduler="rr",
        real_servers=tuple(RealServer(Address(f"10.244.{high}.{low + 1}"), 8000 + n) for n in range(endpoints)),
    )


def _change(servers: ServerRules, number: int) -> None:
    assert not servers.write([Op(Verb.SET, row) for row in RENDERER.rows(server(number, ENDPOINTS - 1))])


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
