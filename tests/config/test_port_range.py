"""A range of ports, as kube-apiserver's flag takes it: the cases are those of Kubernetes' own test of it."""

from __future__ import annotations

import pytest

from ipvsagent.config.parsers import PortRange, parse_port_range
from ipvsagent.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("30000-32767", 30000, 32767),
        (" 100-200 ", 100, 200),
        ("100", 100, 100),
        ("1+0", 1, 1),
        ("100+200", 100, 300),
        ("1-65535", 1, 65535),
        ("1+65534", 1, 65535),
    ],
)
def test_what_is_a_range(text: str, first: int, last: int) -> None:
    found = parse_port_range(text)
    assert found == PortRange(first, last)
    assert parse_port_range(str(found)) == found
    assert (found.ports[0], found.ports[-1]) == (first, last)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'' is not a range of ports; write for example 30000-32767"),
        ("100 - 200", "is not a range"),
        ("-100", "is not a range"),
        ("100-", "is not a range"),
        ("1+-1", "is not a range"),
        ("1-+1", "is not a range"),
        ("1-2-3", "is not a range"),
        ("30000-32767,40000", "is not a range"),
        ("٣٠٠٠٠", "is not a range"),
        ("200-100", "'200-100' ends before it begins"),
        ("60000-70000", "'60000-70000' has a port outside the range 1 to 65535"),
        ("70000+80000", "has a port outside the range 1 to 65535"),
        ("1+65535", "has a port outside the range 1 to 65535"),
        ("0-100", "has a port outside the range 1 to 65535"),
    ],
)
def test_what_is_none(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_port_range(text)
    (problem,) = refused.value.problems
    assert reason in problem
