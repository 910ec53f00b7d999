"""`status -o ipvsadm` and `save` print what the real ipvsadm prints, over generated tables."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from ipvsagent.address import Address
from ipvsagent.kernel.ipvs.ownership import Ledger, Ownership
from ipvsagent.kernel.ipvs.table import IpvsTable
from ipvsagent.model import Protocol, VirtualServerId
from ipvsagent.rows import FULL_MASK, FULL_PREFIX, Op, Verb, VirtualServerRow, service_option
from tests.support.generated_tables import ipvs_table
from tests.support.ipvsadm_outputs import assert_same, theirs

pytestmark = pytest.mark.kernel

LISTINGS = [
    (),
    ("--nosort",),
    ("--stats",),
    ("--rate",),
    ("--thresholds",),
    ("--persistent-conn",),
    ("--tun-info",),
    ("--stats", "--exact", "--nosort"),
    ("--rate", "--exact"),
    ("--thresholds", "--persistent-conn", "--tun-info", "--nosort"),
]
WRONG_USAGE, THEIR_WRONG_USAGE = 64, 2
NAMED = [
    VirtualServerId(Protocol.TCP, Address("10.0.0.77"), 80),
    VirtualServerId(Protocol.UDP, Address("fd00::77"), 53),
    VirtualServerId(Protocol.SCTP, Address("10.0.0.77"), 80),
    VirtualServerId(Protocol.FWM, Address("0.0.0.0"), 77),
    VirtualServerId(Protocol.FWM, Address("::"), 77),
]


@pytest.fixture
def ipvs(netns):
    table = IpvsTable(Ownership(Ledger(None), set()))
    yield table
    table.close()


def fill(ipvs, rows) -> None:
    refused = ipvs.write([Op(Verb.ADD, row) for row in rows])
    assert [f"{failure.op}: {failure.error}" for failure in refused] == []


@pytest.mark.parametrize("seed", range(3))
def test_generated_tables(ipvs, ours, seed):
    rows = ipvs_table(seed, 250)
    fill(ipvs, rows)
    for options in LISTINGS:
        mine = ours.status(*options)
        assert_same(mine, theirs("-Ln", *options))
        assert mine[1].count(b"\n") == len(rows) + 3  # nothing is missing in both
    assert_same(ours.save(), theirs("-Sn"))

    servers = [row.id for row in rows if isinstance(row, VirtualServerRow)]
    for server in random.Random(seed).sample(servers, 12):
        name = service_option(server).split(" ")
        for options in (), ("--nosort", "--stats"):
            mine = ours.status(*name, *options)
            assert mine[0] == 0
            assert_same(mine, theirs("-Ln", *name, *options))


@pytest.mark.parametrize("seed", range(3))
def test_saved_tables_come_back_whole(ipvs, ours, seed):
    """`ipvsadm -Sn` loses thresholds; what `save --thresholds` prints, `ipvsadm -R` makes the same table of."""
    rows = ipvs_table(100 + seed, 200, restorable=True)
    fill(ipvs, rows)
    held = by_key(ipvs)
    status, text = ours.save("--thresholds")
    assert status == 0
    assert theirs("-C")[0] == 0
    assert list(ipvs.read(None)) == []

    assert theirs("-R", stdin=text.decode())[0] == 0
    assert by_key(ipvs) == held
    assert sorted(ours.save("--thresholds")[1].splitlines()) == sorted(text.splitlines())


def by_key(ipvs):
    return {(getattr(seen.row, "server", None), seen.row.key): seen.row for seen in ipvs.read(None)}


@pytest.mark.parametrize("seed", range(2))
def test_tables_that_ipvsadm_made(ipvs, ours, netns, seed):
    """Nothing of these is ours, and nothing is left out."""
    rows = ipvs_table(200 + seed, 100, restorable=True)
    assert theirs("-R", stdin="".join(f"{row}\n" for row in rows))[0] == 0
    for options in LISTINGS:
        mine = ours.status(*options)
        assert_same(mine, theirs("-Ln", *options))
        assert mine[1].count(b"\n") == len(rows) + 3
    assert_same(ours.save(), theirs("-Sn"))


def test_options_go_together_as_in_ipvsadm(ipvs, ours):
    """One option, two, and some choices of three: the same output, or the same refusal."""
    fill(ipvs, ipvs_table(7, 12))
    fill(ipvs, [VirtualServerRow(i, "rr", mask=FULL_PREFIX if ":" in i.address else FULL_MASK) for i in NAMED])
    tcp, udp, sctp, mark, _ = NAMED
    options: list[tuple[str, ...]] = [
        *(tuple(service_option(i).split(" ")) for i in (tcp, udp, sctp, mark)),
        ("-6",),
        *[(f"--{name}",) for name in ("connection", "timeout", "daemon", "stats", "rate", "thresholds")],
        *[(f"--{name}",) for name in ("persistent-conn", "tun-info", "exact", "nosort")],
    ]
    refused = 0
    threes = random.Random(1).sample(list(combinations(options, 3)), 40)
    for chosen in [*combinations(options, 1), *combinations(options, 2), *threes]:
        arguments = [word for option in chosen for word in option]
        real = theirs("-Ln", *arguments)
        mine = ours.status(*arguments)
        if real[0] == THEIR_WRONG_USAGE:
            assert mine == (WRONG_USAGE, b""), arguments
            refused += 1
        else:
            assert mine == real and real[0] == 0, arguments
    assert refused > 50


@pytest.mark.parametrize(
    "name",
    [("-t", "10.9.9.9:80"), ("-u", "[fd00::9]:53"), ("--sctp-service", "10.9.9.9:1"), ("-f", "9"), ("-f", "9", "-6")],
)
def test_a_virtual_server_that_is_not_there(ipvs, ours, name):
    assert theirs("-Ln", *name) == (1, b"")
    assert ours.status(*name) == (1, b"")


def test_an_empty_table(ipvs, ours):
    for options in LISTINGS:
        assert_same(ours.status(*options), theirs("-Ln", *options))
    for options in ("-c",), ("-c", "--persistent-conn"), ("--daemon",), ("--timeout",):
        assert_same(ours.status(*options), theirs("-Ln", *options))
    assert ours.save() == theirs("-Sn") == (0, b"")
