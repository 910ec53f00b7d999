"""`python -m integration.kernel_tests [PYTEST ARGUMENTS]`: the tests marked `kernel`, in a guest for each core.

A guest has one processor, so two guests side by side take half the time. Test files are shared out by what they take,
in seconds measured in a guest; a file that is not in the table counts as five.
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
SECONDS = {
    "test_flows.py": 260,
    "test_kill.py": 150,
    "test_iptables.py": 120,
    "test_agent_process.py": 115,
    "test_agent_rules.py": 100,
    "test_flows_planted.py": 100,
    "test_ipvsadm_listing.py": 90,
    "test_laws_on_kernel.py": 60,
    "test_agent_api.py": 60,
    "test_contract.py": 60,
    "test_changing_sides.py": 70,
    "test_traffic_drain.py": 40,
    "test_agreement.py": 40,
    "test_route_mode.py": 40,
    "test_demo.py": 40,
    "test_local_policy.py": 30,
    "test_idle.py": 30,
    "test_agent_configuration.py": 30,
    "test_udp_flows.py": 30,
    "test_iptables_servers.py": 30,
    "test_traffic_edits.py": 20,
    "test_ipvsadm_traffic.py": 20,
    "test_agent_laws.py": 20,
    "test_check.py": 15,
    "test_agent_foreign.py": 15,
    "test_bench.py": 15,
    "test_traffic_balance.py": 10,
    "test_traffic_two_nodes.py": 10,
}


def shares(count: int) -> list[list[str]]:
    """Test files with kernel tests, the slowest first, each to whoever has least to do."""
    every = (CHECKOUT / "tests").rglob("test_*.py")
    files = [path for path in every if path.parent.name == "kernel" or "mark.kernel" in path.read_text()]
    shared: list[list[str]] = [[] for _ in range(count)]
    loads = [0] * count
    for path in sorted(files, key=lambda path: (-SECONDS.get(path.name, 5), path.name)):
        least = loads.index(min(loads))
        loads[least] += SECONDS.get(path.name, 5)
        shared[least].append(str(path.relative_to(CHECKOUT)))
    return shared


def main(arguments: list[str]) -> int:
    """The worst exit status of all guests; their output one after the other, whoever ends first first."""
    count = max(1, min(os.cpu_count() or 1, MOST_GUESTS))
    running = {}
    for files in shares(count):
        output = tempfile.TemporaryFile("w+")  # noqa: SIM115
        guest = [sys.executable, "-m", "integration.guest", "--timeout", str(LIMIT), "--"]
        tests = [sys.executable, "-m", "pytest", "-q", "-m", "kernel", "--no-skips", *arguments, *files]
        running[subprocess.Popen([*guest, *tests], cwd=CHECKOUT, stdout=output, stderr=subprocess.STDOUT)] = output
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
