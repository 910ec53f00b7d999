"""Names that are no UTF-8 stop no answer of the agent."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

from ipvsagent.cluster.objects import Changes
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.kernel.fake.kernel import FakeKernel
from ipvsagent.monitoring.server import _as_text
from ipvsagent.printable import printable, to_json
from ipvsagent.sources.inbox import Findings
from ipvsagent.status import socket as status_socket
from tests.support.history import A
from tests.support.interrupted import Calls
from tests.support.looped import Looped

FILE = os.fsdecode(b"/etc/caf\xe9\xff.yaml")
FINDING = Finding(FindingKind.INVALID_OBJECT, "Service shop/cart", "is nonsense", file=FILE)


def test_each_byte_that_is_no_utf_8_is_one_character() -> None:
    assert printable(FILE) == "/etc/caf\ufffd\ufffd.yaml"
    assert printable({FILE: [1, None, "é", (FILE,)]}) == {printable(FILE): [1, None, "é", [printable(FILE)]]}
    assert json.loads(to_json([FINDING]))[0]["file"] == printable(FILE)
    assert json.loads(to_json(["é"])) == ["é"]
    assert _as_text(Path(FILE)) == printable(FILE)


def test_the_status_socket_answers(tmp_path: Path) -> None:
    looped = Looped(FakeKernel(), tmp_path, Calls())
    looped.run(1.0, Changes(upserts=(A,), synced=True), Findings("manifests", (FINDING,)))
    stop = threading.Event()
    path = tmp_path / "sock"
    thread = status_socket.serve(path, looped.inbox, stop)
    answers: list[object] = []
    asking = threading.Thread(target=lambda: answers.append(status_socket.ask(path)))
    asking.start()
    end = time.monotonic() + 20
    while asking.is_alive() and time.monotonic() < end:
        looped.run(0.0)
        time.sleep(0.01)
    stop.set()
    asking.join(1)
    assert thread.is_alive(), "it did not fail"
    (snapshot,) = answers
    assert printable(FILE) in {finding.file for finding in snapshot.findings}  # type: ignore[attr-defined]
