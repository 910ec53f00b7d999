"""What the image installs is what pyproject.toml asks for, by content, and from nowhere in particular."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

CHECKOUT = Path(__file__).parents[2]
LOCKED = (CHECKOUT / "requirements.txt").read_text()
PINS = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", LOCKED, re.MULTILINE))


def test_every_dependency_is_locked_to_a_version_that_fits() -> None:
    for text in tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["dependencies"]:
        wanted = Requirement(text)
        assert PINS.get(wanted.name.lower(), "") in wanted.specifier, f"{text}: run `make requirements`"


def test_each_has_hashes_and_no_address() -> None:
    entries = re.split(r"^(?=[a-z0-9])", LOCKED, flags=re.MULTILINE)[1:]
    assert len(entries) == len(PINS)
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in LOCKED and "index" not in LOCKED
