"""Where the accepts of ours stand among the rules of others: in what others wrote, and in cases that differ by one
thing. Text and values, no kernel."""

from __future__ import annotations

from collections.abc import Sequence
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


def chains(rules: Sequence[str], policy: str) -> Held:
    """The chains of rules such as `INPUT -j DROP`; a chain without a rule is written as its name and a colon."""
    names = dict.fromkeys(rule.split()[0].rstrip(":") for rule in rules)
    declared = "".join(f":{name} - [0:0]\n" for name in names if name != "INPUT")
    added = "".join(f"-A {rule}\n" for rule in rules if not rule.endswith(":"))
    return parse_save("filter", f":INPUT {policy} [0:0]\n{declared}{added}")


def case(name: str, expected: Defaults, *rules: str, policy: str = "ACCEPT") -> object:
    return pytest.param(rules, policy, expected, id=name)


@pytest.mark.parametrize(
    ("rules", "policy", "expected"),
    [
        case("a policy alone", default("INPUT", 0, "policy DROP"), policy="DROP"),
        case("nothing", NONE),
        case("behind rules", default("INPUT", 1, "policy DROP"), "INPUT -s 1.2.3.4/32 -j DROP", policy="DROP"),
        case("DROP", default("INPUT", 0, "-j DROP"), "INPUT -j DROP"),
        case("REJECT", default("INPUT", 0, "-j REJECT"), "INPUT -j REJECT"),
        case(
            "DROP before a policy",
            default("INPUT", 1, "-j DROP"),
            "INPUT -p tcp -j ACCEPT",
            "INPUT -j DROP",
            policy="DROP",
        ),
        case(
            "with a comment",
            default("INPUT", 0, '-m comment --comment "all \\"others\\"" -j DROP'),
            'INPUT -m comment --comment "all \\"others\\"" -j DROP',
        ),
        case(
            "with a word for a comment",
            default("INPUT", 0, "-m comment --comment others -j DROP"),
            "INPUT -m comment --comment others -j DROP",
        ),
        case("LOG", default("INPUT", 0, "-j DROP"), "INPUT -j LOG", "INPUT -j DROP"),
        case(
            "several that log, by limit and with a comment",
            default("INPUT", 1, "-j DROP"),
            "INPUT -p tcp -j ACCEPT",
            'INPUT -m limit --limit 3/min --limit-burst 1 -j LOG --log-prefix "-j ACCEPT"',
            'INPUT -m comment --comment "and" -j NFLOG --nflog-group 2',
            "INPUT -j DROP",
        ),
        case(
            "LOG before a policy",
            default("INPUT", 0, "policy DROP"),
            "INPUT -m limit --limit 3/min -j LOG",
            policy="DROP",
        ),
        case(
            "what logs some packets alone may be a rule of its own",
            default("INPUT", 1, "-j DROP"),
            "INPUT -s 1.2.3.4/32 -j LOG",
            "INPUT -j DROP",
        ),
        case(
            "a chain that logs",
            default("INPUT", 0, "-j DROP"),
            "INPUT -j logged",
            "INPUT -j DROP",
            "logged -p tcp -j LOG",
            "logged -j LOG",
        ),
        case(
            "an empty chain may fill",
            default("INPUT", 2, "-j DROP"),
            "INPUT -p tcp -j ACCEPT",
            "INPUT -j empty",
            "INPUT -j DROP",
            "empty:",
        ),
        case(
            "an empty chain behind one that logs",
            default("INPUT", 0, "-j DROP"),
            "INPUT -j LOG",
            "INPUT -j empty",
            "INPUT -j DROP",
            "empty:",
        ),
        case("a denial for an interface is a rule", NONE, "INPUT -i eth0 -j DROP"),
        case("so is one for all but one", NONE, "INPUT ! -i lo -j DROP"),
        case("and one for a protocol", NONE, "INPUT -p tcp -j REJECT"),
        case("everything is accepted before", NONE, "INPUT -j ACCEPT", "INPUT -j DROP", policy="DROP"),
        case("by a chain", NONE, "INPUT -j all", "INPUT -j DROP", "all -j ACCEPT", policy="DROP"),
        case("a queue decides", NONE, "INPUT -j NFQUEUE --queue-num 1", policy="DROP"),
        case("a denial appended behind", NONE, "INPUT -j ACCEPT", "INPUT -s 1.2.3.4/32 -j DROP"),
        case(
            "a rule appended behind a default",
            default("INPUT", 0, "-j DROP"),
            "INPUT -j DROP",
            "INPUT -s 1.2.3.4/32 -j DROP",
        ),
        case(
            "RETURN ends a chain",
            default("INPUT", 1, "-j DROP"),
            "INPUT -j first",
            "INPUT -j DROP",
            "first -j RETURN",
            "first -j REJECT",
        ),
        case("RETURN leads to the policy", NONE, "INPUT -j RETURN", "INPUT -j DROP"),
        case(
            "which may be DROP", default("INPUT", 0, "policy DROP"), "INPUT -j RETURN", "INPUT -j DROP", policy="DROP"
        ),
        case(
            "a policy behind goto is an obstacle",
            Defaults(None, (UnansweredDenial("zone", 1, "policy DROP"),)),
            "INPUT -g zone",
            "INPUT -p tcp -j ACCEPT",
            "zone -p udp -j ACCEPT",
            policy="DROP",
        ),
        case("goto does not come back", NONE, "INPUT -g zone", "INPUT -j DROP", "zone -p tcp -j ACCEPT"),
        case(
            "the end of a chain that every packet passes",
            default("zone", 1, "-j REJECT"),
            "INPUT -g zone",
            "zone -p tcp -j ACCEPT",
            "zone -j REJECT",
        ),
        case(
            "and of one behind it",
            default("zone", 1, "-j REJECT"),
            "INPUT -j zones",
            "zones -j zone",
            "zone -p tcp -j ACCEPT",
            "zone -j REJECT",
        ),
        case(
            "a chain that only denies",
            default("INPUT", 1, "-j deny"),
            "INPUT -p tcp -j ACCEPT",
            "INPUT -j deny",
            "deny -j LOG",
            "deny -j DROP",
        ),
        case(
            "used for rules, too",
            default("INPUT", 2, "-j deny"),
            "INPUT -s 1.2.3.4/32 -j deny",
            "INPUT -p tcp -j ACCEPT",
            "INPUT -j deny",
            "deny -j DROP",
        ),
        case(
            "a chain that is used twice is an obstacle",
            Defaults(None, (UnansweredDenial("zone", 1, "-j DROP"),)),
            "INPUT -p udp -j zone",
            "INPUT -j zone",
            "zone -p tcp -j ACCEPT",
            "zone -j DROP",
        ),
        case(
            "so is the chain of an interface",
            Defaults(None, (UnansweredDenial("zone", 1, "-j DROP"),)),
            "INPUT -i eth0 -g zone",
            "zone -p tcp -j ACCEPT",
            "zone -j DROP",
        ),
        case(
            "beside a default",
            Defaults(Default("INPUT", 1, "policy DROP"), (UnansweredDenial("zone", 1, "-j DROP"),)),
            "INPUT -i eth0 -j zone",
            "zone -p tcp -j ACCEPT",
            "zone -j DROP",
            policy="DROP",
        ),
        case("what denies all of an interface is a rule", NONE, "INPUT -i eth0 -j deny", "deny -j DROP"),
        case(
            "a chain that some packets leave early is an obstacle",
            Defaults(None, (UnansweredDenial("some", 1, "-j DROP"),)),
            "INPUT -j some",
            "INPUT -p tcp -j ACCEPT",
            "some -s 10.0.0.0/8 -j RETURN",
            "some -j LOG",
            "some -j DROP",
        ),
        case(
            "but not what is too much", NONE, "INPUT -j some", "some -m limit --limit 25/sec -j RETURN", "some -j DROP"
        ),
        case(
            "nor what has no chain of its own",
            NONE,
            "INPUT -j some",
            "some -i cali1 -g other",
            "some -j DROP",
            "other:",
        ),
        case(
            "or by goto",
            Defaults(None, (UnansweredDenial("rest", 1, "-j DROP"),)),
            "INPUT -j some",
            "some -s 10.0.0.0/8 -g other",
            "some -j rest",
            "other:",
            "rest -p tcp -j ACCEPT",
            "rest -j DROP",
        ),
    ],
)
def test_defaults(rules: Sequence[str], policy: str, expected: Defaults) -> None:
    assert chains(rules, policy).defaults("INPUT") == expected


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
