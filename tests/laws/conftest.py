"""Fixtures of the laws."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from ipvsagent.agent import host_look, loop


@pytest.fixture
def no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the sysctls of this machine out of the findings, and save the time of logs and garbage collections."""
    monkeypatch.setattr(loop, "gc", SimpleNamespace(collect=lambda: 0, freeze=lambda: None))
    monkeypatch.setattr(logging.getLogger("ipvsagent"), "disabled", True)
    monkeypatch.setattr(host_look.host, "host_findings", lambda families: ())
