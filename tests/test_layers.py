"""Who may import whom, and what pure code may not touch. The rule is in ipvsagent/__init__.py."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.imports import imports_of
from tests.support.layers import IMPURE, LAYERS, MAY_NOT_KNOW, MODULES, PACKAGE, PURE


def part_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def parts_imported(path: Path) -> set[str]:
    return {
        name.split(".")[1] for name in imports_of(path) if name.startswith("ipvsagent.") and "__version__" not in name
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_layers(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        assert not parts_imported(path)
        return
    level = next(i for i, names in enumerate(LAYERS) if part in names)
    allowed = {part}.union(*LAYERS[level:])
    assert parts_imported(path) <= allowed
    assert not parts_imported(path) & MAY_NOT_KNOW.get(part, set())
    if part in PURE:
        assert not {name.split(".")[0] for name in imports_of(path)} & IMPURE
        calls = {
            n.func.attr
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)
        }
        assert not calls & {"now", "today", "utcnow"}, "pure code is given the time"


def test_every_part_has_a_layer() -> None:
    assert {part_of(p) for p in MODULES} - {"__init__"} <= set().union(*LAYERS)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom ipvsagent.cli import main\n"
        "try:\n main(['--help'])\nexcept SystemExit:\n pass\n"
        "heavy = ('kubernetes', 'pyroute2', 'rich', 'yaml', 'prometheus_client')\n"
        "print(*(name for name in heavy if name in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Commands" in done.stdout and done.stderr.strip() == ""
