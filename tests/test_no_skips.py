"""A test that could not run makes a run fail where all of them should; one that is none of this machine's does not."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.programs import CHECKOUT, run_pytest

TESTS = """
import pytest

def test_runs(): pass

@pytest.mark.only_where(False)
def test_of_another_machine(): raise AssertionError

@pytest.mark.only_where(True)
def test_of_this_one(): pass
"""
SKIPS = "\ndef test_skips(): pytest.skip('no ipset here')\n"


def test_a_skip_fails_only_where_none_is_allowed(tmp_path: Path) -> None:
    done = run_pytest(TESTS, tmp_path, "--no-skips")
    assert done.returncode == 0 and "2 passed, 1 deselected" in done.stdout, done.stdout + done.stderr
    assert run_pytest(TESTS + SKIPS, tmp_path).returncode == 0
    done = run_pytest(TESTS + SKIPS, tmp_path, "--no-skips")
    assert done.returncode == 1 and "failed: 1 skipped" in done.stdout, done.stdout + done.stderr


def test_the_native_tests_allow_none_to_root(tmp_path: Path) -> None:
    path = tmp_path / "id"
    for uid, expected in (("0", True), ("1000", False)):
        path.write_text(f"#!/bin/sh\necho {uid}\n")
        path.chmod(0o755)
        done = subprocess.run(
            ["make", "-n", "test-native"],
            cwd=CHECKOUT,
            env={"PATH": f"{tmp_path}:/usr/local/bin:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert ("--no-skips" in done.stdout) is expected
