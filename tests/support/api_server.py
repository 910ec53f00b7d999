"""An API server for a test, which fails if anything broke down in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from integration.apiserver import ApiServer, Certificates

CERTIFICATES = Certificates()


@contextmanager
def api_server(**options: Any) -> Iterator[ApiServer]:
    """Run an API server, with TLS unless the options say otherwise."""
    with ApiServer(**{"certificates": CERTIFICATES, **options}) as server:
        yield server
    assert server.breakdowns == []
