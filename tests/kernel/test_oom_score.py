"""The word about an oom_score_adj that cannot be set says how to do without."""

from __future__ import annotations

from ipvsagent.kernel.host import set_oom_score


def test_a_refusal_names_the_option_that_turns_it_off() -> None:
    (finding,) = set_oom_score(-1001)  # out of the kernel's range, whatever the privileges
    assert "--oom-score-adj 0" in finding.reason
