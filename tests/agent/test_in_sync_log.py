"""What the loop logs when the kernel comes to be in sync."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import pytest

from ipvsagent.cluster.objects import Changes
from ipvsagent.kernel.fake.kernel import FakeKernel
from ipvsagent.rows import VirtualServerRow
from tests.support.history import A, B
from tests.support.interrupted import Calls
from tests.support.looped import Looped


def test_the_first_time_in_sync_after_a_partial_start_is_not_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def logged() -> list[str]:
        found = [record.getMessage() for record in caplog.records if "in sync" in record.getMessage()]
        caplog.clear()
        return found

    caplog.set_level(logging.INFO)
    kernel = FakeKernel()
    kernel.fail(lambda op: isinstance(op.row, VirtualServerRow), errno.ENOMEM)
    looped = Looped(kernel, tmp_path, Calls())
    looped.run(5.0, Changes(upserts=(A,), synced=True))
    assert not logged()
    kernel.heal()
    looped.run(40.0)
    assert logged() == ["in sync"]

    kernel.fail(lambda op: isinstance(op.row, VirtualServerRow), errno.ENOMEM)
    looped.run(5.0, Changes(upserts=(B,)))
    kernel.heal()
    looped.run(40.0)
    assert logged() == ["in sync again"]
