"""Whether a chain denies by default, in rules as iptables-save prints them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipvsagent.kernel.neighbours.verdicts import Case, Denial, default_denial, saved_steps, saved_table

DATA = Path(__file__).parent.parent / "data" / "packet_filters"
BIT = 0x4000


def denial(text: str, hook: str = "INPUT") -> Denial | None:
    table = saved_table(text, "filter")
    return default_denial(hook, table.policies.get(hook) == "DROP", saved_steps(table, BIT))


def rules(*lines: str, policy: str = "ACCEPT", chains: str = "") -> str:
    made = [f":{chain} - [0:0]" for chain in chains.split()]
    return "\n".join(["*filter", f":INPUT {policy} [0:0]", *made, *(f"-A {line}" for line in lines), "COMMIT", ""])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        (rules(), None),
        (rules(policy="DROP"), Denial("")),
        (rules("INPUT -j DROP"), Denial("INPUT")),
        (rules('INPUT -m comment --comment "the -j ACCEPT" -j REJECT --reject-with tcp-reset'), Denial("INPUT")),
        (rules("INPUT -p tcp -j DROP"), None),
        (rules("INPUT -j ACCEPT", "INPUT -j DROP", policy="DROP"), None),
        (rules("INPUT -p tcp -j ACCEPT", policy="DROP"), Denial("", frozenset([Case.OTHER]))),
        (rules("INPUT -j A", "A -j DROP", chains="A"), Denial("A")),
        (rules("INPUT -g A", "INPUT -j DROP", chains="A"), None),
        (rules("INPUT -j A", "A -j RETURN", "A -j DROP", chains="A"), None),
        (rules("INPUT -j A", "A -m addrtype --dst-type LOCAL -j RETURN", "A -j DROP", chains="A"), None),
        (rules("INPUT -s 192.0.2.1/32 -j A", "A -j DROP", chains="A"), None),
        (rules("INPUT -j LOG --log-prefix denied", "INPUT -j DROP"), Denial("INPUT")),
        (rules("INPUT -j A", "A -j A", "INPUT -j DROP", chains="A"), Denial("INPUT")),
        (
            rules("INPUT -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT", "INPUT -j DROP"),
            Denial("INPUT", frozenset([Case.ANSWERS, Case.TRANSLATED])),
        ),
        (
            rules("INPUT -m state --state ESTABLISHED -j ACCEPT", policy="DROP"),
            Denial("", frozenset([Case.ANSWERS])),
        ),
        (
            rules("INPUT -m connmark --mark 0x4000/0x4000 -j ACCEPT", policy="DROP"),
            Denial("", frozenset([Case.SERVICES])),
        ),
        (
            rules("INPUT -m connmark --mark 0x8000/0x8000 -j ACCEPT", policy="DROP"),
            Denial("", frozenset([Case.OTHER])),
        ),
        (rules("INPUT -m conntrack --ctstate NEW -j DROP", 'INPUT -j "unclosed'), None),
    ],
)
def test_default_denials(text, expected):
    assert denial(text) == expected


@pytest.mark.parametrize(
    ("file", "hook", "by"),
    [
        ("ufw-deny-4", "INPUT", ""),
        ("ufw-deny-4", "FORWARD", ""),
        ("firewalld-eth0-4", "INPUT", "IN_public"),
        ("firewalld-eth0-4", "FORWARD", "FWD_public"),
        ("docker-4", "FORWARD", ""),
    ],
)
def test_those_of_firewalls(file, hook, by):
    found = denial((DATA / f"{file}.rules").read_text(), hook)
    assert found is not None and found.by == by
    assert (Case.ANSWERS in found.accepted) == (file != "docker-4")


@pytest.mark.parametrize(
    ("file", "hook"),
    [("ufw-deny-4", "OUTPUT"), ("firewalld-eth0-4", "OUTPUT"), ("fail2ban-4", "INPUT"), ("docker-4", "INPUT")],
)
def test_who_denies_some_packets_alone(file, hook):
    assert denial((DATA / f"{file}.rules").read_text(), hook) is None
