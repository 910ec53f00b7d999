"""Labs for tests, and places on an API server.

Labs need root, not ip_vs: without root they fail and say so, for a skip would look like a pass."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from integration.lab import Lab, Servers
from tests.support.api_namespace import kubeconfig, place  # noqa: F401
from tests.support.lab_topology import TOPOLOGY

NOT_ROOT = "network namespaces need root: run these tests as root (`sudo make test-native`)"


@pytest.fixture(scope="session")
def root() -> None:
    if os.geteuid() != 0:
        pytest.fail(NOT_ROOT, pytrace=False)


@pytest.fixture
def servers() -> Iterator[Servers]:
    with Servers() as running:
        yield running


@pytest.fixture
def lab(root: None) -> Iterator[Lab]:
    with Lab(TOPOLOGY) as built:
        yield built
