"""What test modules may import, patch and reach into, and which of them a guest runs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from integration import kernel_tests
from tests.support.imports import imports_of, tree_of

TESTS = Path(__file__).parent
FILES = sorted(TESTS.rglob("*.py"))
# Private names of the package that tests use: file, names, and why no public name serves. The functions that
# laws/test_planted_bugs.py replaces are not counted.
REVIEWED: tuple[tuple[str, str, str], ...] = (
    ("agent/test_checks.py", "_iptables", "the check runs without the iptables of this machine"),
    ("agent/test_reconfigure.py", "_answer", "an answer of the server, without a socket"),
    ("agent/test_reconfigure_iptables.py", "_renderer", "a backend whose constructor would open a real kernel"),
    ("agent/test_scheduler_comes.py", "_dirty _pipeline", "what is not recomputed leaves no other trace"),
    (
        "api/test_credentials.py",
        "_client _fingerprint _in_words",
        "one pool for the same files; a race; errors as text",
    ),
    ("api/test_events.py", "_pause", "pauses that a test can wait for"),
    ("backends/test_stub_backend.py", "_iptables", "the check runs without the iptables of this machine"),
    ("cli/test_cleanup.py", "_confirmed _enumerate", "a question and an answer, without a kernel to clean up"),
    ("cli/test_wait_for_lock.py", "_lock", "the wait alone, without an agent after it"),
    ("integration/test_topology.py", "_LIBC", "system calls that fail"),
    ("kernel/test_agreement.py", "_socket", "a receive buffer so small that the kernel drops answers"),
    ("kernel/test_conntrack.py", "_header _request", "a kernel before Linux 5.8, which does not filter"),
    ("kernel/test_conntrack_sysctls.py", "_HASH_SIZE _enlarge_hash", "a file that cannot be read"),
    ("kernel/test_host.py", "_capable", "a process without the capability"),
    ("kernel/test_iptables.py", "_PATH", "a machine without iptables, or with plain names only"),
    ("kernel/test_iptables_generation.py", "_MOST_ENTRIES", "a limit that is reached soon"),
    ("kernel/test_iptables_servers.py", "_READ_PAUSE", "no pause between two reads"),
    ("kernel/test_netlink.py", "_GENL_CTRL _sequence _socket", "a peer that is a script, and answers by number"),
    ("kernel/test_obstacles.py", "_LEGACY_TABLES _PATH", "a machine without iptables"),
    ("kernel/test_ownership.py", "_SLACK", "a ledger that is compacted soon"),
    ("kernel/test_pyroute.py", "_TIMEOUT _library _socket", "a peer that is a script; what is left open; a short wait"),
    (
        "kernel/test_reserved_ports.py",
        "_hand_over _write",
        "a write that fails; a backend in the middle of a hand-over",
    ),
    ("monitoring/test_health.py", "_open _report_faults _requests", "open listeners, and requests that hold a place"),
    ("node/test_local_policy.py", "_socket", "a connection that ends by a reset"),
    ("node/test_retirement.py", "_ask", "a kill at any write of pyroute2"),
    (
        "packet_filter/test_packet_filter.py",
        "_READ_PAUSE _clock",
        "a clock of the test's, and no pause between reads",
    ),
    ("pipeline/test_cost_of_the_past.py", "_dirty", "the memory that a set holds"),
    ("sources/test_kubernetes.py", "_backoff _ready _server", "short pauses; a client that is late; another address"),
    ("sources/test_kubernetes_faults.py", "_backoff", "short pauses"),
    ("support/iptables_pipeline.py", "_read_took", "no pause between two reads"),
    ("support/laws.py", "_dirty _recompute", "the desired state before the round that is watched"),
    ("test_printable.py", "_as_text", "an answer of the server, without a socket"),
)
NOT_OURS = {"_", "_replace", "_continue"}  # of named tuples, and of an object of lightkube
BY_FILE = {TESTS / path: (frozenset(names.split()), reason) for path, names, reason in REVIEWED}


def imports_of_embedded_code(path: Path) -> set[str]:
    """Return the modules of the tests that a string of the file imports, as code for another process."""
    strings = [node.value for node in ast.walk(tree_of(path)) if isinstance(node, ast.Constant)]
    lines = [line for text in strings if isinstance(text, str) for line in text.splitlines()]
    return {line.split()[1] for line in lines if line.startswith("from tests")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_what_is_shared_is_in_support(path: Path) -> None:
    """Importing a test module would make its fixtures and tests part of another, and tie two subjects together."""
    shared = {name for name in imports_of(path) | imports_of_embedded_code(path) if name.startswith("tests.")}
    assert not {name for name in shared if not name.startswith("tests.support")}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in NOT_OURS


def private_names_of(path: Path) -> set[str]:
    """Return private names that are imported, replaced by `setattr`, or taken from an object other than `self`."""
    found: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id == "self"):
            found.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr":
            names = [each.value for each in node.args[:2] if isinstance(each, ast.Constant)]
            found.update(name.rpartition(".")[2] for name in names if isinstance(name, str))
    return {name for name in found if is_private(name)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_private_names_are_used_where_that_was_reviewed(path: Path) -> None:
    reviewed, _ = BY_FILE.get(path, (frozenset(), ""))
    assert private_names_of(path) == reviewed, f"use a public name, or say in {Path(__file__).name} why there is none"


def test_each_review_is_of_a_file_that_exists() -> None:
    assert BY_FILE.keys() <= set(FILES) and len(BY_FILE) == len(REVIEWED)


def test_a_guest_runs_every_file_with_kernel_tests() -> None:
    words = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-m", "kernel", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(words, cwd=kernel_tests.CHECKOUT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    marked = re.findall(r"^(tests/\S+\.py): \d+$", done.stdout, re.MULTILINE)
    assert len(marked) > 40 and set(marked) == set(kernel_tests.files())
    assert {f"tests/{name}" for name in kernel_tests.SLOWEST} <= set(marked)
