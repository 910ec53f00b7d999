"""Runs the tests marked `kernel`, in a guest for each core.

    python -m integration.kernel_tests [--kernel NAME] [--iptables VARIANT] [PYTEST ARGUMENTS]

Debian's User-Mode Linux has one processor, so two guests side by side take half the time. Each is given all files with
kernel tests and claims one after the other, the slowest first, so that none is idle while another has much to do.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from integration.guest.kernels import DEBIAN, find_kernel

CHECKOUT = Path(__file__).resolve().parents[1]
MOST_GUESTS = 4
LIMIT = 2700
# The first access to a page costs a guest more than the work on it, so no memory is given back.
KEEP_MEMORY = {
    "PYTHONMALLOC": "malloc",
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TOP_PAD_": "16000000",
}
# A file has kernel tests if it names the mark, or the parameters of tests/support/iptables.py that carry it.
MARKED = re.compile(r"\bmark\.kernel\b|\bimport .*\bGUEST\b")
# The files that take longest, measured in a guest; the order of the others does not matter.
SLOWEST = (
    "node/test_kill.py",
    "node/test_flows.py",
    "status/test_ipvsadm_listing.py",
    "kernel/test_iptables.py",
    "laws/test_laws_on_kernel.py",
    "node/test_agent_rules.py",
    "node/test_agent_process.py",
    "node/test_flows_planted.py",
    "node/test_flows_iptables.py",
    "node/test_changing_sides.py",
    "node/test_arp.py",
    "node/test_route_mode.py",
    "laws/test_agent_laws.py",
    "node/test_traffic_edits.py",
    "kernel/test_contract.py",
    "node/test_agent_api.py",
    "node/test_agent_configuration.py",
    "integration/test_demo.py",
    "integration/test_bench.py",
    "node/test_idle.py",
    "node/test_traffic_drain.py",
    "kernel/test_agreement.py",
    "node/test_local_policy.py",
    "kernel/test_guest.py",
    "node/test_udp_flows.py",
)


def files() -> list[str]:
    """Return the test files with kernel tests, the slowest first. A guest imports slowly, and so not the others."""
    every = sorted((CHECKOUT / "tests").rglob("test_*.py"))
    names = [str(path.relative_to(CHECKOUT)) for path in every if MARKED.search(path.read_text())]
    rank = {f"tests/{name}": number for number, name in enumerate(SLOWEST)}
    return sorted(names, key=lambda name: rank.get(name, len(rank)))


def main(argv: list[str]) -> int:
    """Run the guests and return the worst of their exit statuses; a guest's output is printed when it has ended."""
    parser = argparse.ArgumentParser(prog="python -m integration.kernel_tests", allow_abbrev=False)
    parser.add_argument("--kernel", default=DEBIAN, help="as for integration.guest (default %(default)s)")
    parser.add_argument("--iptables", choices=("legacy", "nft"), help="as for integration.guest")
    options, arguments = parser.parse_known_args(argv)
    find_kernel(options.kernel)  # two guests would build it, one after the other
    count = max(1, min(os.cpu_count() or 1, MOST_GUESTS))
    with tempfile.TemporaryDirectory(prefix="kernel-tests-") as claims:
        guest = [sys.executable, "-m", "integration.guest", "--timeout", str(LIMIT), "--share", claims]
        guest += ["--kernel", options.kernel]
        guest += ["--iptables", options.iptables] if options.iptables else []
        guest += [f"--env={name}={value}" for name, value in KEEP_MEMORY.items()]
        tests = [sys.executable, "-m", "pytest", "-q", "-m", "kernel", "--no-skips", "--claims", claims, *arguments]
        return _side_by_side([*guest, "--", *tests, *files()], count)


def _side_by_side(argv: list[str], count: int) -> int:
    running = {}
    for _ in range(count):
        output = tempfile.TemporaryFile("w+")  # noqa: SIM115
        running[subprocess.Popen(argv, cwd=CHECKOUT, stdout=output, stderr=subprocess.STDOUT)] = output
    print(f"kernel tests in {count} guests side by side; each prints when it has ended", flush=True)
    worst = 0
    while running:
        time.sleep(0.2)
        for process in [process for process in running if process.poll() is not None]:
            output = running.pop(process)
            output.seek(0)
            sys.stdout.writelines(output)
            sys.stdout.flush()
            worst = max(worst, abs(process.returncode))
    return min(worst, 125)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
