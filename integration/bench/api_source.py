"""`python -m integration.bench.api_source KUBECONFIG`: CPU and wall seconds until everything is decoded, once.

Imports and credentials come before that; threads of the source count.
"""

from __future__ import annotations

import sys
import threading
import time

import kubernetes.client  # noqa: F401

from ipvsagent.cluster.objects import Changes
from ipvsagent.config import Config
from ipvsagent.sources.inbox import Inbox
from ipvsagent.sources.kubernetes import api_source


def main(kubeconfig: str) -> None:
    inbox, stop = Inbox(), threading.Event()
    source = api_source(Config(kubeconfig=kubeconfig))
    cpu, began = time.process_time(), time.perf_counter()
    threading.Thread(target=source.run, args=(inbox, stop), daemon=True).start()
    while not any(isinstance(message, Changes) and message.synced for message in inbox.take(1.0)):
        pass
    print(time.process_time() - cpu, time.perf_counter() - began)
    stop.set()


if __name__ == "__main__":
    main(sys.argv[1])
