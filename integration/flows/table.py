"""Reads table.txt, and expands its rows to cases."""

from __future__ import annotations

import fnmatch
import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from integration.lab.errors import LabError
from integration.lab.servers import Protocol

TABLE = Path(__file__).with_name("table.txt")
DEFECTS = {
    "ipvs": Path(__file__).with_name("defects.txt"),
    "iptables": Path(__file__).with_name("defects-iptables.txt"),
}
FAMILIES = {"IPv4": 4, "IPv6": 6}
PROTOCOLS = get_args(Protocol)
_UPSTREAM_WORD = {"TCP": "http", "UDP": "udp", "SCTP": "sctp", "PING": "ping", "HTTP": "http"}

Row = Mapping[str, str]


@dataclass(frozen=True)
class StandRow:
    """Where cases run. bridged: the pods are on a bridge. agent: its options. host: what else the node has. check: the
    neighbours that `ipvsagent check` names there; empty = it is not asked."""

    name: str
    bridged: bool
    agent: tuple[str, ...]
    host: str
    check: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ServiceRow:
    """policies: eTP, iTP: these traffic policies are Local. addresses: of the load balancer, of both families, if they
    are not the Service's own. ranges: words for networks. prefers: the endpoint that is taken where it may be.
    affinity: to the client's address. families: of its cluster IPs; external addresses are of both."""

    name: str
    number: int
    endpoints: tuple[str, ...]
    policies: frozenset[str]
    addresses: tuple[str, ...]
    port: int
    ranges: tuple[str, ...]
    prefers: str
    affinity: bool
    families: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    stand: str
    section: str
    client: str
    address: str
    service: str
    protocol: Protocol
    size: int
    version: int
    answer: str
    seen: str
    upstream: str

    @property
    def payload(self) -> tuple[str, int]:
        """The protocol and the size of the request."""
        return self.protocol, self.size

    @property
    def id(self) -> str:
        """The unique id, which --only matches."""
        size = f"/{self.size}" if self.size else ""
        words = [self.client, self.address, self.service, f"{self.protocol}{size}", f"IPv{self.version}"]
        return f"{self.stand}/{self.section}/{' '.join(filter(None, words))}"

    @property
    def expected(self) -> str:
        return self.answer + (f", seen {self.seen}" if self.seen else "")


@dataclass(frozen=True)
class Table:
    """backend: the one that the agents of its stands use, and whose column is expected."""

    backend: str
    stands: tuple[StandRow, ...]
    services: tuple[ServiceRow, ...]
    cases: tuple[Case, ...]

    def service(self, name: str) -> ServiceRow:
        return next(service for service in self.services if service.name == name)


@dataclass(frozen=True)
class Defect:
    """cases, met: patterns, as of file names, of ids and of what the client met."""

    cases: str
    met: str
    reason: str

    def is_about(self, case: Case) -> bool:
        return fnmatch.fnmatchcase(case.id, self.cases)

    def explains(self, case: Case, met: str) -> bool:
        return self.is_about(case) and fnmatch.fnmatchcase(met, self.met)


def read_table(text: str | None = None, backend: str = "ipvs") -> Table:
    """Reads the table. Raises LabError with the line for a syntax error."""
    stands: list[StandRow] = []
    services: list[ServiceRow] = []
    cases: list[Case] = []
    for section, row in _rows(TABLE.read_text() if text is None else text):
        if "stand" in row:
            is_bridged, check = row["pods"] == "bridged", frozenset(_words(row.get("check", "")))
            stands.append(StandRow(row["stand"], is_bridged, tuple(row["agent"].split()), row["host"], check))
        elif "endpoints" in row:
            services.append(_service(row, len(services) + 1))
        else:
            cases.extend(_cases(section, row, backend, {service.name: service for service in services}))
    ids = [case.id for case in cases]
    if len(set(ids)) < len(ids):
        twice = next(each for each in ids if ids.count(each) > 1)
        raise LabError(f"the table has a case twice: {twice}")
    if unknown := {case.stand for case in cases} - {stand.name for stand in stands}:
        raise LabError(f"the table has no stand {', '.join(sorted(unknown))}")
    return Table(backend, tuple(stands), tuple(services), tuple(cases))


def read_defects(text: str | None = None, backend: str = "ipvs") -> list[Defect]:
    """Reads lines of the form `CASES | MET | REASON`."""
    found = []
    for line in _lines(DEFECTS[backend].read_text() if text is None else text):
        words = [word.strip() for word in line.split("|")]
        if len(words) != 3 or not all(words):
            raise LabError(f"a defect is written CASES | MET | REASON: {line}")
        found.append(Defect(*words))
    return found


def _lines(text: str) -> Iterator[str]:
    return (line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#"))


def _rows(text: str) -> Iterator[tuple[Row, Row]]:
    """Yields every row with the settings of its section. A line that follows an empty one names the columns."""
    section: dict[str, str] = {}
    columns: list[str] = []
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line:
            columns = []
        elif line.startswith("["):
            name, _, settings = line[1:].partition("]")
            section = {"name": name}
            section |= {k.strip(): v.strip() for k, _, v in (word.partition(":") for word in settings.split(";"))}
        elif not line.startswith("#"):
            cells = [cell.strip() for cell in line.split("|")]
            if not columns:
                columns = cells
            elif len(cells) > len(columns):
                raise LabError(f"line {number} of the table has more cells than columns: {line}")
            else:
                yield section, dict(itertools.zip_longest(columns, cells, fillvalue=""))


def _service(row: Row, number: int) -> ServiceRow:
    return ServiceRow(
        row["service"],
        number,
        tuple(_words(row["endpoints"])),
        frozenset(_words(row["policy"])),
        tuple(_words(row["address"])),
        int(row["port"]),
        tuple(_words(row["ranges"])),
        row.get("prefers", ""),
        row.get("affinity") == "ClientIP",
        tuple(_words(row.get("families", ""))) or tuple(FAMILIES),
    )


def _cases(section: Row, row: Row, backend: str, services: Mapping[str, ServiceRow]) -> Iterator[Case]:
    dimensions = (
        _words(section["stands"]),
        _words(row["clients"]),
        _words(row["addresses"]),
        _words(row["service"]) or [""],
        _words(section["protocols"]),
        _words(section["families"]),
    )
    for stand, client, address, service, protocol, family in itertools.product(*dimensions):
        if service and service not in services:
            raise LabError(f"the table has no Service {service}")
        name, _, size = protocol.partition("/")
        if name not in PROTOCOLS:
            raise LabError(f"the table has an unknown protocol {name}")
        answer = row["answer"] if backend == "ipvs" else row[backend] or row["answer"]
        if answer == "endpoint":
            answer = " ".join(services[service].endpoints)
        elif answer == "target":
            answer = address.partition(":")[0]
        yield Case(
            stand,
            section["name"],
            client,
            address,
            service,
            name,  # type: ignore[arg-type]
            int(size or 0),
            FAMILIES[family],
            answer,
            row["seen"],
            row["upstream"].replace("PROTO", _UPSTREAM_WORD[name]),
        )


def covering(cases: Sequence[Case], whole: Collection[str]) -> tuple[Case, ...]:
    """Fewer cases, in which all that one client asks of one address of one Service is still asked, and any two words of
    a section still meet. Only protocols and families, which multiply every question, take turns: a question is asked
    by two that have neither in common. whole: stands that keep all."""
    questions: dict[tuple[str, ...], list[Case]] = {}
    for case in cases:
        questions.setdefault((case.stand, case.section, case.client, case.address, case.service), []).append(case)
    kept = {case for case in cases if case.stand in whole}
    turns: Counter[tuple[str, ...]] = Counter()
    for question, same in questions.items():
        turn = turns[question[:2]]
        turns[question[:2]] += 1
        first = same[turn % len(same)]
        unlike = [case for case in same if case.version != first.version and case.payload != first.payload]
        kept.add(first)
        kept.update(unlike[turn // len(same) % len(unlike) :][:1] if unlike else same)
    met = {pair for case in kept for pair in _pairs(case)}
    for case in cases:
        if not met.issuperset(pairs := _pairs(case)):
            kept.add(case)
            met.update(pairs)
    return tuple(case for case in cases if case in kept)


def _pairs(case: Case) -> list[tuple[object, ...]]:
    words = (case.client, case.address, case.service, case.payload, case.version)
    return [(case.stand, case.section, *pair) for pair in itertools.combinations(enumerate(words), 2)]


def _words(cell: str) -> list[str]:
    return [word.strip() for word in cell.split(",") if word.strip()]


def chosen(cases: Iterable[Case], only: str, stands: Iterable[str]) -> list[Case]:
    """only: a part of the id, or a pattern with * in it."""
    pattern = only if "*" in only else f"*{only}*"
    wanted = set(stands)
    return [case for case in cases if fnmatch.fnmatchcase(case.id, pattern) and (not wanted or case.stand in wanted)]
