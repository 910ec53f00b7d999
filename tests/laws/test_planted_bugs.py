"""The laws are only worth what they catch: bugs planted on purpose, each of which must break one of them.

Each entry of BUGS replaces a piece of one function's source. If a replacement no longer fits the code, the test fails:
plant the bug again where the code is now.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from ipvsagent import pipeline
from ipvsagent.cluster import table
from ipvsagent.kernel.iptables import translations
from ipvsagent.policy import desired
from ipvsagent.reconcile import audit, drain, kernel_tables, reconciler, retry, shared, states
from ipvsagent.rows import ops
from tests.support.laws import CHECKS, Laws

BUGS: dict[str, tuple[Any, str, str, str]] = {
    "removals go before additions": (
        reconciler.Reconciler,
        "_apply",
        "self._add(batch, report)",
        "self._remove(batch, report); self._add(batch, report)",
    ),
    "addresses are bound before their virtual servers": (
        ops,
        "order",
        "op.rank",
        "-op.rank",
    ),
    "a changed weight is not seen": (
        ops,
        "diff",
        "elif old != row:",
        "elif getattr(old, 'scheduler', 0) != getattr(row, 'scheduler', 0):",
    ),
    "a shared address leaves with its first user": (
        shared.SharedRows,
        "_exchange",
        "if not self._counts[row]:",
        "if True:",
    ),
    "the youngest claimant wins": (
        desired.DesiredState,
        "replace",
        "key=lambda c: c.rank)",
        "key=lambda c: c.rank, reverse=True)",
    ),
    "an equal value is a new object": (desired.DesiredState, "replace", "claim = Claim(rank, held.server)", "pass"),
    "a refused write counts as done": (reconciler.Reconciler, "_conclude", "if failures:", "if False:"),
    "a suspect is written from belief": (
        states.States,
        "must_be_read",
        "server_id in self.suspects or",
        "False or",
    ),
    "blindness holds nothing back": (reconciler.Reconciler, "_hold_back", "if not hold or", "if True or"),
    "what is held back is forgotten": (
        states.States,
        "release_held",
        "self.suspects.mark_suspect(server_id, now)",
        "pass",
    ),
    "rows of others are taken for ours": (
        reconciler,
        "is_foreign",
        "return bool(rows)",
        "return False and bool(rows)",
    ),
    "real servers follow a refused virtual server": (
        kernel_tables.KernelTables,
        "write",
        "if barred and",
        "if False and",
    ),
    "strays are never looked for": (audit.Audit, "look", "if passed:", "if False:"),
    "an audit repairs nothing": (audit.Audit, "look", "if differing:", "if False:"),
    "a retry is never due": (retry.RetryQueue, "due", "if s.retry_at <= now", "if False"),
    "a drain never ends": (drain, "_over", "return drain.until is not None and", "return False and"),
    "what returns stays draining": (
        drain.Drains,
        "transform",
        "for key in [k for k in drains if k not in undesired]:",
        "for key in []:",
    ),
    "a restart deletes what drains": (
        drain.Drains,
        "_next",
        "return Drain(quiet, Phase.LEAVING, now + timeout, alive=True) if gentle else None\n"
        "        if drain is None or",
        "return None\n        if drain is None or",
    ),
    "a removed slice makes nothing dirty": (table.ServiceTable, "_put_slice", "if affected:", "if affected and new:"),
    "clients are translated to what an older Service has": (
        pipeline.Pipeline,
        "_translated",
        "if server.inside is None or",
        "if True or",
    ),
    "a Service that loses an address to an older one is not recomputed": (
        desired.DesiredState,
        "replace",
        "passed |= winners - {key}",
        "pass",
    ),
    "a restart forgets translations": (
        translations.TranslationTable,
        "_known",
        "self._rows = set(self._held())",
        "self._rows = set()",
    ),
    "a changed node makes nothing dirty": (
        pipeline.Pipeline,
        "_refresh_facts",
        "return set(self.table.services)",
        "return set()",
    ),
    "every round renders every virtual server": (
        reconciler.Reconciler,
        "round",
        "ids = {*self.states.dirty,",
        "self.states.mark_all_suspect(now); ids = {*self.states.dirty,",
    ),
}


def planted(owner: Any, name: str, old: str, new: str) -> Callable[..., Any]:
    """The function of that name with a bug in it."""
    source = textwrap.dedent(inspect.getsource(getattr(owner, name)))
    pieces = [textwrap.dedent(old), textwrap.indent(old, ""), old.replace("\n        ", "\n    ")]
    piece = next((p for p in pieces if p in source), None)
    assert piece, f"the code has changed: plant {old!r} in {name} again"
    source = source.replace(piece, new.replace("\n        ", "\n    "))
    module = sys.modules[owner.__module__] if inspect.isclass(owner) else owner
    namespace: dict[str, Any] = {}
    exec(
        compile("from __future__ import annotations\n" + source, f"<planted in {name}>", "exec"),
        module.__dict__,
        namespace,
    )
    function: Callable[..., Any] = namespace[name]
    return function


def laws_hold() -> None:
    """Run every check, and then the state machine, without shrinking what fails."""
    for check in CHECKS:
        check()
    run_state_machine_as_test(
        Laws,
        settings=settings(
            max_examples=1500,  # generation depends on what was imported before: a hard one may come late
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],
            database=None,
        ),
    )


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, old, new = BUGS[bug]
    mutant = planted(owner, name, old, new)
    monkeypatch.setattr(owner, name, mutant)
    if not inspect.isclass(owner):
        for module in list(sys.modules.values()):
            if getattr(module, "__name__", "").startswith("ipvsagent") and getattr(module, name, None) is not None:
                monkeypatch.setattr(module, name, mutant)
    with pytest.raises((AssertionError, KeyError, BaseExceptionGroup)):
        laws_hold()
