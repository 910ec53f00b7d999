"""Parses the answers of nf_tables about tables, chains and rules (include/uapi/linux/netfilter/nf_tables.h). Pure.

Of a rule's expressions it interprets only those that show what the rule decides, as a step of
kernel/neighbours/verdicts.py, and whether it gives connections another destination.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator

from msgspec import Struct

from ipvsagent.kernel.neighbours.verdicts import ALL, SOME, Case, Step, Verdict
from ipvsagent.kernel.netlink import attributes

NFGENMSG = struct.Struct(">BBH")
"""Family, version, resource."""
FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", socket.AF_INET6: "ip6"}
TABLE_NAME, _TABLE_FLAGS, _OWNED = 1, 2, 0x2  # NFTA_TABLE_*, NFT_TABLE_F_OWNER
CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 1, 3, 4, 5, 7  # NFTA_CHAIN_*
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2  # NFTA_HOOK_*
RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS = 1, 2, 4  # NFTA_RULE_*
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2  # NFTA_EXPR_*
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
_IP_FAMILIES = ("inet", "ip", "ip6")

_IMMEDIATE_REGISTER, _IMMEDIATE_DATA = 1, 2  # NFTA_IMMEDIATE_*
_VALUE, _VERDICT, _VERDICT_CODE, _VERDICT_CHAIN = 1, 2, 1, 2  # NFTA_DATA_*, NFTA_VERDICT_*
_VERDICTS = {0: Verdict.DENY, 1: Verdict.ACCEPT, -3: Verdict.JUMP, -4: Verdict.GOTO, -5: Verdict.RETURN}
_CT_KEY, _CT_STATE, _CT_STATUS, _CT_MARK = 2, 0, 2, 3  # NFTA_CT_KEY, NFT_CT_*
_ESTABLISHED, _TRANSLATED = 1 << 1, 1 << 5  # NF_CT_STATE_BIT(IP_CT_ESTABLISHED), IPS_DST_NAT
_MASK, _CMP_OPERATION, _CMP_DATA = 4, 2, 3  # NFTA_BITWISE_MASK, NFTA_CMP_OP, NFTA_CMP_DATA
_LOOKUP_REGISTER, _LOOKUP_FLAGS = 3, 5  # NFTA_LOOKUP_DREG, NFTA_LOOKUP_FLAGS: inverted
_EQUAL, _UNEQUAL = 0, 1  # NFT_CMP_*
_PAYLOAD_BASE, _PAYLOAD_OFFSET, _PAYLOAD_SIZE = 2, 3, 4  # NFTA_PAYLOAD_*
_NETWORK, _TRANSPORT = 1, 2  # NFT_PAYLOAD_*_HEADER
_TO, _TO_PORT = ((16, 4), (24, 16)), (2, 2)  # offset and size of a destination address, IPv4 and IPv6, and of a port
_FIB_RESULT, _FIB_FLAGS, _FIB_TYPE, _FIB_DESTINATION, _LOCAL = 2, 3, 3, 2, 2  # NFTA_FIB_*, ADDRTYPE, DADDR, RTN_LOCAL
_NAT_TYPE, _DNAT = 1, 1  # NFTA_NAT_TYPE, NFT_NAT_DNAT
_FREE = frozenset(["counter", "log", "last"])
"""Expressions that every packet passes."""


class Table(Struct, frozen=True, order=True):
    """Names a table of nftables."""

    family: str
    """The name that `nft` uses: ip, ip6, inet."""
    name: str
    owned: bool = False
    """Only the process that owns the table can change it."""

    def __str__(self) -> str:
        return f"{self.family} {self.name}"


class BaseChain(Struct, frozen=True, order=True):
    """Describes a chain that packets enter at a hook."""

    table: Table
    name: str
    type: str
    """filter, nat or route."""
    hook: str
    priority: int
    drops: bool = False
    """Its policy is drop."""

    def __str__(self) -> str:
        return f"{self.table} {self.name}"


class Expression(Struct, frozen=True):
    """Holds one expression of a rule, with its attributes by number."""

    name: str
    attributes: dict[int, bytes]


class Rule(Struct, frozen=True):
    """Holds a rule, with the names of its table and its chain."""

    table: str
    chain: str
    expressions: tuple[Expression, ...]


def parse_table(data: bytes, start: int, end: int) -> Table:
    found = attributes(data, start + NFGENMSG.size, end)
    return Table(_family(data, start), _text(found.get(TABLE_NAME)), bool(_big(found.get(_TABLE_FLAGS)) & _OWNED))


def parse_base_chain(data: bytes, start: int, end: int) -> BaseChain | None:
    """Return a chain, or None if it has no hook for IP packets. The answer does not show whether its table is owned."""
    found = attributes(data, start + NFGENMSG.size, end)
    hook = attributes(found.get(_CHAIN_HOOK, b""))
    number = _big(hook.get(_HOOK_NUMBER))
    family = _family(data, start)
    if not hook or number >= len(_HOOKS) or family not in _IP_FAMILIES:
        return None
    return BaseChain(
        Table(family, _text(found.get(CHAIN_TABLE))),
        _text(found.get(_CHAIN_NAME)),
        _text(found.get(_CHAIN_TYPE)),
        _HOOKS[number],
        int.from_bytes(hook.get(_HOOK_PRIORITY, b""), "big", signed=True),
        _big(found.get(_CHAIN_POLICY, b"\1")) == 0,
    )


def parse_rule(data: bytes, start: int, end: int) -> Rule:
    found = attributes(data, start + NFGENMSG.size, end)
    expressions = tuple(_expressions(found.get(_RULE_EXPRESSIONS, b"")))
    return Rule(_text(found.get(RULE_TABLE)), _text(found.get(_RULE_CHAIN)), expressions)


def _expressions(data: bytes) -> Iterator[Expression]:
    """Yield the elements of a list, which all have the same attribute number."""
    offset = 0
    while offset + 4 <= len(data):
        length = int.from_bytes(data[offset : offset + 2], sys.byteorder)
        if length < 4:
            return
        element = attributes(data[offset + 4 : offset + length])
        yield Expression(_text(element.get(_EXPRESSION_NAME)), attributes(element.get(_EXPRESSION_DATA, b"")))
        offset += length + 3 & ~3


def step_of(rule: Rule, bit: int) -> Step:
    """Return what a rule decides, and about which packets.

    bit: the bit of the conntrack mark of connections to Services. A set or map of connection states is assumed to
    accept established connections, because its elements would have to be read with further messages.
    """
    conditions: list[Expression] = []
    for expression in rule.expressions:
        verdict, target = _verdict_of(expression)
        if verdict is not None:
            return Step(_cases(conditions, bit), verdict, target)
        if expression.name not in _FREE:
            conditions.append(expression)
    if _is_map_of_states(conditions):
        return Step(frozenset([Case.ANSWERS]), Verdict.ACCEPT)
    return Step(SOME, Verdict.NONE)


def _verdict_of(expression: Expression) -> tuple[Verdict | None, str]:
    if expression.name == "reject":
        return Verdict.DENY, ""
    if expression.name != "immediate" or _big(expression.attributes.get(_IMMEDIATE_REGISTER)) != 0:
        return None, ""
    verdict = attributes(attributes(expression.attributes.get(_IMMEDIATE_DATA, b"")).get(_VERDICT, b""))
    code = int.from_bytes(verdict.get(_VERDICT_CODE, b""), "big", signed=True)
    return _VERDICTS.get(code, Verdict.NONE), _text(verdict.get(_VERDICT_CHAIN))


def _cases(conditions: list[Expression], bit: int) -> frozenset[Case]:
    if not conditions:
        return ALL
    case = _case_of_address(conditions) if conditions[0].name == "fib" else _case_of_connection(conditions, bit)
    return frozenset([case])


def _case_of_address(conditions: list[Expression]) -> Case:
    if [expression.name for expression in conditions] == ["fib", "cmp"]:
        of_destination = _big(conditions[0].attributes.get(_FIB_FLAGS)) & _FIB_DESTINATION
        is_type = _big(conditions[0].attributes.get(_FIB_RESULT)) == _FIB_TYPE
        if of_destination and is_type and _big(conditions[1].attributes.get(_CMP_OPERATION)) == _EQUAL:
            return (
                Case.LOCAL if int.from_bytes(_value(conditions[1], _CMP_DATA), sys.byteorder) == _LOCAL else Case.OTHER
            )
    return Case.OTHER


def _case_of_connection(conditions: list[Expression], bit: int) -> Case:
    first, *others = conditions
    if first.name != "ct":
        return Case.OTHER
    key = _big(first.attributes.get(_CT_KEY, b"\xff"))
    names = [expression.name for expression in others]
    if key == _CT_STATE and names == ["lookup"]:
        return Case.ANSWERS
    mask = ~0
    if names == ["bitwise", "cmp"]:
        mask = int.from_bytes(_value(others[0], _MASK), sys.byteorder)
    elif names != ["cmp"]:
        return Case.OTHER
    operation = _big(others[-1].attributes.get(_CMP_OPERATION))
    value = int.from_bytes(_value(others[-1], _CMP_DATA), sys.byteorder)
    if operation == _UNEQUAL and value == 0:
        value = mask  # any of these bits
    elif operation != _EQUAL or value == 0:
        return Case.OTHER
    if key == _CT_STATE and value & _ESTABLISHED:
        return Case.ANSWERS
    if key == _CT_STATUS and value & _TRANSLATED:
        return Case.TRANSLATED
    if key == _CT_MARK and mask == value == bit:
        return Case.SERVICES
    return Case.OTHER


def _is_map_of_states(conditions: list[Expression]) -> bool:
    if [expression.name for expression in conditions] != ["ct", "lookup"]:
        return False
    state, lookup = conditions
    return _big(state.attributes.get(_CT_KEY, b"\xff")) == _CT_STATE and _LOOKUP_REGISTER in lookup.attributes


def redirects(rule: Rule) -> bool:
    """Return whether the rule gives connections another destination."""
    return any(
        expression.name == "redir" or (expression.name == "nat" and _big(expression.attributes.get(_NAT_TYPE)) == _DNAT)
        for expression in rule.expressions
    )


def names_destination(rule: Rule) -> bool:
    """Return whether the rule applies only to certain destination addresses."""
    is_destination = False
    for expression in rule.expressions:
        if expression.name == "payload":
            is_destination = _big(expression.attributes.get(_PAYLOAD_BASE)) == _NETWORK and _place(expression) in _TO
        elif is_destination and expression.name in ("cmp", "lookup"):
            inverted = _CMP_OPERATION if expression.name == "cmp" else _LOOKUP_FLAGS
            return _big(expression.attributes.get(inverted)) == _EQUAL
    return False


def port_of(rule: Rule) -> int | None:
    """Return the destination port that a rule applies to; None if it is not a single one."""
    is_port = False
    for expression in rule.expressions:
        if expression.name == "payload":
            is_port = _big(expression.attributes.get(_PAYLOAD_BASE)) == _TRANSPORT and _place(expression) == _TO_PORT
        elif is_port and expression.name == "cmp" and _big(expression.attributes.get(_CMP_OPERATION)) == _EQUAL:
            return _big(_value(expression, _CMP_DATA)[:2])
    return None


def _place(expression: Expression) -> tuple[int, int]:
    return _big(expression.attributes.get(_PAYLOAD_OFFSET)), _big(expression.attributes.get(_PAYLOAD_SIZE))


def _value(expression: Expression, number: int) -> bytes:
    return attributes(expression.attributes.get(number, b"")).get(_VALUE, b"")


def _family(data: bytes, start: int) -> str:
    return FAMILIES.get(data[start], str(data[start]))


def _text(raw: bytes | None) -> str:
    return (raw or b"").rstrip(b"\0").decode(errors="replace")


def _big(raw: bytes | None) -> int:
    return int.from_bytes(raw or b"", "big")
