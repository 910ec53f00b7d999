"""One history of a cluster and its node, run through the agent's own loop, with trouble at every call to the kernel in
turn: it must end with the kernel as it is wanted, nothing left to say, and nothing left to do.

Runs on the fake kernel at every call; test_laws_on_kernel.py runs some of it on the real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ipvsagent.agent import host_look
from ipvsagent.findings import Finding
from ipvsagent.kernel.fake.kernel import FakeKernel
from ipvsagent.rows import Row
from tests.support.history import end_of, run_history
from tests.support.interrupted import Calls, Trouble

pytestmark = pytest.mark.usefixtures("no_host")


def calls_of_the_history(tmp_path: Path) -> int:
    calls = Calls()
    run_history(FakeKernel(), tmp_path / "counted", calls)
    return calls.made


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[frozenset[Row], tuple[Finding, ...]]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_look.host, "host_findings", lambda families: ())
        yield end_of(FakeKernel(), tmp_path_factory.mktemp("undisturbed"), Calls())


@pytest.mark.parametrize(
    ("trouble", "many"),
    [*((trouble, 1) for trouble in Trouble), *((trouble, 5) for trouble in Trouble if not trouble.kills)],
    ids=lambda value: value.name.lower() if isinstance(value, Trouble) else str(value),
)
def test_trouble_at_any_call_is_overcome(
    trouble: Trouble, many: int, tmp_path: Path, undisturbed: tuple[frozenset[Row], tuple[Finding, ...]]
) -> None:
    count = calls_of_the_history(tmp_path)
    assert count > 60
    struck: set[str] = set()
    # Each call is hit by every other kind of trouble; all of them at once would take minutes.
    for begin in range(list(Trouble).index(trouble) % 2, count, 2 if many == 1 else 6):
        calls = Calls(begin, trouble, many)
        try:
            assert end_of(FakeKernel(), tmp_path / f"{begin}", calls) == undisturbed
        except Exception as error:
            error.add_note(f"trouble at call {begin}: {', '.join(calls.struck)}")
            raise
        struck.update(calls.struck)
    assert {"read", "write"} <= struck
