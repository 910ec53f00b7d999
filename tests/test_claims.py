"""Runs that claim test files from one directory run each file once, whole."""

from __future__ import annotations

from pathlib import Path

from tests.support.programs import run_pytest

TEST = """
import pytest

@pytest.fixture(scope="module")
def made():
    yield 1

def test_one(made): pass

def test_two(made): pass
"""


def test_a_claimed_file_is_left_to_others(tmp_path: Path) -> None:
    for name in ("a/test_1.py", "a/test_2.py", "b/test_3.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(TEST)
    claims = tmp_path / "claims"
    claims.mkdir()
    (claims / str(tmp_path / "a" / "test_2.py").replace("/", "+")).mkdir()
    done = run_pytest("def test_it(): pass\n", tmp_path, "--claims", str(claims))
    assert done.returncode == 0 and "5 passed" in done.stdout, done.stdout + done.stderr
    assert len(list(claims.iterdir())) == 4
    done = run_pytest("def test_it(): pass\n", tmp_path, "--claims", str(claims))
    assert done.returncode == 0 and "passed" not in done.stdout, done.stdout + done.stderr
