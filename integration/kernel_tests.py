"""`python -m integration.kernel_tests [PYTEST ARGUMENTS]`: the tests marked `kernel`, in a guest for each core.

A guest has one processor, so two guests side by side take half the time. Each knows all test files and claims one after
the other, the slowest first, so that none is idle while another has much to do.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
MOST_GUESTS = 4
LIMIT = 2700
# A page that a process touches first costs a guest more than what is then done with it, so none is given back.
KEEP_MEMORY = {
    "PYTHONMALLOC": "malloc",
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TOP_PAD_": "16000000",
}
# What takes longest, measured in a guest; the order of the others does not matter.
SLOWEST = (
    "test_kill.py",
    "test_flows.py",
    "test_ipvsadm_listing.py",
    "test_iptables.py",
    "test_laws_on_kernel.py",
    "test_agent_rules.py",
    "test_agent_process.py",
    "test_flows_planted.py",
    "test_flows_iptables.py",
    "test_changing_sides.py",
    "test_arp.py",
    "test_route_mode.py",
    "test_agent_laws.py",
    "test_traffic_edits.py",
    "test_contract.py",
    "test_agent_api.py",
    "test_agent_configuration.py",
    "test_demo.py",
    "test_bench.py",
    "test_idle.py",
    "test_traffic_drain.py",
    "test_agreement.py",
    "test_local_policy.py",
    "test_guest.py",
    "test_udp_flows.py",
)


def files() -> list[str]:
    """Those with kernel tests, the slowest first."""
    every = sorted((CHECKOUT / "tests").rglob("test_*.py"))
    found = [path for path in every if path.parent.name == "kernel" or "mark.kernel" in path.read_text()]
    place = {name: number for number, name in enumerate(SLOWEST)}
    found.sort(key=lambda path: place.get(path.name, len(place)))
    return [str(path.relative_to(CHECKOUT)) for path in found]


def main(arguments: list[str]) -> int:
    """The worst exit status of all guests; their output one after the other, whoever ends first first."""
    count = max(1, min(os.cpu_count() or 1, MOST_GUESTS))
    with tempfile.TemporaryDirectory(prefix="kernel-tests-") as claims:
        guest = [sys.executable, "-m", "integration.guest", "--timeout", str(LIMIT), "--share", claims]
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
