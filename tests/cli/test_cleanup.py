"""How `cleanup` asks and tells."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import click
import pytest

from ipvsagent.cli.cleanup import _confirmed, _enumerate
from ipvsagent.cli.options import found_by
from ipvsagent.config import Config
from tests.support.programs import ipvsagent


def test_what_is_removed_has_names_and_numbers() -> None:
    counts = Counter({"virtual server": 1, "address": 2, "set": 0, "chain or jump": 3})
    assert (
        _enumerate(counts, "the interface svc0")
        == "1 virtual server, 2 addresses, 3 chains and jumps and the interface svc0"
    )
    assert _enumerate(Counter({"set": 1}), "") == "1 set"
    assert _enumerate(Counter({"set": 0}), "") == ""


def test_no_is_an_answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(click, "confirm", lambda question: False)
    assert not _confirmed("Remove it?", yes=False)
    assert capsys.readouterr().err == "nothing removed\n"
    assert _confirmed("Remove it?", yes=True)


def test_without_a_terminal_the_option_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    with pytest.raises(click.UsageError, match="--yes"):
        _confirmed("Remove it?", yes=False)


def test_commands_find_an_agent_by_its_files(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        "apiVersion: ipvsagent.io/v1alpha1\nkind: IPVSAgentConfiguration\nstateDir: /run/other\ninterface: svc0\n"
    )
    by_file = found_by([file], None, None)
    assert (by_file.interface, by_file.state_dir) == ("svc0", Path("/run/other"))
    assert found_by([file], "svc1", None).interface == "svc1"
    assert found_by([], None, Path("/x")) == Config(state_dir=Path("/x"))
    for command in ("cleanup", "status", "save"):
        done = ipvsagent(command, "--config", "/nonexistent")
        assert done.returncode == 64 and "/nonexistent: cannot be read" in done.stderr
