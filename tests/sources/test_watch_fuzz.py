"""Whatever a server does, what is known in the end is what it holds, and it is not asked more often than a healthy
back-off allows. The server is a few lines with real list and watch semantics and every fault that a script can name;
time is the test's own."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from ipvsagent.api.resources import Request
from ipvsagent.api.response import TransportError
from ipvsagent.cluster.mirror import Mirror
from ipvsagent.cluster.objects import ObjectKey
from ipvsagent.cluster.watch_events import Deleted, Put
from ipvsagent.sources.follow import Follower
from ipvsagent.sources.watch import Listed, Output, Reflector
from tests.support.api_documents import Document, bookmark, line, page, service, status
from tests.support.clock import Clock

NAMES = "abcde"
FAULTS = [
    *("refuse-401", "refuse-403", "refuse-410", "refuse-429", "refuse-500", "refuse-422", "no-connection"),
    *("cut", "cut-in-line", "end", "garbage", "error-410", "error-500", "broken-object", "duplicate", "no-bookmarks"),
    *("silence", "html", "unknown-event", "nameless"),
]


class Server:
    """Objects, and the log of what happened to them. `compacted`: older versions are gone."""

    def __init__(self) -> None:
        self.version = 1
        self.objects: dict[str, Document] = {}
        self.log: list[tuple[int, bytes]] = []
        self.compacted = 0
        self.write("kept", 80)

    def write(self, name: str, port: int | None) -> None:
        """port: None deletes."""
        if port is None and name not in self.objects:
            return
        self.version += 1
        kind = "DELETED" if port is None else "MODIFIED" if name in self.objects else "ADDED"
        if port is None:
            document = {**self.objects.pop(name)}
        else:
            document = self.objects[name] = service(name, self.version, ports=[{"port": port}])
        document["metadata"] = {**document["metadata"], "resourceVersion": str(self.version)}
        self.log.append((self.version, line(kind, document)))


class Transport:
    """Answers as a script says, then well. Between answers, and while it streams, the test's writes happen."""

    def __init__(self, server: Server, faults: list[str], writes: list, clock: Clock) -> None:
        self.server = server
        self.faults = faults
        self.writes = writes
        self.clock = clock
        self.asked: list[float] = []
        self.settled = False

    def get(self, request: Request) -> Answer:
        self.asked.append(self.clock.now)
        fault = self.faults.pop(0) if self.faults else ""
        self.write()
        if fault == "no-connection":
            raise TransportError("connection refused")
        if fault.startswith("refuse-"):
            code = int(fault[7:])
            return Answer(code, [json.dumps(status(code, "Refused")).encode()], 3.0 if code == 429 else None)
        query = dict(request.query)
        if fault == "html":
            return Answer(200, [b"<html>\n<body>\n"])
        if "watch" not in query:
            return self.list_(query)
        return Answer(200, self.watch(query, fault))

    def renew(self) -> bool:
        return False

    def interrupt(self, thread: int) -> bool:
        return False

    def write(self) -> None:
        if self.writes:
            name, port, compact = self.writes.pop(0)
            self.server.write(name, port)
            if compact:
                self.server.compacted = self.server.version

    def list_(self, query: dict[str, str]) -> Answer:
        start = int(query.get("continue", "0-0").split("-")[0])
        pinned = query.get("continue", f"0-{self.server.version}").split("-")[1]
        if "continue" in query and int(pinned) < self.server.version:
            return Answer(410, [json.dumps(status(410, "Expired")).encode()])
        documents = [self.server.objects[name] for name in sorted(self.server.objects)]
        if "limit" not in query or len(documents) <= start + 2:
            return Answer(200, [page(*documents[start:], version=pinned)])
        return Answer(200, [page(*documents[start : start + 2], version=pinned, more=f"{start + 2}-{pinned}")])

    def watch(self, query: dict[str, str], fault: str) -> Iterator[bytes]:
        server = self.server
        seen = int(query.get("resourceVersion") or 0)
        if "sendInitialEvents" in query:
            seen = server.version
            documents = list(server.objects.values())
            for index, document in enumerate(documents):
                if fault and index == len(documents) // 2:
                    yield from self.misbehave(fault)
                yield line("ADDED", document)
            yield bookmark(seen, end=True)
        elif seen < server.compacted:
            yield line("ERROR", status(410, "Expired", "too old resource version"))
            return
        if fault:
            yield from self.misbehave(fault)
        while True:
            for version, text in [each for each in server.log if each[0] > seen]:
                seen = version
                yield text
            if self.writes:
                self.clock.now += 1.0
                self.write()
                continue
            if self.faults:
                self.clock.now += 0.5
                raise TransportError("reset by peer")
            if fault != "no-bookmarks":
                yield bookmark(server.version)
            self.settled = True
            return

    def misbehave(self, fault: str) -> Iterator[bytes]:
        if fault == "cut":
            raise TransportError("reset by peer")
        if fault == "cut-in-line":
            yield b'{"type":"ADDED","object":{"metad'
            raise TransportError("reset by peer")
        if fault == "silence":
            self.clock.now += 700
            raise TransportError("timed out")
        if fault == "end":
            raise GeneratorExit
        if fault.startswith("error-"):
            yield line("ERROR", status(int(fault[6:]), "Refused"))
        if fault == "garbage":
            yield b'{"type":"ADDED",}\n'
        if fault == "nameless":
            yield line("ADDED", {"metadata": {"resourceVersion": "3"}, "spec": {}})
        if fault == "unknown-event":
            yield line("CONFETTI", service("a", 1))
        if fault in ("broken-object", "duplicate") and self.server.log:
            _, text = self.server.log[-1]
            if fault == "broken-object":
                yield text.replace(b'"port": ', b'"port": -')
            yield text


class Answer:
    def __init__(self, status: int, body, retry_after: float | None = None) -> None:
        self.status = status
        self.retry_after = retry_after
        self._body = body

    def pieces(self) -> Iterator[bytes]:
        try:
            for text in self._body:
                # Cut anywhere: what arrives is no line.
                for start in range(0, len(text), 90):
                    yield text[start : start + 90]
        except GeneratorExit:
            return

    def shutdown(self) -> None: ...

    def close(self) -> None: ...


WRITES = st.lists(st.tuples(st.sampled_from(NAMES), st.none() | st.integers(1, 9), st.booleans()), max_size=12)


@given(st.lists(st.sampled_from(FAULTS), max_size=12), WRITES, st.integers(0, 1000))
@settings(max_examples=200)
def test_any_behaviour_ends_in_what_the_server_holds(faults, writes, seed):
    random.seed(seed)
    clock, server, mirror = Clock(), Server(), Mirror()
    transport = Transport(server, list(faults), list(writes), clock)
    known: dict[ObjectKey, object] = {}

    def deliver(outputs: list[Output]) -> None:
        for output in outputs:
            if isinstance(output, Listed):
                mirror.replace("Service", output.objects)
            elif isinstance(output, Put):
                mirror.put(output.decoded)
            elif isinstance(output, Deleted):
                mirror.delete(output.key)
        changes = mirror.take().changes
        for item in changes.upserts:
            assert known.get(item.key) != item, "only differences are said"
            known[item.key] = item
        for key in changes.removals:
            del known[key]

    Follower(
        Reflector("Service"),
        transport,
        deliver,
        stopped=lambda: transport.settled,
        sleep=clock.sleep,
        clock=clock,
        chance=lambda: 0.5,
    ).run()
    assert {key.name: item.ports[0].port for key, item in known.items()} == {
        name: document["spec"]["ports"][0]["port"] for name, document in server.objects.items()
    }
    # Each fault costs a request, and may cost a list in pages (3 at most) and a watch.
    assert len(transport.asked) <= 5 * (len(faults) + len(writes) + 1)
    for begin in range(len(transport.asked) - 12):
        assert transport.asked[begin + 12] - transport.asked[begin] > 0.4, "a dozen requests without a pause"


@given(st.sampled_from([f for f in FAULTS if f not in ("no-bookmarks", "duplicate", "broken-object", "unknown-event")]))
@settings(max_examples=60)
def test_a_fault_that_stays_is_met_with_patience(fault):
    """An hour of the same misbehaviour: no more than a request every few seconds, in the mean."""
    random.seed(1)
    clock, server = Clock(), Server()
    transport = Transport(server, [fault] * 100_000, [], clock)
    end = clock.now + 3600
    Follower(
        Reflector("Service"),
        transport,
        lambda outputs: None,
        stopped=lambda: clock.now > end,
        sleep=clock.sleep,
        clock=clock,
        chance=lambda: 0.5,
    ).run()
    assert len(transport.asked) < 3600 / 4
