"""Fixtures of the comparisons with ipvsadm."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.ipvsadm_outputs import Ours
from tests.support.network_namespace import NetworkNamespace


@pytest.fixture
def ours(netns: NetworkNamespace, tmp_path: Path) -> Ours:
    return Ours(tmp_path)
