"""The map in ipvsagent/__init__.py tells the truth: its paths exist, and its layers are those that are tested."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import ipvsagent
from tests.support.layers import LAYERS, MODULES, PACKAGE

ROOT = PACKAGE.parent
MAP = ipvsagent.__doc__ or ""
PATHS = sorted(set(re.findall(r"\b[\w/]+\.(?:py|txt)\b", MAP)))


def places(path: str) -> list[Path]:
    """Where a path of the map may be: in the package, in the checkout, or beside the path before it on its line."""
    line = next(line for line in MAP.splitlines() if path in line)
    directories = re.findall(r"[\w/]+/", line)
    return [PACKAGE / path, ROOT / path, *(PACKAGE / directory / path for directory in directories)]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_of_the_map_exists(path: str) -> None:
    assert any(place.exists() for place in places(path))


def test_the_map_has_the_layers_that_are_tested() -> None:
    text = " ".join(MAP[MAP.index("Layers, held by") :].partition(": ")[2].partition(". ")[0].split())
    written = [set(layer.split(", ")) for layer in text.split(" → ")]
    assert written == [layer - {"__main__"} for layer in LAYERS]


def module_of(path: Path) -> str:
    words = ["ipvsagent", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(words[:-1] if words[-1] == "__init__" else words)


def test_no_modules_import_each_other_in_a_circle() -> None:
    names = {module_of(path): path for path in MODULES}
    imported = {name: {i for i in _at_run_time(path) if i in names and i != name} for name, path in names.items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " → ".join((*way[way.index(name) :], name))
        if name not in done:
            for other in sorted(imported[name]):
                visit(other, (*way, name))
            done.add(name)

    for name in sorted(names):
        visit(name, ())


def _at_run_time(path: Path) -> set[str]:
    """Modules that are imported when this one is, and not only for the sake of types."""
    found: set[str] = set()
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update({f"{node.module}.{alias.name}" for alias in node.names} | {node.module})
    return {name for name in found if name != package}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_says_what_it_is_in_a_sentence(path: Path) -> None:
    said = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert re.match(r"[`\"A-Z]", said)
    assert re.search(r"[.:!](?:\s|$)", said)
