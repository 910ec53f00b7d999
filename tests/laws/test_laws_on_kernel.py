"""The laws of test_laws.py and test_every_call.py on the real kernel: the same machine and the same
history, with its tables where the fake's stand. Fewer runs, for what only it knows.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from ipvsagent.kernel.fake.kernel import FakeKernel
from tests.support.history import end_of, run_history
from tests.support.interrupted import Calls, Trouble
from tests.support.laws import Laws
from tests.support.real_kernel import RealKernel

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("no_host")]

STRIDE = 11


class LawsOnKernel(Laws):
    def make_kernel(self) -> RealKernel:
        self.folder = tempfile.mkdtemp()
        return RealKernel(Path(self.folder) / "ledger")

    def teardown(self) -> None:
        self.kernel.close()
        shutil.rmtree(self.folder)


TestLawsOnKernel = LawsOnKernel.TestCase
TestLawsOnKernel.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_the_history_ends_as_on_the_fake_kernel_whatever_call_is_in_trouble(tmp_path: Path) -> None:
    wanted = end_of(FakeKernel(), tmp_path / "fake", Calls())
    calls = Calls()
    run_history(FakeKernel(), tmp_path / "counted", calls)
    for number, begin in enumerate(range(0, calls.made, STRIDE)):
        trouble = list(Trouble)[number % len(Trouble)]
        kernel = RealKernel(tmp_path / f"ledger-{begin}")
        try:
            assert end_of(kernel, tmp_path / f"{begin}", Calls(begin, trouble)) == wanted, f"{trouble}: call {begin}"
        finally:
            kernel.close()
