"""What the laws share."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from ipvsagent.agent import loop


@pytest.fixture
def no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """What sysctls this machine has is not in question; nobody reads a hundred logs, and garbage may stay a while."""
    monkeypatch.setattr(loop, "gc", SimpleNamespace(collect=lambda: 0, freeze=lambda: None))
    monkeypatch.setattr(logging.getLogger("ipvsagent"), "disabled", True)
    monkeypatch.setattr(loop.host, "host_findings", lambda families: ())
