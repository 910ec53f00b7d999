"""The table of routes to Service networks, on a kernel."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator

import pytest

from ipvsagent.address import Address
from ipvsagent.kernel import service_routes
from ipvsagent.kernel.addresses import AddressTable
from ipvsagent.kernel.links import links
from ipvsagent.kernel.service_routes import RouteTable
from ipvsagent.rows import Op, RouteRow, Verb

pytestmark = pytest.mark.kernel

RANGE = "10.96.0.0/16"


def rows(table: RouteTable, keys: object = None) -> set[RouteRow]:
    return {seen.row for seen in table.read(keys)}


@pytest.fixture
def table(netns) -> Iterator[RouteTable]:
    netns.run("ip", "link", "add", "lan0", "mtu", "1400", "type", "dummy")
    netns.run("ip", "link", "set", "lan0", "up")
    netns.run("ip", "address", "add", "192.168.56.11/24", "dev", "lan0")
    netns.run("ip", "address", "add", "192.168.56.12/24", "dev", "lan0")
    netns.run("ip", "address", "add", "fd00::11/64", "dev", "lan0", "nodad")
    addresses = AddressTable()
    made = RouteTable(addresses)
    yield made
    made.close()
    addresses.close()


V4, V6 = RouteRow(RANGE, Address("192.168.56.11")), RouteRow("fd00:96::/112", Address("fd00::11"))


def test_the_table_of_routes(netns, table):
    netns.run("ip", "route", "add", "local", "10.97.0.0/16", "dev", "lo")  # somebody else's
    assert rows(table) == set()
    assert table.write([Op(Verb.ADD, V4), Op(Verb.ADD, V6), Op(Verb.ADD, V4)]) == []
    assert rows(table) == {V4, V6}
    assert rows(table, [V6]) == {V6}
    assert {str(network) for network in table.networks} == {RANGE, "fd00:96::/112"}
    (shown,) = json.loads(netns.run("ip", "-j", "-d", "route", "show", "table", "local", "proto", "119"))
    assert (shown["dst"], shown["dev"], shown["prefsrc"]) == (RANGE, "lo", "192.168.56.11")
    assert shown["metrics"] == [{"mtu": 1400}]
    other = RouteRow(RANGE, Address("192.168.56.12"))
    assert table.write([Op(Verb.ADD, other), Op(Verb.DELETE, V4)]) == []
    assert rows(table) == {other, V6}
    (failure,) = table.write([Op(Verb.ADD, RouteRow(RANGE, Address("192.0.2.1")))])
    assert failure.error.code == errno.EINVAL
    assert rows(table) == {other, V6}
    assert table.write([Op(Verb.DELETE, other), Op(Verb.DELETE, V6), Op(Verb.DELETE, V6)]) == []
    assert rows(table) == set() and not table.networks
    assert "10.97.0.0/16" in netns.run("ip", "route", "show", "table", "local")


def test_a_source_can_change_in_both_families(netns, table):
    netns.run("ip", "address", "add", "fd00::12/64", "dev", "lan0", "nodad")
    assert table.write([Op(Verb.ADD, V6)]) == []
    other = RouteRow(V6.network, Address("fd00::12"))
    assert table.write([Op(Verb.ADD, other), Op(Verb.DELETE, V6)]) == []
    assert rows(table) == {other}


def test_many_routes_with_one_source_ask_for_its_mtu_once(table, monkeypatch):
    """A change from IPVS to iptables writes one for each bound address."""
    asked = []
    monkeypatch.setattr(service_routes, "links", lambda: asked.append(1) or links())
    many = [RouteRow(f"10.98.{n >> 8}.{n & 255}/32", Address("192.168.56.11")) for n in range(1000)]
    assert table.write([Op(Verb.ADD, row) for row in many]) == []
    assert rows(table) == set(many) and len(asked) == 1
    assert table.write([Op(Verb.DELETE, row) for row in many]) == []
    assert rows(table) == set()
