"""The look at the host's own settings fails, and Services are served all the same."""

from __future__ import annotations

import errno
from pathlib import Path

from ipvsagent.cluster.objects import Changes
from ipvsagent.kernel.fake.kernel import FakeKernel
from ipvsagent.kernel.netlink import OutcomeUnknown
from tests.support.history import A, B
from tests.support.interrupted import Calls
from tests.support.looped import Looped


def test_interfaces_that_cannot_be_listed_end_no_agent(tmp_path: Path) -> None:
    kernel = FakeKernel()
    looped = Looped(kernel, tmp_path, Calls())
    looped.run(5.0, Changes(upserts=(A,), synced=True))
    looped.node.settings_error = OutcomeUnknown(errno.ETIMEDOUT, "the kernel did not answer")
    looped.run(30.0, Changes(upserts=(B,)))
    assert {row.id.address for row in kernel.virtual_servers.values()} >= {*A.cluster_ips, *B.cluster_ips}
    assert any("did not answer" in finding.reason for finding in looped.snapshot().findings)

    looped.node.settings_error = None
    looped.run(15.0)
    assert not any("did not answer" in finding.reason for finding in looped.snapshot().findings)
