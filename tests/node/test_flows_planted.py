"""The packet table sees what it is there for: without a rule of ours, cases fail in the section that is about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

import pytest

from integration.flows.run import Run
from integration.flows.stand import Stand
from integration.flows.table import Case, read_defects, read_table
from integration.lab import Namespace

pytestmark = pytest.mark.kernel
TABLE = read_table()
RUN = Run(TABLE, read_defects())
SECTIONS = {"core", "host protection", "ping", "source ranges", "traffic policies", "pods of other nodes"}
CASES = [
    case
    for case in TABLE.cases
    if case.section in SECTIONS
    and case.protocol in ("TCP", "PING")
    and not (case.section == "traffic policies" and (case.address in ("ExternalIP", "NodePort") or case.version == 6))
]
TOOLS = ("iptables", "ip6tables")
# What is planted: stand, table, chain, which of its rules are taken away; and the section that is to see it.
PLANTS: dict[str, tuple[str, str, str, Callable[[str], bool], str]] = {
    "nothing masqueraded": ("routed", "nat", "IPVSAGENT-MASQ", lambda r: "bpf" not in r and "MASQUERADE" in r, "core"),
    "no hairpin": ("routed", "nat", "IPVSAGENT-MASQ", lambda r: "bpf" in r, "core"),
    "external not marked": ("routed", "mangle", "IPVSAGENT-MARK-IN", lambda r: "EXTERNAL" in r, "core"),
    "host open": ("routed", "filter", "IPVSAGENT-INPUT", lambda r: "IPVSAGENT-HOST" in r, "host protection"),
    "ranges open": ("routed", "mangle", "IPVSAGENT-MARK-IN", lambda r: "RANGE" in r, "source ranges"),
    "ranges open to the node": ("routed", "mangle", "IPVSAGENT-MARK-OUT", lambda r: "RANGE" in r, "source ranges"),
    "no ping": ("routed", "filter", "IPVSAGENT-HOST", lambda r: "icmp" in r and "RETURN" in r, "ping"),
    "all masqueraded": (
        *("policies", "nat", "IPVSAGENT-MASQ"),
        lambda r: "! --mark" in r and "RETURN" in r,
        "traffic policies",
    ),
    "pods not translated": ("policies", "nat", "IPVSAGENT-SERVICES", lambda r: "INSIDE" in r, "traffic policies"),
    "node not translated": ("policies", "nat", "IPVSAGENT-SERVICES-OUT", lambda r: "INSIDE" in r, "traffic policies"),
    "no translations": ("policies", "nat", "IPVSAGENT-INSIDE", lambda r: "DNAT" in r, "traffic policies"),
    "a Service's address as source": (
        *("policies", "nat", "IPVSAGENT-MASQ"),
        lambda r: "IPVSAGENT-VIP src" in r or "IPVSAGENT-6-VIP src" in r,
        "traffic policies",
    ),
    "node refused": ("policies", "mangle", "IPVSAGENT-MARK-OUT", lambda r: "SILENT" in r, "traffic policies"),
    "pods elsewhere not masqueraded": (
        *("bridge", "mangle", "IPVSAGENT-MARK-IN"),
        lambda r: "HOME" in r,
        "pods of other nodes",
    ),
}
STANDS = list(dict.fromkeys(plant[0] for plant in PLANTS.values()))


class Stands:
    """One at a time, as long as the same one is asked for: pytest makes an indirect parameter again for every test."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._built: Stand | None = None

    def __getitem__(self, name: str) -> Stand:
        if self._built is None or self._built.row.name != name:
            self.close()
            row = next(row for row in TABLE.stands if row.name == name)
            self._built = self._open.enter_context(Stand(row, TABLE))
            self._open.enter_context(self._built.agent_halted())
        return self._built

    def close(self) -> None:
        self._built = None
        self._open.close()


@pytest.fixture(scope="module")
def stands() -> Iterator[Stands]:
    with closing(Stands()) as made:
        yield made


@pytest.fixture
def stand(request: pytest.FixtureRequest, stands: Stands) -> Stand:
    return stands[request.param]


def unexpected(stand: Stand, section: str = "") -> list[Case]:
    """Failed cases, of one section or of all, known defects left out."""
    cases = [case for case in CASES if case.stand == stand.row.name and section in ("", case.section)]
    return [result.case for result in stand.results(cases) if RUN.mark(result) == "failed"]


def take_away(node: Namespace, table: str, chain: str, taken: Callable[[str], bool]) -> None:
    for tool in TOOLS:
        rules = node.run(tool, "-t", table, "-S", chain).splitlines()[1:]
        kept = [rule for rule in rules if not taken(rule)]
        assert len(kept) < len(rules), f"{chain} has no such rule any more: change the plant"
        node.run(f"{tool}-restore", "--noflush", stdin="\n".join([f"*{table}", f":{chain} -", *kept, "COMMIT", ""]))


@pytest.mark.parametrize(("stand", "plant"), [(p[0], name) for name, p in PLANTS.items()], indirect=["stand"])
def test_a_missing_rule_is_seen(plant: str, stand: Stand) -> None:
    _, table, chain, taken, section = PLANTS[plant]
    with without(stand.node, table, chain, taken):
        assert unexpected(stand, section)


@pytest.mark.parametrize("stand", STANDS, indirect=True)
def test_with_all_rules_none_fails(stand: Stand) -> None:
    assert not unexpected(stand)


@pytest.mark.parametrize("stand", ["policies"], indirect=True)
def test_what_a_local_policy_keeps_out_goes_nowhere(stand: Stand) -> None:
    """A client outside cannot tell: what were sent to an endpoint elsewhere would be answered past this node."""
    cases = [c for c in CASES if (c.client, c.service, c.section) == ("outside", "e-remote", "traffic policies")]
    kept_out = [case for case in cases if case.address == "LoadBalancer"]
    assert kept_out and not scheduled(stand, kept_out)
    with without(stand.node, "mangle", "IPVSAGENT-MARK-IN", lambda rule: "INNER" in rule):
        assert scheduled(stand, kept_out) == len(kept_out)


@pytest.mark.parametrize("stand", ["policies"], indirect=True)
def test_a_mark_that_leaves_the_node_is_seen(stand: Stand) -> None:
    to_pods = [c for c in CASES if (c.client, c.service, c.section) == ("pod", "e-split", "traffic policies")]
    assert not unexpected(stand) and not stand.faults_of_the_host()
    marking = ("POSTROUTING", "-d", "10.244.0.0/16", "-j", "MARK", "--set-mark", "0x100000")
    stand.node.run("iptables", "-t", "mangle", "-A", *marking)
    try:
        stand.results(to_pods)
    finally:
        stand.node.run("iptables", "-t", "mangle", "-D", *marking)
    assert stand.faults_of_the_host()


def scheduled(stand: Stand, cases: Sequence[Case]) -> int:
    """Connections that IPVS made of these cases. It lists them at once, while it counts them every two seconds
    (estimation_timer of net/netfilter/ipvs/ip_vs_est.c)."""
    before = connections(stand)
    stand.results(cases)
    return len(connections(stand) - before)


def connections(stand: Stand) -> set[tuple[str, str, str]]:
    """Protocol, client, virtual server of each."""
    rows = [line.split() for line in stand.node.run("ipvsadm", "-Lnc").splitlines()]
    return {(row[0], row[3], row[4]) for row in rows if row[0] in ("TCP", "UDP", "SCTP")}


@contextmanager
def without(node: Namespace, table: str, chain: str, taken: Callable[[str], bool]) -> Iterator[None]:
    saved = {tool: node.run(f"{tool}-save") for tool in TOOLS}
    try:
        take_away(node, table, chain, taken)
        yield
    finally:
        for tool, text in saved.items():
            node.run(f"{tool}-restore", stdin=text)
