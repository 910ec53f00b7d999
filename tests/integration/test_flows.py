"""The packet table is read as it is meant, and judged by what was met."""

import ipaddress
from itertools import combinations

import pytest

from integration.flows import network
from integration.flows.run import Run
from integration.flows.table import Defect, chosen, covering, read_defects, read_table
from integration.flows.verdict import Result, judge
from integration.lab import Failure, LabError, Outcome, Target

TEXT = """
stand  | pods    | agent                   | host
here   | bridged | --cluster-cidr PODS     |

service | endpoints | policy | address | port | ranges
one     | pod-a     | eTP    |         | 80   | outside, pods
two     | pod-r     |        |         | 81   |

[some] stands: here; protocols: TCP, UDP/9; families: IPv4, IPv6

clients   | addresses        | service  | answer   | seen | iptables | upstream
pod, node | ClusterIP        | one, two | endpoint | own  | any      | Services should PROTO

# a comment

[more] stands: here; protocols: TCP; families: IPv6

clients   | addresses        | service  | answer   | seen | iptables | upstream
pod       | NodePort:22, pod-b:8080 | two | refused |
"""
TARGET = Target("10.96.0.1", 80)


def case(answer="pod-a", seen="own", client="pod", protocol="TCP"):
    table = read_table(
        TEXT.replace("endpoint | own ", f"{answer} | {seen} ")
        .replace("pod, node |", f"{client} |")
        .replace("TCP, UDP/9", protocol)
    )
    return table.cases[0]


def test_fewer_cases_still_ask_every_question_and_let_any_two_words_meet():
    every = read_table().cases
    fewer = covering(every, ["policies"])
    assert len(fewer) < 0.6 * len(every)
    assert [c for c in fewer if c.stand == "policies"] == [c for c in every if c.stand == "policies"]

    def asked(cases, *names):
        return {(c.stand, c.section, *(getattr(c, name) for name in names)) for c in cases}

    words = ("client", "address", "service", "payload", "version")
    for names in [("client", "address", "service"), *combinations(words, 2)]:
        assert asked(fewer, *names) == asked(every, *names)


def test_rows_are_multiplied_out():
    table = read_table(TEXT)
    assert len(table.cases) == 2 * 2 * 2 * 2 + 2
    assert len({case.id for case in table.cases}) == len(table.cases)
    first, last = table.cases[0], table.cases[-1]
    assert (first.id, first.expected) == ("here/some/pod ClusterIP one TCP IPv4", "pod-a, seen own")
    assert first.upstream == "Services should http"
    assert table.cases[2].id == "here/some/pod ClusterIP one UDP/9 IPv4" and table.cases[2].size == 9
    assert (last.id, last.expected) == ("here/more/pod pod-b:8080 two TCP IPv6", "refused")
    assert read_table(TEXT, backend="iptables").cases[0].answer == "any"
    assert table.stands[0].bridged and table.stands[0].agent == ("--cluster-cidr", "PODS")
    assert len(chosen(table.cases, "node", [])) == 8
    assert len(chosen(table.cases, "here/*IPv6", [])) == 10
    assert not chosen(table.cases, "", ["elsewhere"])


def test_words_have_addresses():
    table = read_table(TEXT)
    assert network.target(table.cases[0], table) == Target("10.96.0.1", 80, "TCP")
    assert network.target(table.cases[2], table) == Target("10.96.0.1", 80, "UDP", body=9)
    assert network.target(table.cases[-2], table) == Target("fd00:192:168:56::11", 22, "TCP")
    assert network.target(table.cases[-1], table) == Target("fd00:10:244:1::12", 8080, "TCP")
    assert network.client_of(table.cases[0]) == network.Client("pod-b", "10.244.1.12")
    assert {network.client_of(each) for each in chosen(table.cases, "node", [])} == {network.Client("node", "")}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("stands: here", "stands: there"),
        ("one, two", "one, three"),
        ("TCP, UDP/9", "TCP, XYZ"),
        ("one, two", "one, one"),
        ("bridged | --cluster", "bridged | too | many | --cluster"),
    ],
)
def test_nonsense_is_refused(old, new):
    with pytest.raises(LabError):
        read_table(TEXT.replace(old, new))


@pytest.mark.parametrize(
    ("given", "outcome", "right"),
    [
        (case(), Outcome(TARGET, 0, 0.1, "pod-a", "10.244.1.12"), True),
        (case(), Outcome(TARGET, 0, 0.1, "pod-b", "10.244.1.12"), False),
        (case(), Outcome(TARGET, 0, 0.1, "pod-a", "192.168.56.11"), False),
        (case(seen="node"), Outcome(TARGET, 0, 0.1, "pod-a", "192.168.56.11"), True),
        (case(seen="node"), Outcome(TARGET, 0, 0.1, "pod-a", "10.96.0.1"), False),
        (case(seen="changed"), Outcome(TARGET, 0, 0.1, "pod-a", "10.96.0.1"), True),
        (case(seen="changed"), Outcome(TARGET, 0, 0.1, "pod-a", "10.244.1.12"), False),
        (case(seen="any"), Outcome(TARGET, 0, 0.1, "pod-a", "10.96.0.1"), True),
        (case(), Outcome(TARGET, 0, 0.1, failure=Failure.REFUSED), False),
        (case("refused", ""), Outcome(TARGET, 0, 0.1, failure=Failure.REFUSED), True),
        (case("refused", ""), Outcome(TARGET, 0, 1.0, failure=Failure.REFUSED), False),
        (case("refused", ""), Outcome(TARGET, 0, 0.1, failure=Failure.TIMEOUT), False),
        (case("refused", ""), Outcome(TARGET, 0, 0.1, "pod-a", "10.244.1.12"), False),
        (case("refused", "", "node", "UDP"), Outcome(TARGET, 0, 0.1, failure=Failure.FORBIDDEN), True),
        (case("refused", "", "pod", "UDP"), Outcome(TARGET, 0, 0.1, failure=Failure.FORBIDDEN), False),
        (case("silence", ""), Outcome(TARGET, 0, 1.5, failure=Failure.TIMEOUT), True),
        (case("silence", ""), Outcome(TARGET, 0, 0.1, failure=Failure.REFUSED), False),
        (case("closed", ""), Outcome(TARGET, 0, 0.1, failure=Failure.REFUSED), True),
        (case("closed", ""), Outcome(TARGET, 0, 0.1, "host", "10.244.1.12"), False),
        (case("ping", "", protocol="PING"), Outcome(TARGET, 0, 0.1), True),
        (case("ping", "", protocol="PING"), Outcome(TARGET, 0, 0.1, failure=Failure.TIMEOUT), False),
        (case("any", ""), Outcome(TARGET, 0, 0.1, failure=Failure.TIMEOUT), True),
    ],
)
def test_verdicts(given, outcome, right):
    own = network.client_of(given).address
    assert (judge(given, outcome, own, {"192.168.56.11"}).fault == "") is right


def test_a_known_defect_explains_only_what_it_names():
    table = read_table(TEXT)
    run = Run(table, [Defect("here/some/*", "silence", "why"), Defect("here/more/*", "*", "why not")])
    assert run.mark(Result(table.cases[0], "pod-a")) == "ok"
    assert run.mark(Result(table.cases[0], "silence", "silence, not pod-a")) == "DEFECT"
    assert run.mark(Result(table.cases[0], "refused", "refused, not pod-a")) == "failed"
    assert run.gone() == []  # nothing was asked
    with pytest.raises(LabError):
        read_defects("here/* | no reason")


def test_the_table_and_its_defects_are_in_order():
    table = read_table()
    assert len(read_table(backend="iptables").cases) == len(table.cases) > 4000
    assert {case.stand for case in table.cases} == {stand.name for stand in table.stands}
    for defect in read_defects():
        assert any(map(defect.is_about, table.cases)), defect
    for each in table.cases:
        ipaddress.ip_address(network.target(each, table).address)
        network.client_of(each)
