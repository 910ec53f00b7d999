"""Translations of this node's own clients: as rules, and as a table. No kernel."""

from __future__ import annotations

import pytest

from ipvsagent.address import Address
from ipvsagent.kernel.iptables.translations import TranslationTable, parse_translation
from ipvsagent.model import Protocol, VirtualServerId
from ipvsagent.rows import Observed, Op, TranslationRow, Verb, order
from ipvsagent.rows.packet_rules import Chain

FAMILIES = {"IPv4": ("192.0.2.1", "10.96.0.1"), "IPv6": ("2001:db8::1", "fd00:96::1")}
PRINTED = {
    "IPv4": "-d 192.0.2.1/32 -p {0} -m {0} --dport 80 "
    '-m comment --comment "ipvsagent:{1}" -j DNAT --to-destination 10.96.0.1:32848',
    "IPv6": "-d 2001:db8::1/128 -p {0} -m {0} --dport 80 "
    '-m comment --comment "ipvsagent:{1}" -j DNAT --to-destination [fd00:96::1]:32848',
}
"""As iptables-save prints them, behind `-A IPVSAGENT-INSIDE `."""


def row(protocol: Protocol = Protocol.TCP, family: str = "IPv4", port: int = 80, target: int = 32848) -> TranslationRow:
    source, destination = (Address(text) for text in FAMILIES[family])
    return TranslationRow(VirtualServerId(protocol, source, port), VirtualServerId(protocol, destination, target))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP, Protocol.SCTP])
def test_a_rule_is_read_as_the_translation_that_it_was_made_of(protocol: Protocol, family: str) -> None:
    wanted = row(protocol, family)
    assert parse_translation(wanted.rule) == wanted
    ((mark, _),) = Chain("nat", "IPVSAGENT-INSIDE", (wanted.rule,), ordered=False).marked_rules()
    assert parse_translation(PRINTED[family].format(protocol.lower(), mark)) == wanted


@pytest.mark.parametrize(
    "rule",
    [
        "-d 192.0.2.1/32 -p tcp -m tcp --dport 80 -j ACCEPT",
        "-d 192.0.2.1/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.96.0.1",
        "-d 192.0.2.1/32 -p tcp -m tcp --dport 80:90 -j DNAT --to-destination 10.96.0.1:80",
        "-d 192.0.2.1/32 -p icmp -j DNAT --to-destination 10.96.0.1:80",
        "-d 192.0.2.256/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.96.0.1:80",
        "-p tcp -m tcp --dport 80 -j DNAT --to-destination 10.96.0.1:80",
        "-d 192.0.2.1/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.96.0.1:80-90",
        "-d 192.0.2.1/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.96.0.1:80 --random",
        "",
    ],
)
def test_other_rules_are_none(rule: str) -> None:
    assert parse_translation(rule) is None


def test_addresses_are_as_everywhere() -> None:
    long = row(family="IPv6").rule.replace("2001:db8::1", "2001:db8:0:0::1")
    assert parse_translation(long) == row(family="IPv6")


def test_an_op_is_shown_as_a_command() -> None:
    assert str(Op(Verb.ADD, row())) == (
        "iptables -t nat -A IPVSAGENT-INSIDE -d 192.0.2.1/32 -p tcp -m tcp --dport 80 "
        "-j DNAT --to-destination 10.96.0.1:32848"
    )
    assert str(Op(Verb.DELETE, row(Protocol.UDP, "IPv6"))) == (
        "ip6tables -t nat -D IPVSAGENT-INSIDE -d 2001:db8::1/128 -p udp -m udp --dport 80 "
        "-j DNAT --to-destination [fd00:96::1]:32848"
    )


def test_rows_differ_in_their_target() -> None:
    """So that a new target is a row that comes and one that goes, the new one first."""
    assert row().key != row(target=80).key
    ops = [Op(Verb.DELETE, row()), Op(Verb.ADD, row(target=80))]
    assert [op.verb for op in order(ops)] == [Verb.ADD, Verb.DELETE]


def test_the_kernel_is_asked_once_and_then_the_table_knows() -> None:
    asked: list[int] = []
    reported: list[frozenset[TranslationRow]] = []

    def held() -> frozenset[TranslationRow]:
        asked.append(1)
        return frozenset({row()})

    table = TranslationTable(held, reported.append)
    assert not asked
    assert list(table.read(None)) == [Observed(row())]
    assert list(table.read([row(), row(target=80)])) == [Observed(row())] and list(table.read([])) == []
    assert table.write([Op(Verb.ADD, row(port=443))]) == []
    assert reported == [frozenset({row(), row(port=443)})]
    assert table.write([Op(Verb.DELETE, row()), Op(Verb.DELETE, row(target=80)), Op(Verb.ADD, row(port=443))]) == []
    assert reported[-1] == frozenset({row(port=443)})
    assert {seen.row for seen in table.read(None)} == {row(port=443)} and len(asked) == 1
