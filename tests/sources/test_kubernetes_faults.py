"""The API as a source while an API server with real semantics fails at random: when it is well again, the source has
what a source that begins then has, and it never asked in a hurry."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.apiserver import (
    Access,
    ApiServer,
    Break,
    Duplicate,
    ErrorEvent,
    Fault,
    Garbage,
    NoBookmarks,
    NoWatchList,
    Refuse,
    Slow,
)
from ipvsagent.cluster.objects import Changes, Object, ObjectKey
from ipvsagent.config import Config
from ipvsagent.sources import follow, watch
from ipvsagent.sources.inbox import Inbox
from ipvsagent.sources.kubernetes import api_source
from tests.support.api_documents import endpoint_slice, node, service
from tests.support.api_server import api_server

PLURALS = ("services", "endpointslices", "nodes")


@pytest.fixture
def server() -> Iterator[ApiServer]:
    access = Access({"secret": "system:node:node-1"}, required=True)
    with api_server(access=access, bookmark_interval=0.2) as server:
        server.store.fresh_within = 0.2
        yield server


@pytest.fixture
def kubeconfig(server: ApiServer, tmp_path: Path) -> Path:
    for number in range(5):
        change(server, random.Random(number), deletes=False)
    server.put(full("Node", "v1", node()))
    return server.write_kubeconfig(tmp_path / "kubeconfig")


class Following:
    """A source that runs; `objects` is what it said."""

    def __init__(self, kubeconfig: Path) -> None:
        self.objects: dict[ObjectKey, Object] = {}
        self.synced = False
        self.errors: list[object] = []
        self._inbox, self._stop = Inbox(), threading.Event()
        source = api_source(Config(kubeconfig=str(kubeconfig)))
        self._thread = threading.Thread(target=source.run, args=(self._inbox, self._stop), daemon=True)
        self._thread.start()

    def hear(self, seconds: float) -> None:
        for message in self._inbox.take(seconds):
            if isinstance(message, Changes):
                self.synced = message.synced
                self.objects |= {item.key: item for item in message.upserts}
                for key in message.removals:
                    del self.objects[key]
            elif isinstance(message, Exception):
                self.errors.append(message)

    def until(self, condition: Callable[[], bool], patience: float) -> bool:
        deadline = time.monotonic() + patience
        while not condition() and time.monotonic() < deadline:
            self.hear(0.05)
        return condition()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def following(kubeconfig: Path) -> Iterator[Following]:
    made = Following(kubeconfig)
    yield made
    made.close()


def full(kind: str, api_version: str, thing: dict[str, Any]) -> dict[str, Any]:
    return {**thing, "kind": kind, "apiVersion": api_version}


def change(server: ApiServer, chance: random.Random, *, deletes: bool = True) -> None:
    number = chance.randrange(8)
    name = f"web-{number}"
    kind = chance.choice(("Service", "EndpointSlice"))
    if deletes and chance.random() < 0.3:
        try:
            server.remove(kind, "shop", name)
        except KeyError:
            return
    elif kind == "Service":
        server.put(full(kind, "v1", service(name, address=f"10.96.{number}.{chance.randrange(1, 250)}")))
    else:
        addresses = tuple(f"10.1.{number}.{chance.randrange(1, 250)}" for _ in range(chance.randrange(1, 4)))
        piece = endpoint_slice(addresses=addresses)
        piece["metadata"]["name"] = name
        server.put(full(kind, "discovery.k8s.io/v1", piece))


def mishap(chance: random.Random) -> Fault:
    verb, resource = chance.choice(("watch", "list", "*")), chance.choice((*PLURALS, "*"))
    after = chance.choice((None, 0, 1, 3))
    where: dict[str, Any] = {"verb": verb, "resource": resource, "times": chance.randrange(1, 3)}
    return chance.choice(
        [
            Refuse(code=chance.choice((403, 410, 429, 500, 503)), **where),
            Break(how=chance.choice(("reset", "close", "cut-chunk", "end")), after_events=after, **where),
            Slow(bytes=200, seconds=0.005, **where),
            Garbage(after_events=after or 0, **where),
            ErrorEvent(code=chance.choice((410, 500)), after_events=after or 0, **where),
            Duplicate(**where),
            NoBookmarks(**where),
            NoWatchList(how=chance.choice(("refused", "ignored")), **where),
        ]
    )


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_it_comes_to_the_truth(
    seed: int, server: ApiServer, following: Following, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "_backoff", lambda state: 0.05)
    chance = random.Random(seed)
    happened: list[object] = []
    for _ in range(25):
        change(server, chance)
        match chance.randrange(8):
            case 0:
                happened.append("restart, history lost")
                server.restart(history="lost")
            case 1:
                happened.append("compacted")
                server.store.compact()
            case 2:
                happened.append("disconnected")
                server.disconnect()
            case 3 | 4 | 5:
                fault = mishap(chance)
                happened.append(fault)
                server.faults.add(fault)
        following.hear(0.05)
    server.faults.clear()
    server.disconnect()
    change(server, chance)
    changes, _ = api_source(Config(kubeconfig=str(kubeconfig))).load_once()
    truth = {item.key: item for item in changes.upserts}
    assert following.until(lambda: following.synced and following.objects == truth, 15.0), (happened, truth)
    assert following.errors == []


@pytest.mark.parametrize(
    "fault",
    [
        Refuse(code=401, times=None),
        Refuse(code=403, times=None),
        Refuse(code=500, times=None),
        Break(how="reset", times=None),
        Break(how="end", after_events=0, times=None),
        ErrorEvent(times=None),
        Garbage(times=None),
    ],
    ids=lambda fault: f"{type(fault).__name__} {getattr(fault, 'code', getattr(fault, 'how', ''))}".rstrip(),
)
def test_it_asks_without_haste(fault: Fault, server: ApiServer, following: Following) -> None:
    assert following.until(lambda: following.synced and server.watching == len(PLURALS), 10.0)
    before, known = len(server.requests), dict(following.objects)
    server.faults.add(fault)
    server.disconnect()
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        following.hear(0.05)
    # With pauses of 0.2 s and more there are at most eight, and a kind may ask twice at once: for the list that takes
    # the place of the stream, and for the watch after it.
    assert len(server.requests) - before <= 10 * len(PLURALS)
    assert following.objects == known


def test_a_counter_that_went_backwards(
    server: ApiServer, following: Following, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a restore of etcd. A watch from a version that never was would stay silent for ever. It is two to four
    minutes until that is noticed; here a second."""
    monkeypatch.setattr(watch, "AFTER_A_CUT", (1, 1))
    monkeypatch.setattr(watch, "QUIET", 0.5)
    backup = server.store.snapshot()
    for number in range(20):
        change(server, random.Random(100 + number))
    assert following.until(lambda: following.synced and server.watching == len(PLURALS), 10.0)
    server.stop()
    server.store.restore(backup)
    server.start()
    changes, _ = api_source(Config(kubeconfig=str(kubeconfig))).load_once()
    truth = {item.key: item for item in changes.upserts}
    assert following.until(lambda: following.objects == truth, 10.0)
