"""What the image and developers install is what pyproject.toml asks for, by content, and from nowhere in particular."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

CHECKOUT = Path(__file__).parents[2]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
RUNTIME = PROJECT["dependencies"]
WANTED = {
    "requirements.txt": RUNTIME,
    "requirements-dev.txt": [*RUNTIME, *PROJECT["optional-dependencies"]["dev"]],
}


def pins(file: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (CHECKOUT / file).read_text(), re.MULTILINE))


@pytest.mark.parametrize("file", WANTED)
def test_every_dependency_is_locked_to_a_version_that_fits(file: str) -> None:
    locked = pins(file)
    for text in WANTED[file]:
        wanted = Requirement(text)
        assert locked.get(wanted.name.lower(), "") in wanted.specifier, f"{text}: run `make requirements`"


@pytest.mark.parametrize("file", WANTED)
def test_each_has_hashes_and_no_address(file: str) -> None:
    text = (CHECKOUT / file).read_text()
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(pins(file))
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text and "index" not in text


def test_tests_run_with_what_the_image_has() -> None:
    assert pins("requirements.txt").items() <= pins("requirements-dev.txt").items()
