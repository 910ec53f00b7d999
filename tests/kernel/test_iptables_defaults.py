"""Where the accepts of ours stand among the rules of others: in what others wrote, and in cases that differ by one
thing. Text and values, no kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipvsagent.kernel.iptables.defaults import Default, Defaults, UnansweredDenial, accepts_in
from ipvsagent.kernel.iptables.text import Held, parse_all, parse_save

RECORDED = Path(__file__).parents[2] / "integration" / "flows" / "neighbours" / "rules"
NONE = Defaults()
PORT = {4: "-j REJECT --reject-with icmp-port-unreachable", 6: "-j REJECT --reject-with icmp6-port-unreachable"}
HOST = {4: "-j REJECT --reject-with icmp-host-prohibited", 6: "-j REJECT --reject-with icmp6-adm-prohibited"}
RHEL = """\
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p icmp -j ACCEPT
-A INPUT -i lo -j ACCEPT
-A INPUT -p tcp -m state --state NEW -m tcp --dport 22 -j ACCEPT
-A INPUT -j REJECT --reject-with icmp-host-prohibited
-A FORWARD -j REJECT --reject-with icmp-host-prohibited
"""
"""/etc/sysconfig/iptables of the package iptables-services."""


def default(chain: str, index: int, denial: str) -> Defaults:
    return Defaults(Default(chain, index, denial))


@pytest.mark.parametrize(
    ("name", "version", "on_input", "on_forward"),
    [
        ("ufw-deny", 4, default("INPUT", 3, "policy DROP"), default("FORWARD", 3, "policy DROP")),
        ("ufw-deny", 6, default("INPUT", 3, "policy DROP"), default("FORWARD", 3, "policy DROP")),
        ("ufw-reject", 4, default("INPUT", 3, "-j ufw-reject-input"), default("FORWARD", 3, "-j ufw-reject-forward")),
        ("ufw-reject", 6, default("INPUT", 3, "-j ufw6-reject-input"), default("FORWARD", 3, "-j ufw6-reject-forward")),
        ("firewalld-none", 4, default("IN_public", 8, PORT[4]), default("FWD_public", 7, PORT[4])),
        ("firewalld-none", 6, default("IN_public", 8, PORT[6]), default("FWD_public", 7, PORT[6])),
        (
            "firewalld-eth0",
            4,
            Defaults(Default("INPUT", 5, HOST[4]), (UnansweredDenial("IN_public", 8, PORT[4]),)),
            Defaults(Default("FORWARD", 5, HOST[4]), (UnansweredDenial("FWD_public", 7, PORT[4]),)),
        ),
        (
            "firewalld-eth0",
            6,
            Defaults(Default("INPUT", 5, HOST[6]), (UnansweredDenial("IN_public", 8, PORT[6]),)),
            Defaults(Default("FORWARD", 6, HOST[6]), (UnansweredDenial("FWD_public", 7, PORT[6]),)),
        ),
        ("docker", 4, NONE, default("FORWARD", 6, "policy DROP")),
        ("docker", 6, NONE, default("FORWARD", 5, "policy DROP")),
        ("fail2ban", 4, NONE, NONE),
        ("fail2ban", 6, NONE, NONE),
        ("fail2ban-allports", 4, NONE, NONE),
        ("fail2ban-allports", 6, NONE, NONE),
    ],
)
def test_what_programs_wrote(name: str, version: int, on_input: Defaults, on_forward: Defaults) -> None:
    text = (RECORDED / f"{name}-{version}.rules").read_text()
    (held,) = [one for one in parse_all(text) if one.table == "filter"]
    assert held.defaults("INPUT") == on_input
    assert held.defaults("FORWARD") == on_forward
    assert held.defaults("OUTPUT") == NONE


def test_the_rules_that_rhel_ships() -> None:
    held = parse_save("filter", RHEL)
    assert held.defaults("INPUT") == default("INPUT", 4, HOST[4])
    assert held.defaults("FORWARD") == default("FORWARD", 0, HOST[4])
    assert held.defaults("OUTPUT") == NONE


def chains(text: str, policy: str = "ACCEPT") -> Held:
    """Lines such as `INPUT -j DROP`; each chain that is named first in one is there."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    names = dict.fromkeys(line.split()[0].rstrip(":") for line in lines)
    declared = "".join(f":{name} - [0:0]\n" for name in names if name != "INPUT")
    rules = "".join(f"-A {line}\n" for line in lines if not line.endswith(":"))
    return parse_save("filter", f":INPUT {policy} [0:0]\n{declared}{rules}")


@pytest.mark.parametrize(
    ("text", "policy", "expected"),
    [
        pytest.param("", "DROP", default("INPUT", 0, "policy DROP"), id="a policy alone"),
        pytest.param("", "ACCEPT", NONE, id="nothing"),
        pytest.param("INPUT -s 1.2.3.4/32 -j DROP", "DROP", default("INPUT", 1, "policy DROP"), id="behind rules"),
        pytest.param("INPUT -j DROP", "ACCEPT", default("INPUT", 0, "-j DROP"), id="DROP"),
        pytest.param("INPUT -j REJECT", "ACCEPT", default("INPUT", 0, "-j REJECT"), id="REJECT"),
        pytest.param(
            "INPUT -p tcp -j ACCEPT \n INPUT -j DROP", "DROP", default("INPUT", 1, "-j DROP"), id="DROP before a policy"
        ),
        pytest.param(
            'INPUT -m comment --comment "all \\"others\\"" -j DROP',
            "ACCEPT",
            default("INPUT", 0, '-m comment --comment "all \\"others\\"" -j DROP'),
            id="with a comment",
        ),
        pytest.param(
            "INPUT -m comment --comment others -j DROP",
            "ACCEPT",
            default("INPUT", 0, "-m comment --comment others -j DROP"),
            id="with a word for a comment",
        ),
        pytest.param("INPUT -j LOG \n INPUT -j DROP", "ACCEPT", default("INPUT", 0, "-j DROP"), id="LOG"),
        pytest.param(
            'INPUT -p tcp -j ACCEPT \n INPUT -m limit --limit 3/min --limit-burst 1 -j LOG --log-prefix "-j ACCEPT" \n'
            'INPUT -m comment --comment "and" -j NFLOG --nflog-group 2 \n INPUT -j DROP',
            "ACCEPT",
            default("INPUT", 1, "-j DROP"),
            id="several that log, by limit and with a comment",
        ),
        pytest.param(
            "INPUT -m limit --limit 3/min -j LOG", "DROP", default("INPUT", 0, "policy DROP"), id="LOG before a policy"
        ),
        pytest.param(
            "INPUT -s 1.2.3.4/32 -j LOG \n INPUT -j DROP",
            "ACCEPT",
            default("INPUT", 1, "-j DROP"),
            id="what logs some packets alone may be a rule of its own",
        ),
        pytest.param(
            "INPUT -j logged \n INPUT -j DROP \n logged -p tcp -j LOG \n logged -j LOG",
            "ACCEPT",
            default("INPUT", 0, "-j DROP"),
            id="a chain that logs",
        ),
        pytest.param(
            "INPUT -p tcp -j ACCEPT \n INPUT -j empty \n INPUT -j DROP \n empty:",
            "ACCEPT",
            default("INPUT", 2, "-j DROP"),
            id="an empty chain may fill",
        ),
        pytest.param(
            "INPUT -j LOG \n INPUT -j empty \n INPUT -j DROP \n empty:",
            "ACCEPT",
            default("INPUT", 0, "-j DROP"),
            id="an empty chain behind one that logs",
        ),
        pytest.param("INPUT -i eth0 -j DROP", "ACCEPT", NONE, id="a denial for an interface is a rule"),
        pytest.param("INPUT ! -i lo -j DROP", "ACCEPT", NONE, id="so is one for all but one"),
        pytest.param("INPUT -p tcp -j REJECT", "ACCEPT", NONE, id="and one for a protocol"),
        pytest.param("INPUT -j ACCEPT \n INPUT -j DROP", "DROP", NONE, id="everything is accepted before"),
        pytest.param("INPUT -j all \n INPUT -j DROP \n all -j ACCEPT", "DROP", NONE, id="by a chain"),
        pytest.param("INPUT -j NFQUEUE --queue-num 1", "DROP", NONE, id="a queue decides"),
        pytest.param("INPUT -j ACCEPT \n INPUT -s 1.2.3.4/32 -j DROP", "ACCEPT", NONE, id="a denial appended behind"),
        pytest.param(
            "INPUT -j DROP \n INPUT -s 1.2.3.4/32 -j DROP",
            "ACCEPT",
            default("INPUT", 0, "-j DROP"),
            id="a rule appended behind a default",
        ),
        pytest.param(
            "INPUT -j first \n INPUT -j DROP \n first -j RETURN \n first -j REJECT",
            "ACCEPT",
            default("INPUT", 1, "-j DROP"),
            id="RETURN ends a chain",
        ),
        pytest.param("INPUT -j RETURN \n INPUT -j DROP", "ACCEPT", NONE, id="RETURN leads to the policy"),
        pytest.param(
            "INPUT -j RETURN \n INPUT -j DROP", "DROP", default("INPUT", 0, "policy DROP"), id="which may be DROP"
        ),
        pytest.param(
            "INPUT -g zone \n INPUT -p tcp -j ACCEPT \n zone -p udp -j ACCEPT",
            "DROP",
            Defaults(None, (UnansweredDenial("zone", 1, "policy DROP"),)),
            id="a policy behind goto is an obstacle",
        ),
        pytest.param(
            "INPUT -g zone \n INPUT -j DROP \n zone -p tcp -j ACCEPT",
            "ACCEPT",
            NONE,
            id="goto does not come back",
        ),
        pytest.param(
            "INPUT -g zone \n zone -p tcp -j ACCEPT \n zone -j REJECT",
            "ACCEPT",
            default("zone", 1, "-j REJECT"),
            id="the end of a chain that every packet passes",
        ),
        pytest.param(
            "INPUT -j zones \n zones -j zone \n zone -p tcp -j ACCEPT \n zone -j REJECT",
            "ACCEPT",
            default("zone", 1, "-j REJECT"),
            id="and of one behind it",
        ),
        pytest.param(
            "INPUT -p tcp -j ACCEPT \n INPUT -j deny \n deny -j LOG \n deny -j DROP",
            "ACCEPT",
            default("INPUT", 1, "-j deny"),
            id="a chain that only denies",
        ),
        pytest.param(
            "INPUT -s 1.2.3.4/32 -j deny \n INPUT -p tcp -j ACCEPT \n INPUT -j deny \n deny -j DROP",
            "ACCEPT",
            default("INPUT", 2, "-j deny"),
            id="used for rules, too",
        ),
        pytest.param(
            "INPUT -p udp -j zone \n INPUT -j zone \n zone -p tcp -j ACCEPT \n zone -j DROP",
            "ACCEPT",
            Defaults(None, (UnansweredDenial("zone", 1, "-j DROP"),)),
            id="a chain that is used twice is an obstacle",
        ),
        pytest.param(
            "INPUT -i eth0 -g zone \n zone -p tcp -j ACCEPT \n zone -j DROP",
            "ACCEPT",
            Defaults(None, (UnansweredDenial("zone", 1, "-j DROP"),)),
            id="so is the chain of an interface",
        ),
        pytest.param(
            "INPUT -i eth0 -j zone \n zone -p tcp -j ACCEPT \n zone -j DROP",
            "DROP",
            Defaults(Default("INPUT", 1, "policy DROP"), (UnansweredDenial("zone", 1, "-j DROP"),)),
            id="beside a default",
        ),
        pytest.param(
            "INPUT -i eth0 -j deny \n deny -j DROP", "ACCEPT", NONE, id="what denies all of an interface is a rule"
        ),
        pytest.param(
            "INPUT -j some \n INPUT -p tcp -j ACCEPT \n some -s 10.0.0.0/8 -j RETURN \n some -j LOG \n some -j DROP",
            "ACCEPT",
            Defaults(None, (UnansweredDenial("some", 1, "-j DROP"),)),
            id="a chain that some packets leave early is an obstacle",
        ),
        pytest.param(
            "INPUT -j some \n some -m limit --limit 25/sec -j RETURN \n some -j DROP",
            "ACCEPT",
            NONE,
            id="but not what is too much",
        ),
        pytest.param(
            "INPUT -j some \n some -i cali1 -g other \n some -j DROP \n other:",
            "ACCEPT",
            NONE,
            id="nor what has no chain of its own",
        ),
        pytest.param(
            "INPUT -j some \n some -s 10.0.0.0/8 -g other \n some -j rest \n other: \n"
            "rest -p tcp -j ACCEPT \n rest -j DROP",
            "ACCEPT",
            Defaults(None, (UnansweredDenial("rest", 1, "-j DROP"),)),
            id="or by goto",
        ),
    ],
)
def test_defaults(text: str, policy: str, expected: Defaults) -> None:
    assert chains(text, policy).defaults("INPUT") == expected


def test_rules_of_ours_are_not_counted() -> None:
    held = parse_save(
        "filter",
        ":INPUT DROP [0:0]\n:IPVSAGENT-INPUT - [0:0]\n-A INPUT -j IPVSAGENT-INPUT\n-A INPUT -p tcp -j ACCEPT\n"
        '-A INPUT -m comment --comment "ipvsagent:before-the-default" -j IPVSAGENT-ALLOW-IN\n',
    )
    assert held.defaults("INPUT") == default("INPUT", 1, "policy DROP")


def test_an_operator_answers_an_obstacle() -> None:
    chain = "-A INPUT -j zone\n-A FORWARD -j zone\n-A zone -p tcp -j ACCEPT\n{}-A zone -j DROP\n"
    held = parse_save("filter", ":INPUT ACCEPT [0:0]\n" + chain.format("-A zone -j IPVSAGENT-ALLOW-FWD\n"))
    assert held.unanswered("FORWARD", "IPVSAGENT-ALLOW-FWD") == ()
    assert held.unanswered("INPUT", "IPVSAGENT-ALLOW-IN") == (UnansweredDenial("zone", 2, "-j DROP"),)
    behind = parse_save("filter", f":INPUT ACCEPT [0:0]\n{chain.format('')}-A zone -j IPVSAGENT-ALLOW-IN\n")
    assert behind.unanswered("INPUT", "IPVSAGENT-ALLOW-IN") == (UnansweredDenial("zone", 1, "-j DROP"),)


def test_only_table_filter_has_defaults() -> None:
    assert parse_save("nat", ":INPUT DROP [0:0]\n-A INPUT -j DROP\n").defaults("INPUT") == NONE


def test_what_accepts_new_connections() -> None:
    others = {"zone": ["-s 10.0.0.0/8 -j deeper"], "deeper": ["-j zone", '-m comment --comment "hi" -j ACCEPT']}
    passing = [
        "-i lo -j ACCEPT",
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-m state --state ESTABLISHED -j ACCEPT",
        "-m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT",
        "-p tcp -j DROP",
        "-p tcp",
    ]
    assert accepts_in(passing, others) == ""
    assert accepts_in([*passing, "-p tcp -m tcp --dport 22 -j ACCEPT"], {}) == "-p tcp -m tcp --dport 22 -j ACCEPT"
    assert accepts_in(["-m conntrack --ctstate NEW,RELATED -j ACCEPT"], {}).startswith("-m conntrack")
    assert accepts_in(["-j zone"], others) == '-A deeper -m comment --comment "hi" -j ACCEPT'
